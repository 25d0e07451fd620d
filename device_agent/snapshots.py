"""Copies of a package's state: made while its services stand still, put back by a rollback, removed after success.

Files are copied and never hard-linked: an application may write into a file in place, and a link would be the
same file. Where the file system can share blocks between files (Btrfs, XFS), copies cost next to nothing.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from device_agent.durability import Space, disk_errors, flush_folder
from device_agent.interruption import check_interrupted
from device_agent.layout import PackageFolders
from device_agent.store import ReleaseStore
from schemas.errors import DeviceError

SLACK_BYTES: Final = 16 * 1024 * 1024
"""Room that a snapshot leaves free."""
SLACK_INODES: Final = 64
MAX_ENTRIES: Final = 1_000_000
"""Most files, folders and links that a snapshot may have."""

_FICLONE: Final = 0x40049409
"""`ioctl` number of Linux (linux/fs.h): make a file share another one's blocks."""
_PIECE: Final = 8 * 1024 * 1024
_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ATTRIBUTE: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENODATA, errno.EINVAL})
"""An extended attribute that cannot be had or kept is left out, as `shutil.copystat` does."""
_PART: Final = ".part"
_LEFT: Final = ".left"


class Measure(NamedTuple):
    """What a copy of a folder takes on the disk: bytes in whole blocks, and inodes."""

    size: int
    entries: int


class Snapshots:
    """Snapshots of packages' state, by the update they belong to. All methods block and raise `disk.*`."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store

    def check_room(self, package: str) -> None:
        """Raise `disk.full` where the disk has no room for a copy of the package's state."""
        folders = self._store.package(package)
        with disk_errors(f"measure the state of {package}"):
            need = measure(folders.state)
        _check(package, need, self._store.room())

    def make(self, package: str, update: str) -> bool:
        """Copy the state, unless that was done before; an interrupted copy starts over. False where it was there.

        Afterwards the copy is complete and flushed.
        """
        folders = self._store.package(package)
        done = _folder(folders) / update
        if done.is_dir():
            return False
        with disk_errors(f"take a snapshot of the state of {package}"):
            part = done.with_name(done.name + _PART)
            self._discard(part)
            need, room = measure(folders.state), self._store.room()
            _check(package, need, room)
            part.parent.mkdir(parents=True, exist_ok=True)
            copy_tree(folders.state, part, limit=room.free - SLACK_BYTES)
            self._store.flush()
            part.rename(done)
            flush_folder(done.parent)
        return True

    def restore(self, package: str, update: str) -> None:
        """Put the copy in the state's place by renames. Where it is gone, that was done before."""
        folders = self._store.package(package)
        copy = _folder(folders) / update
        with disk_errors(f"put the state of {package} back"):
            if not copy.is_dir():
                return
            left = copy.with_name(copy.name + _LEFT)
            if os.path.lexists(folders.state):
                self._discard(left)
                folders.state.rename(left)
            copy.rename(folders.state)
            flush_folder(copy.parent)
            flush_folder(folders.root)
            self._discard(left)

    def sweep(self, package: str, keep: Iterable[str]) -> None:
        """Remove the package's snapshots except those of the updates to `keep`."""
        folder, kept = _folder(self._store.package(package)), set(keep)
        with disk_errors(f"remove old snapshots of {package}"):
            if not folder.is_dir():
                return
            for path in sorted(folder.iterdir()):
                if path.name.partition(".")[0] not in kept:
                    self._discard(path)
            if not any(folder.iterdir()):
                folder.rmdir()

    def _discard(self, path: Path) -> None:
        if os.path.lexists(path):
            trash = self._store.folders.trash
            trash.mkdir(exist_ok=True)
            path.rename(Path(tempfile.mkdtemp(dir=trash)) / path.name)


def measure(folder: Path) -> Measure:
    """What a copy of `folder` takes; nothing where there is no such folder. Raises `OSError` and `disk.full`."""
    size = entries = 0
    for _, looks in _walk(folder):
        check_interrupted()
        entries += 1
        # what a file occupies, not what it says it is long: a database may have holes
        size += looks.st_blocks * 512 + (0 if stat.S_ISREG(looks.st_mode) else 4096)
        if entries > MAX_ENTRIES:
            raise DeviceError("disk.full", f"{folder} has over {MAX_ENTRIES} files; a snapshot of it is not made")
    return Measure(size, entries)


