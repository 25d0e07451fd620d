"""Finds and ends what an agent that was killed left running, so that no service ever runs twice.

On Linux the kernel ends an agent's children with it; what they started themselves may stay. A record for
each service names its process, with the time that process started, because numbers are used again.
Besides, every process carries the root folder in a variable that its descendants inherit.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from device_agent.processes import group_alive, process_fields, signal_group

MARK: Final = "FLOTILLA_SUPERVISOR"
"""The variable that says which root folder's agent a process belongs to."""

_HAS_PROC: Final = Path("/proc/self/stat").exists()
_GRACE_S: Final = 3.0
_MAX_RECORD_BYTES: Final = 4096


class _Record(msgspec.Struct, frozen=True):
    pid: int
    started: str


class Records:
    """The records below `{root}/run`."""

    def __init__(self, folder: Path, mark: str) -> None:
        self._folder = folder
        self._mark = mark

    def write(self, name: str, pid: int | None) -> None:
        """Say that service `name` is process `pid`, or runs no more. A disk that refuses is no reason not to run it."""
        path = self._folder / f"{name}.pid"
        unfinished = path.with_name(f".{name}.tmp")
        with contextlib.suppress(OSError):
            if pid is None:
                path.unlink(missing_ok=True)
                return
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            unfinished.write_bytes(msgspec.json.encode(_Record(pid, start_of(pid))))
            unfinished.replace(path)

    async def end_leftovers(self) -> list[int]:
        """End every process that an earlier agent left, and forget the records; the processes that were found."""
        records = await asyncio.to_thread(self._read)
        groups = {r.pid for r in records if r.started and start_of(r.pid) == r.started}
        strays = set(await asyncio.to_thread(_marked, self._mark)) - groups
        for number in (signal.SIGTERM, signal.SIGKILL):
            for group in groups:
                signal_group(group, number)
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            deadline = time.monotonic() + _GRACE_S
            while any(map(group_alive, groups)) or any(map(_is_running, strays)):
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
            else:
                break
        with contextlib.suppress(OSError):  # a disk that refuses is no reason to start no service
            for path in self._folder.glob("*.pid"):
                path.unlink(missing_ok=True)
        return sorted(groups | strays)

    def _read(self) -> list[_Record]:
        records = []
        for path in self._folder.glob("*.pid"):
            with contextlib.suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
                records.append(msgspec.json.decode(file.read(_MAX_RECORD_BYTES), type=_Record))
        return [record for record in records if record.pid > 1]


def start_of(pid: int) -> str:
    """When a process started, in a form that tells it from any other that ever had its number; empty if it is gone."""
    if _HAS_PROC:
        fields = process_fields(pid)
        if fields is None or fields[0] in "ZX":
            return ""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{fields[19]}"
    try:
        # A standard tool, as there is no /proc; a few milliseconds, and only when a service starts.
        listed = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout.strip()


def _marked(mark: str) -> list[int]:
    """Every process but this one and its ancestors that carries the mark (Linux; elsewhere none is found)."""
    wanted = f"{MARK}={mark}".encode()
    spared = _self_and_ancestors()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid in spared:
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0") and _is_running(pid):
                found.append(pid)
    return found


def _self_and_ancestors() -> set[int]:
    spared, pid = set(), os.getpid()
    while pid > 0 and pid not in spared:
        spared.add(pid)
        fields = process_fields(pid)
        pid = int(fields[1]) if fields else 0
    return spared


def _is_running(pid: int) -> bool:
    fields = process_fields(pid)
    return fields is not None and fields[0] not in "ZX"
