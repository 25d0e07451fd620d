"""Finds installed files that were changed on the device, by their looks first and by their hash then."""

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from device_agent.durability import disk_errors
from device_agent.interruption import check_interrupted
from device_agent.layout import FIXED_MTIME, installed_mode
from device_agent.objects import has_signature, sha256_of
from device_agent.trees import in_state
from schemas.manifest import Manifest


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """What a template gave when the release was staged."""

    size: int
    sha256: str
    mode: int


class Change(NamedTuple):
    """One path of a release that is not as it was installed."""

    path: str
    what: str
    """`changed`, `mode`, `missing`, `replaced` (by another kind of file) or `link`."""


def find_changes(folder: Path, manifest: Manifest, rendered: Mapping[str, Rendered]) -> list[Change]:
    """Every installed file and link that is not as installed. Files that were added do not count.

    Cheap where nothing was changed: one `lstat` a file. State is never looked at: it is meant to change.

    Args:
        folder: the release's tree.
        manifest: the release's.
        rendered: what its templates gave, by target.

    Raises:
        DeviceError: `disk.io`.
    """
    found: list[Change] = []
    with disk_errors(f"look for changes in {folder}"):
        for entry in manifest.files:
            check_interrupted()
            if not in_state(manifest, entry.path):
                what = _file_change(folder / entry.path, entry.size, installed_mode(entry.mode), entry.sha256)
                found += [Change(entry.path, what)] if what else []
        for target, result in rendered.items():
            what = _file_change(folder / target, result.size, result.mode, result.sha256)
            found += [Change(target, what)] if what else []
        for link in manifest.links:
            what = _link_change(folder / link.path, link.target)
            found += [Change(link.path, what)] if what else []
    return sorted(found)


def keep_copies(folder: Path, changes: Sequence[Change], destination: Path) -> list[str]:
    """Copy what was changed below `destination`; gives the copied paths (a missing file has no copy).

    Raises:
        DeviceError: `disk.full` or `disk.io`.
    """
    kept: list[str] = []
    with disk_errors(f"keep changed files in {destination}"):
        for change in changes:
            source = folder / change.path
            if not (source.is_symlink() or source.is_file()):
                continue
            copy = destination / change.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
            kept.append(change.path)
    return kept


def describe(changes: Sequence[Change], limit: int = 5) -> str:
    """The first few changes in one line."""
    named = ", ".join(f"{change.path} ({change.what})" for change in changes[:limit])
    return named if len(changes) <= limit else f"{named} and {len(changes) - limit} more"


def _file_change(path: Path, size: int, mode: int, sha256: str) -> str:
    found = _lstat(path)
    if found is None:
        return "missing"
    if not stat.S_ISREG(found.st_mode):
        return "replaced"
    if has_signature(found, size=size, mode=mode):
        return ""
    if found.st_size != size or sha256_of(path) != sha256:
        # nobody has written it since it was sealed: a disk did that, see `damage`
        return "" if found.st_mtime_ns == FIXED_MTIME * 1_000_000_000 else "changed"
    return "" if stat.S_IMODE(found.st_mode) == mode else "mode"


def _link_change(path: Path, target: str) -> str:
    found = _lstat(path)
    if found is None:
        return "missing"
    if not stat.S_ISLNK(found.st_mode):
        return "replaced"
    return "" if str(path.readlink()) == target else "link"


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
