"""The link from a package's install path (e.g. `/opt/tacho`) to its current release."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from device_agent.durability import disk_errors, remove_link, replace_link
from device_agent.faults import disk_fault
from device_agent.layout import DeviceFolders
from schemas.errors import DeviceError, one_line
from schemas.manifest import Manifest

_DISK_TROUBLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Any other refusal is about the place, e.g. one below which this account may not write."""


class InstallPaths:
    """Makes and removes install path links, and never touches anything that is not one of them. Blocks."""

    def __init__(self, folders: DeviceFolders, *, enabled: bool, overrides: Mapping[str, Path]) -> None:
        """
        Args:
            enabled: whether links are made at all.
            overrides: package to the path to use instead of its own.
        """
        self._folders = folders
        self._enabled = enabled
        self._overrides = overrides

    def path(self, manifest: Manifest | None) -> Path | None:
        """Where a release's link belongs; None for none."""
        if manifest is None or not self._enabled:
            return None
        override = self._overrides.get(manifest.package)
        if override is not None:
            return override
        return Path(manifest.install_path) if manifest.install_path else None

    def check(self, manifest: Manifest) -> None:
        """Raise `DeviceError` `conflict.install_path` where something else is there already."""
        path = self.path(manifest)
        if path is not None and os.path.lexists(path) and not self._is_ours(path, manifest.package):
            raise DeviceError(
                "conflict.install_path",
                f"{path} exists and is not {manifest.package}'s link; move it away, or set policy.install_paths",
            )

    def place(self, manifest: Manifest) -> None:
        """Make the link.

        Raises:
            DeviceError: `conflict.install_path`, also where this account may not write there; `disk.full`, `disk.io`.
        """
        self.check(manifest)
        path = self.path(manifest)
        if path is None or self._is_ours(path, manifest.package):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_link(path, str(self._folders.package(manifest.package).current))
        except OSError as error:
            if error.errno in _DISK_TROUBLE:
                raise disk_fault(error, f"link {path}") from error
            raise DeviceError(
                "conflict.install_path",
                f"cannot link {path}: {one_line(error.strerror)}; set policy.link_install_path or policy.install_paths",
            ) from error

    def remove(self, manifest: Manifest | None, unless: Manifest | None = None) -> None:
        """Remove a release's link, unless it is also the link of another one. What is not our link stays."""
        path = self.path(manifest)
        if manifest is None or path is None or path == self.path(unless) or not self._is_ours(path, manifest.package):
            return
        with disk_errors(f"remove the link {path}"):
            remove_link(path)

    def _is_ours(self, path: Path, package: str) -> bool:
        return path.is_symlink() and path.readlink() == self._folders.package(package).current
