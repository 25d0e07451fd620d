"""Calls `systemctl` and `journalctl`, bounded, by argument lists, and reads what they say."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from device_agent.processes import MAX_TAIL, Tail, base_environment, describe_exit, resolve_command, run
from schemas.errors import DeviceError, one_line

CALL_TIMEOUT_S: Final = 30.0
_JOURNAL_TIMEOUT_S: Final = 3.0
_JOURNAL_LINES: Final = 200
_PROPERTIES: Final = "LoadState,ActiveState,SubState,Result,NRestarts,ExecMainCode,ExecMainStatus,Type"
_ANYWHERE: Final = Path("/")


async def systemctl(*arguments: str, what: str, code: str = "service.unit", timeout_s: float = CALL_TIMEOUT_S) -> str:
    """What `systemctl` printed.

    Args:
        what: what it is for, e.g. `stop a.service`; completes "cannot …".
        code: of the error.

    Raises:
        DeviceError: `code`, where it is missing, takes too long or reports a failure.
    """
    environment = _environment()
    command = resolve_command(
        ["systemctl", "--no-ask-password", "--no-pager", *arguments],
        folder=_ANYWHERE,
        state_folder=_ANYWHERE,
        path=environment["PATH"],
        code=code,
        where=f"cannot {what}",
    )
    try:
        finished = await run(command, folder=_ANYWHERE, environment=environment, timeout_s=timeout_s)
    except (OSError, ValueError) as error:
        raise DeviceError(code, f"cannot {what}: {one_line(error)}") from error
    if finished.code == 0:
        return finished.output
    raise DeviceError(
        code,
        f"cannot {what}: systemctl {describe_exit(finished.code)}: {one_line(finished.output)}",
        log_tail=finished.output,
    )


async def show(unit: str) -> dict[str, str]:
    """The properties of a unit that tell how it is."""
    told = await systemctl("show", f"--property={_PROPERTIES}", "--", unit, what=f"ask about {unit}")
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def how_it_ended(state: Mapping[str, str]) -> str:
    """The last exit of a unit's main process in words."""
    status = state.get("ExecMainStatus", "")
    if not status.isdecimal():
        return "ended"
    # si_code as in waitid(2): 1 exited, 2 killed, 3 dumped core
    return describe_exit(-int(status) if state.get("ExecMainCode") in ("2", "3") else int(status))


def journal(units: Sequence[str]) -> str:
    """The last lines that the units wrote; empty where the journal does not answer within three seconds."""
    style = "cat" if len(units) == 1 else "short-iso"
    chosen = [f"--unit={unit}" for unit in units]
    try:
        told = subprocess.run(
            ["journalctl", "--quiet", "--no-pager", f"--lines={_JOURNAL_LINES}", f"--output={style}", *chosen],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_JOURNAL_TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    tail = Tail(MAX_TAIL)
    tail.add(told.stdout)
    return tail.text()


def _environment() -> dict[str, str]:
    return {**base_environment(), "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
