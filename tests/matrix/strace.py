"""Strace: which calls of a run change something on the disk, and one of them cut off or refused."""

import os
import re
import select
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHANGES: Final = (
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync",
    "msync",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
    "fallocate",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
    "truncate",
    "ftruncate",
    "open",
    "openat",
    "creat",
    "setxattr",
    "fsetxattr",
)
"""Everything by which a program changes a file system, whatever of it the agent uses; opening only where it creates."""

ATTACH_S: Final = 10.0
_CALL: Final = re.compile(r"^([a-z0-9_]+)\((.*)$")


@dataclass(frozen=True)
class Point:
    """One call: the `number`-th of its name in a thread, and what it does, for people."""

    thread: str
    call: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.call} #{self.number} ({self.thread}: {self.what})"


class Tracer:
    """A strace on one thread of a process that waits to be let go."""

    def __init__(self, thread: int, log: Path, *options: str) -> None:
        self._process = subprocess.Popen(
            ["strace", "-y", "-s", "0", "-o", str(log), *options, "-p", str(thread)],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        self._wait_until_attached()

    def _wait_until_attached(self) -> None:
        assert self._process.stderr is not None
        said = b""
        while b"attached" not in said:
            ready, _, _ = select.select([self._process.stderr], [], [], ATTACH_S)
            more = os.read(self._process.stderr.fileno(), 4096) if ready else b""
            if not more:
                self.end()
                raise RuntimeError(f"strace did not attach: {said.decode(errors='replace')}")
            said += more

    def end(self) -> None:
        """It ends with what it traces; bounded."""
        try:
            self._process.wait(ATTACH_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def tracing(calls: Sequence[str] = CHANGES) -> list[str]:
    """Options that have calls written down."""
    return ["-e", "trace=" + ",".join(f"?{call}" for call in calls)]


def cutting(point: Point, fault: str) -> list[str]:
    """Options that have a call killed before it happens, or refused.

    Args:
        fault: `SIGKILL` or the name of an error.
    """
    effect = "signal=SIGKILL" if fault == "SIGKILL" else f"error={fault}"
    return ["-e", f"trace={point.call}", "-e", f"inject={point.call}:{effect}:when={point.number}"]


def refusing(fault: str) -> list[str]:
    """Options that have every change refused, as a disk does that has become read-only."""
    calls = ",".join(f"?{call}" for call in CHANGES if call not in ("open", "openat", "write"))
    return ["-e", f"trace={calls}", "-e", f"inject={calls}:error={fault}:when=1+"]


def points(log: Path, thread: str, folder: Path) -> list[Point]:
    """The calls that change something below a folder, from what strace has written down of a run."""
    counts: Counter[str] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        call, arguments = match.groups()
        counts[call] += 1
        creates = call not in ("open", "openat") or "O_CREAT" in arguments or "O_TRUNC" in arguments
        if str(folder) in arguments and creates:
            found.append(Point(thread, call, counts[call], _what(arguments, folder)))
    return found


def _what(arguments: str, folder: Path) -> str:
    names = re.findall(re.escape(str(folder)) + r"/?([^\">]*)", arguments)
    inner = re.findall(r"\"([^\"]+)\"", arguments)
    kept = [name for name in [*names, *(text for text in inner if str(folder) not in text)] if name]
    return re.sub(r"[0-9a-f]{56,64}", lambda m: m.group()[:8], " ".join(kept))[:120]