def copy_tree(source: Path, destination: Path, *, limit: int) -> None:
    """Copy a folder with modes, times, owners (where root does it) and extended attributes.

    Sockets, pipes and devices are left out. A source that is not there gives an empty folder.

    Args:
        limit: most bytes of content to write.

    Raises:
        OSError: also ENOSPC where `limit` would be exceeded.
    """
    destination.mkdir(mode=0o700)
    folders = [(source, destination)] if source.is_dir() else []
    left = limit
    for path, looks in _walk(source):
        place = destination / path.relative_to(source)
        if stat.S_ISDIR(looks.st_mode):
            place.mkdir(mode=0o700)
            folders.append((path, place))
        elif stat.S_ISLNK(looks.st_mode):
            place.symlink_to(path.readlink())
            _copy_looks(path, place, looks)
        elif stat.S_ISREG(looks.st_mode):
            left -= _copy_file(path, place, left)
    # once nothing is put into them any more, which would change their times or be refused
    for path, place in reversed(folders):
        _copy_looks(path, place, path.lstat())


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder, each folder before what is in it, links not followed."""
    waiting = [folder] if folder.is_dir() and not folder.is_symlink() else []
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                looks = entry.stat(follow_symlinks=False)
                yield Path(entry.path), looks
                if stat.S_ISDIR(looks.st_mode):
                    waiting.append(Path(entry.path))


def _copy_file(source: Path, destination: Path, limit: int) -> int:
    """Copy content, sharing blocks where that is possible and keeping holes; gives the bytes written.

    The package's own account may write here, so what is opened is what is looked at: a file that has become a link is
    refused, one that has become something else is left out.
    """
    old = os.open(source, _SOURCE)
    try:
        looks = os.fstat(old)
        if not stat.S_ISREG(looks.st_mode):
            return 0
        new = os.open(destination, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = 0
            try:
                fcntl.ioctl(new, _FICLONE, old)
            except OSError:
                written = _copy_data(old, new, limit)
            _copy_looks_of_file(old, new, looks)
        finally:
            os.close(new)
    finally:
        os.close(old)
    return written


def _copy_looks_of_file(old: int, new: int, looks: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(new, looks.st_uid, looks.st_gid)
    for name in os.listxattr(old) if hasattr(os, "listxattr") else ():
        try:
            os.setxattr(new, name, os.getxattr(old, name))
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
    os.fchmod(new, stat.S_IMODE(looks.st_mode))
    os.utime(new, ns=(looks.st_atime_ns, looks.st_mtime_ns))


def _copy_data(old: int, new: int, limit: int) -> int:
    end, at, written = os.fstat(old).st_size, 0, 0
    os.ftruncate(new, end)
    while at < end:
        try:
            at = os.lseek(old, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole up to the end
            raise
        until = min(os.lseek(old, at, os.SEEK_HOLE), end)
        while at < until:
            piece = os.pread(old, min(until - at, _PIECE), at)
            if not piece:
                return written  # it has become shorter
            written += len(piece)
            if written > limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = memoryview(piece)
            while view:
                count = os.pwrite(new, view, at)
                at, view = at + count, view[count:]
    return written


def _copy_looks(source: Path, destination: Path, looks: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(destination, looks.st_uid, looks.st_gid, follow_symlinks=False)
    shutil.copystat(source, destination, follow_symlinks=False)


def _check(package: str, need: Measure, room: Space) -> None:
    wanted = need.size + SLACK_BYTES
    if room.free < wanted or room.inodes < need.entries + SLACK_INODES:
        raise DeviceError(
            "disk.full",
            f"a snapshot of the state of {package} needs {wanted} bytes and {need.entries + SLACK_INODES} files free, "
            f"there are {room.free} and {room.inodes}; make room and retry",
        )


def _folder(folders: PackageFolders) -> Path:
    return folders.root / "snapshots"
