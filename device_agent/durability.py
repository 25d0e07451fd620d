"""What makes a change survive a power cut, and disk errors in our own words. See docs/durability.md."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from device_agent.faults import disk_fault


class Space(NamedTuple):
    """Room on the file system of a folder: bytes and inodes that are free, and the size of a block."""

    free: int
    inodes: int
    block: int


FreeSpace = Callable[[Path], Space]


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Any `OSError` inside as `DeviceError` `disk.full` or `disk.io`.

    Args:
        what: what was being done, e.g. `stage tacho 1.1.0`.
    """
    try:
        yield
    except OSError as error:
        raise disk_fault(error, what) from error


def free_space(folder: Path) -> Space:
    """What is free for this account where `folder` is. File systems without fixed inodes have plenty."""
    found = os.statvfs(folder)
    return Space(
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_favail if found.f_files else sys.maxsize,
        block=found.f_frsize or 4096,
    )


def flush_file_system(folder: Path) -> None:
    """Write everything of the file system that holds `folder` to the disk: one call for a whole tree.

    `syncfs` (Linux) reports errors of writing back; elsewhere `sync` has to do.
    """
    syncfs = _syncfs()
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Make renames, links and removals in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in place, whole or not at all, and durably."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        if not mode & 0o077:
            os.fchmod(descriptor, mode)  # what was left over of an earlier try may be open to all
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target` in one atomic, durable step, whatever link it was before."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
    flush_folder(path.parent)


def remove_link(path: Path) -> None:
    """Make sure, durably, that there is no link at `path`."""
    path.unlink(missing_ok=True)
    flush_folder(path.parent)


@cache
def _syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    return function
