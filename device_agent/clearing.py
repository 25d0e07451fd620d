"""Bounds what a killed process, given-up downloads and copies of local changes leave on the disk.

What an update itself works with is cleared by `ReleaseStore.sweep`; here is what nobody else would ever remove.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from device_agent.durability import disk_errors
from device_agent.layout import DeviceFolders
from schemas.layout import METADATA

DOWNLOADS: Final = "downloads"
DOWNLOAD_AGE: Final = timedelta(days=7)
"""A partial download that nothing has gone on with for so long is not worth its room."""
MAX_DOWNLOADS_BYTES: Final = 256 * 1024 * 1024
"""All partial downloads together, while no update wants them; the newest stay."""
KEPT_AGE: Final = timedelta(days=365)
MAX_KEPT: Final = 10
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Copies of local changes, a package. The newest copy stays however old or large it is."""

_STAMP: Final = "%Y%m%dT%H%M%SZ"


def unfinished_files(folders: DeviceFolders) -> Iterator[Path]:
    """Temporary files that become something by a rename: of the TUF client, of links, of small files.

    Only to be asked for while nothing of this agent writes.
    """
    root = folders.root
    yield from (root / METADATA).glob("tmp*")
    for folder in (root, root / METADATA, *folders.packages.glob("*")):
        yield from folder.glob(".*.new")
    yield from (root / "run").glob(".*.tmp")


def clear_unfinished(folders: DeviceFolders) -> None:
    """Remove what a process that was killed had not finished. Raises `DeviceError` `disk.io`."""
    with disk_errors("remove unfinished files"):
        for path in unfinished_files(folders):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)


def bound_downloads(root: Path, now: datetime) -> None:
    """While no update is unfinished: drop what cannot be gone on with, what is old, and what is too much.

    Raises:
        DeviceError: `disk.io`.
    """
    with disk_errors("bound the partial downloads"):
        found = [(path, path.lstat()) for path in _children(root / DOWNLOADS)]
        found.sort(key=lambda one: one[1].st_mtime, reverse=True)
        total = 0
        for path, looks in found:
            total += looks.st_size
            old = now.timestamp() - looks.st_mtime > DOWNLOAD_AGE.total_seconds()
            if path.is_dir() and not path.is_symlink():
                continue
            if old or total > MAX_DOWNLOADS_BYTES or not path.name.endswith(".part"):
                path.unlink(missing_ok=True)


def kept_too_long(kept: Path, now: datetime) -> list[Path]:
    """Copies of local changes of one package that are to go, the newest never among them. Raises `OSError`."""
    copies = sorted(_children(kept), key=lambda path: (_made_at(path), path.name), reverse=True)
    total, gone = 0, []
    for number, copy in enumerate(copies):
        total += _size(copy)
        if number and (number >= MAX_KEPT or total > MAX_KEPT_BYTES or now - _made_at(copy) > KEPT_AGE):
            gone.append(copy)
    return gone


def _made_at(copy: Path) -> datetime:
    # the name says it: copied files keep their own times
    with contextlib.suppress(ValueError):
        return datetime.strptime(copy.name.rpartition("-")[2], _STAMP).replace(tzinfo=UTC)
    return datetime.fromtimestamp(copy.lstat().st_mtime, UTC)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in (folder, *folder.rglob("*")))


def _children(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(folder)] if folder.is_dir() else []
