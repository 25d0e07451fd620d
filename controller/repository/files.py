"""The file system under the repository: durable writes, locks between processes, errors in one line."""

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from controller.packaging.whole_file import whole_file
from schemas.errors import OperatorError, one_line

CHUNK: Final = 1024 * 1024
"""Bytes that are read at a time."""
SPARE_BYTES: Final = 64 * 1024**2
"""What uploads and exports leave of the disk, for the database and whatever else has to be written."""

_LOCK_POLL_S: Final = 0.02


@contextmanager
def disk_errors(what: object) -> Iterator[None]:
    """Turn an OSError in the block into one line.

    Raises:
        OperatorError: `disk.full` or `disk.io`.
    """
    try:
        yield
    except OSError as error:
        code = "disk.full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk.io"
        raise OperatorError(code, f"{one_line(what)}: {error.strerror or one_line(error)}") from error


def room_in(folder: Path) -> int:
    """Bytes that a file in a folder may have; below 0 where even what is to be spared is taken. Raises `OSError`."""
    return shutil.disk_usage(folder).free - SPARE_BYTES


def check_room(folder: Path, size: int) -> None:
    """Raise `OperatorError`, `disk.full`, where there is no room for so many bytes more; or `disk.io`."""
    with disk_errors(folder):
        room = room_in(folder)
    if size > room:
        raise no_room(room, size)


def no_room(room: int, size: int) -> OperatorError:
    """What is said where a file does not go onto the disk."""
    return OperatorError(
        "disk.full", f"the controller has room for {max(0, room)} bytes, not for {size}; free some space"
    )


def size_of(path: Path) -> int:
    """A file's bytes; 0 for one that has gone since somebody listed it. Raises `OSError`."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and on the disk when this returns.

    Raises:
        OperatorError: `disk.full` or `disk.io`.
    """
    with whole_file(path) as file:
        file.write(data)


def write_private(path: Path, data: bytes) -> None:
    """As `write_whole`, readable by the owner only from its first moment; an existing file is never replaced.

    Raises:
        OperatorError: `disk.full` or `disk.io`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)
        finally:
            part.unlink()
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    _fsync(folder)


def flush(folder: Path, paths: Iterable[Path]) -> None:
    """Make everything written so far to `paths`, files and folders on the file system of `folder`, durable.

    One `syncfs` where there is one (Linux): flushing small files one by one costs a disk flush each. Storing a
    package of 5 000 files took 2.0 s with it and 6.8 s without, on an ext4 on a virtual disk. Elsewhere each
    path is flushed by itself.

    Raises:
        OSError: the disk reported an error.
    """
    if _syncfs is not None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(descriptor)
        return
    for path in paths:
        _fsync(path)
    # On macOS fsync hands the data to the drive, and only this makes the drive empty its cache.
    if (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.fcntl(descriptor, full)
        finally:
            os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Keep all other processes and threads that lock `path` out of the block.

    The kernel lets go of the lock when the process ends, however it ends.

    Raises:
        OperatorError: `data.bad`, when another holds it for longer than `wait_s` seconds.
    """
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + wait_s
        while not try_lock(descriptor):
            if time.monotonic() > give_up:
                raise OperatorError(
                    "data.bad",
                    f"another process has kept {one_line(path)} locked for over {wait_s:g} s; try again later",
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file or folder unless another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _find_syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    return function


_syncfs: Final = _find_syncfs()
