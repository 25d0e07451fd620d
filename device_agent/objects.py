"""The object store: each distinct content once, read-only, hard-linked into every release that has it.

A content is *sealed* once it has been flushed: its time is `FIXED_MTIME` then. A sealed file whose size and
mode are right is believed; any other is read and hashed before it is used. So neither a power cut in mid-write
nor a careless edit (which changes the time) can get a wrong content into a release.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from device_agent.durability import disk_errors
from device_agent.interruption import check_interrupted
from device_agent.layout import FIXED_MTIME, DeviceFolders, installed_mode
from device_agent.seams import WantedObject
from schemas.manifest import FileEntry, Manifest

_PIECE: Final = 1024 * 1024


class ObjectStore:
    """Contents below `objects/`. All methods block and raise `DeviceError` `disk.full` or `disk.io`."""

    def __init__(self, folders: DeviceFolders) -> None:
        self._folders = folders

    def path(self, entry: FileEntry) -> Path:
        """The file that a release's entry is linked from."""
        return self._folders.object(entry.sha256, installed_mode(entry.mode))

    def missing(self, manifest: Manifest) -> list[WantedObject]:
        """What has to be fetched for a release; what turns out to be damaged is dropped on the way."""
        wanted: list[WantedObject] = []
        with disk_errors(f"look for the contents of {manifest.package} {manifest.version}"):
            for variants in _variants(manifest):
                check_interrupted()
                whole = [entry for entry in variants if self._is_whole(entry)]
                if not whole:
                    first = variants[0]
                    wanted.append(WantedObject(sha256=first.sha256, size=first.size, destination=self.path(first)))
            for folder in {want.destination.parent for want in wanted}:
                folder.mkdir(parents=True, exist_ok=True)
        return wanted

    def complete(self, manifest: Manifest) -> None:
        """After fetching: give each content its mode, and a file of its own for each further mode."""
        with disk_errors(f"store the contents of {manifest.package} {manifest.version}"):
            for variants in _variants(manifest):
                check_interrupted()
                there = next(entry for entry in variants if entry is variants[-1] or self.path(entry).exists())
                for entry in variants:
                    path = self.path(entry)
                    if not path.exists():
                        _copy(self.path(there), path)
                    if not _is_sealed(path.lstat(), entry):
                        path.chmod(installed_mode(entry.mode))

    def seal(self, manifest: Manifest) -> None:
        """After flushing: these contents are believed from now on."""
        with disk_errors(f"seal the contents of {manifest.package} {manifest.version}"):
            for variants in _variants(manifest):
                for entry in variants:
                    path = self.path(entry)
                    if not _is_sealed(path.lstat(), entry):
                        os.utime(path, (FIXED_MTIME, FIXED_MTIME))

    def drop(self, entries: Iterable[FileEntry]) -> None:
        """Remove these contents where they are not what their names say, however they look."""
        with disk_errors("remove damaged contents"):
            for path in {self.path(entry) for entry in entries}:
                if path.exists() and sha256_of(path) != path.name.partition(".")[0]:
                    path.unlink()

    def collect(self, keep: Iterable[Manifest]) -> int:
        """Remove what no release links, except what `keep` has; gives the bytes that became free.

        Args:
            keep: releases whose contents stay though nothing links them: what state begins with, what was
                fetched for a tree that is not there yet.
        """
        freed = 0
        kept = {self.path(entry) for manifest in keep for entry in manifest.files}
        with disk_errors("remove contents that no release needs"):
            for path in self._all():
                check_interrupted()
                found = path.lstat()
                if found.st_nlink == 1 and path not in kept:
                    path.unlink()
                    freed += found.st_size
        return freed

    def _all(self) -> Iterator[Path]:
        if self._folders.objects.is_dir():
            yield from self._folders.objects.glob("??/*")

    def _is_whole(self, entry: FileEntry) -> bool:
        path = self.path(entry)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if _is_sealed(found, entry):
            return True
        if stat.S_ISREG(found.st_mode) and found.st_size == entry.size and sha256_of(path) == entry.sha256:
            return True
        path.unlink()
        return False


def has_signature(found: os.stat_result, *, size: int, mode: int) -> bool:
    """Whether a file's looks are those of a sealed content of `size` bytes with `mode`."""
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == size
        and stat.S_IMODE(found.st_mode) == mode
        and found.st_mtime_ns == FIXED_MTIME * 1_000_000_000
    )


def sha256_of(path: Path) -> str:
    """The hash of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            check_interrupted()
            digest.update(piece)
    return digest.hexdigest()


def _is_sealed(found: os.stat_result, entry: FileEntry) -> bool:
    return has_signature(found, size=entry.size, mode=installed_mode(entry.mode))


def _variants(manifest: Manifest) -> list[list[FileEntry]]:
    """One list for each distinct content: an entry for each mode that it has in the release."""
    contents: dict[str, dict[int, FileEntry]] = {}
    for entry in manifest.files:
        contents.setdefault(entry.sha256, {}).setdefault(installed_mode(entry.mode), entry)
    return [list(modes.values()) for modes in contents.values()]


def _copy(source: Path, destination: Path) -> None:
    temporary = destination.with_name(f".{destination.name}.new")
    temporary.unlink(missing_ok=True)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, temporary.open("wb") as new:
        while piece := old.read(_PIECE):
            check_interrupted()
            new.write(piece)
    temporary.replace(destination)
