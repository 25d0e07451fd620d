"""Tells what a power cut did to an installed file from what somebody at the device did.

A file whose content is not what the manifest says is *damaged* where nobody can have written it since it was
installed: its time is still the one that sealing gave it, or it is older than the installation and the content is
what file systems leave after a cut (nothing at all, or blocks of zeros). Any other difference is a local change,
for which `policy.local_changes` decides. A file that is missing or has become something else is a local change too.
"""

import os
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from device_agent.durability import disk_errors
from device_agent.layout import FIXED_MTIME
from device_agent.local_changes import Rendered
from device_agent.objects import sha256_of
from device_agent.trees import in_state
from schemas.manifest import Manifest

MAX_BYTES_AT_START: Final = 64 * 1024 * 1024
"""Read at most before services are started, newest files first: a second or two from an SD card."""
_BLOCK: Final = 4096
_SEALED_NS: Final = FIXED_MTIME * 1_000_000_000


class Installed(NamedTuple):
    """One installed file: its path in the release and what it has to be."""

    path: str
    size: int
    sha256: str


class Examined(NamedTuple):
    """What was found: damaged files, and how many files were left out because there were too many bytes."""

    damaged: list[Installed]
    left: int


def installed_files(manifest: Manifest, rendered: Mapping[str, Rendered]) -> list[Installed]:
    """Every file of a release's tree, templates' results included."""
    packed = [Installed(e.path, e.size, e.sha256) for e in manifest.files if not in_state(manifest, e.path)]
    return [*packed, *(Installed(path, r.size, r.sha256) for path, r in rendered.items())]


def examine(
    folder: Path,
    manifest: Manifest,
    rendered: Mapping[str, Rendered],
    *,
    installed_at: datetime,
    max_bytes: int | None = None,
) -> Examined:
    """Find the damaged files of a release by their hashes, those first that were written last.

    Args:
        folder: the release's tree.
        max_bytes: most that is read; None for everything.

    Raises:
        DeviceError: `disk.io`.
    """
    damaged: list[Installed] = []
    left, budget = 0, max_bytes
    with disk_errors(f"look for damage in {folder}"):
        found = [(looks, file) for file in installed_files(manifest, rendered) if (looks := _looks(folder / file.path))]
        for looks, file in sorted(found, key=lambda one: one[0].st_ctime_ns, reverse=True):
            if looks.st_size == file.size:  # any other size shows without reading
                if budget is not None and looks.st_size > budget:
                    left += 1
                    continue
                budget = None if budget is None else budget - looks.st_size
            if is_damaged(folder / file.path, looks, file, installed_at):
                damaged.append(file)
    return Examined(sorted(damaged), left)


def is_damaged(path: Path, looks: os.stat_result, file: Installed, installed_at: datetime) -> bool:
    """Whether a file is not what was installed although nobody has written it since. Raises `OSError`."""
    sealed = looks.st_mtime_ns == _SEALED_NS
    if not sealed and looks.st_mtime > installed_at.timestamp():
        return False
    if looks.st_size == file.size and sha256_of(path) == file.sha256:
        return False
    return sealed or _looks_torn(path, looks.st_size)


def _looks(path: Path) -> os.stat_result | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _looks_torn(path: Path, size: int) -> bool:
    """Empty, or with a whole block (or a last part of one) of zeros."""
    if not size:
        return True
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if not block.strip(b"\0"):
                return True
    return False
