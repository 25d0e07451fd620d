"""Builders for the tests of the agent's leaves."""

import os
import stat
from pathlib import Path

from device_agent.processes import process_fields
from device_agent.seams import ReleaseContext


def release_context(tmp_path: Path, **values: str) -> ReleaseContext:
    """A release in a folder of its own, with its state folder."""
    folder = tmp_path / "releases" / "1.0.0"
    state = tmp_path / "state"
    folder.mkdir(parents=True, exist_ok=True)
    state.mkdir(exist_ok=True)
    return ReleaseContext(
        package="tacho",
        version="1.0.0",
        folder=folder,
        state_folder=state,
        values={name.replace("__", "."): value for name, value in values.items()},
        environment={"FLOTILLA_VERSION": "1.0.0"},
    )


def script(folder: Path, name: str, text: str) -> Path:
    """An executable shell script in a release."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    if not Path("/proc/self").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    fields = process_fields(pid)
    return fields is not None and fields[0] not in "ZX"
