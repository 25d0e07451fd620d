"""A disk that runs full, on any machine: a real small file system where tests may mount one, a limit elsewhere.

with small_disk(folder, 24 * 2**20) as disk, disk.full(pid_of_the_agent, leaving=2**20):
    ...
"""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """See the module.

    Attributes:
        folder: where it is.
        real: it is a file system of its own (a tmpfs), so that writing to it gives ENOSPC. Elsewhere the process in
            question may not make files larger than what is left, which gives EFBIG: the kernel refuses all the same.
    """

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.folder = folder
        self.real = real

    @contextmanager
    def full(self, pid: int, *, leaving: int) -> Iterator[None]:
        """In the block, no more than about `leaving` bytes can be written there by the process `pid`."""
        if not self.real:
            with _limited(pid, leaving):
                yield
            return
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                # bit by bit, because others write too
                while (room := self._room() - leaving) > 0:
                    file.write(bytes(min(room, 2**20)))
            yield
        finally:
            ballast.unlink()

    def _room(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """A file system of `size` bytes at `folder`, which is empty; gone after the block, with all that is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0755"
    mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", os.fspath(folder)]
    real = sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(mounting, check=False).returncode == 0
    try:
        yield SmallDisk(folder, real=real)
    finally:
        if real:
            subprocess.run(["umount", os.fspath(folder)], check=True)


@contextmanager
def _limited(pid: int, size: int) -> Iterator[None]:
    """Let a process of ours and those it has started make no file larger than `size`, nor those that they start."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("here tests can neither mount a file system nor limit another process")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        for one in (pid, *_children_of(pid)):
            resource.prlimit(one, resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        for one in (pid, *_children_of(pid)):
            with suppress(ProcessLookupError):
                resource.prlimit(one, resource.RLIMIT_FSIZE, before)


def _children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found
