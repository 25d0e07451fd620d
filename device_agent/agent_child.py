"""The running agent as its launcher sees it: a process, what it says about itself, and the last that it printed.

An agent that a launcher has started finds in `FLOTILLA_LAUNCHER_FD` the number of a pipe. It writes lines of
sd_notify(3) there, and one more: `HEALTHY`. Standard library only, as the launcher is.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

PIPE = "FLOTILLA_LAUNCHER_FD"
WATCHDOG = "FLOTILLA_LAUNCHER_WATCHDOG_S"
RELEASE = "FLOTILLA_AGENT_RELEASE"
FOLDER = "FLOTILLA_AGENT_FOLDER"
PYTHON = "FLOTILLA_PYTHON"
HEALTHY = "X_FLOTILLA_HEALTHY=1"
"""Beside READY=1, STOPPING=1, WATCHDOG=1 and STATUS=…: the release has proven itself as far as the launcher waits."""
HAND_OVER = 93
"""The exit status of an agent that is to be started again: another release is linked now."""
SIGN_OF_LIFE_S = 90.0
"""An agent that was ready says WATCHDOG=1 three times as often; after this long without, it hangs."""
MAX_LINE = 4096
MAX_TAIL = 8 * 1024
NOT_STARTED = 127

_PR_SET_PDEATHSIG = 1
_OF_SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class AgentChild:
    """A started agent. All descriptors are closed by `end`.

    Attributes:
        ready, healthy: whether it has said so.
        status: how it ended, as a shell has it, negative for a signal; None while it runs.
        sign_of_life: when it last said that it is alive, monotonic seconds.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Start it. Raises `OSError` where there is no room for another process."""
        self.ready = False
        self.healthy = False
        self.status: int | None = None
        self.begun = self.sign_of_life = time.monotonic()
        self.tail = b""
        self._line = b""
        self._said, said = os.pipe()
        self._printed, printed = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, environment, said, printed, parent)
        os.close(said)
        os.close(printed)
        for descriptor in (self._said, self._printed):
            os.set_blocking(descriptor, False)

    def wait(self, wake: int, timeout_s: float) -> list[str]:
        """Wait until it says something, `wake` can be read, or the time is over; gives the lines that it said."""
        watched = [one for one in (wake, self._said, self._printed) if one >= 0]
        ready = select.select(watched, [], [], max(0.0, timeout_s))[0]
        if wake in ready:
            os.read(wake, 4096)
        if self._printed in ready:
            self._pass_on()
        return self._listen() if self._said in ready else []

    def reap(self) -> bool:
        """Take in what has ended, others' orphans too where this is the first process; whether it has."""
        while self.status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return False
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def send(self, number: int) -> None:
        """A signal, where it still runs."""
        if self.status is None:
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it where it still runs, take in its last words, let go of the pipes."""
        if not self.reap():
            self.send(signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        self._pass_on()
        for descriptor in (self._said, self._printed):
            if descriptor >= 0:
                os.close(descriptor)
        self._said = self._printed = -1

    def _listen(self) -> list[str]:
        data = _read(self._said)
        if data == b"":
            os.close(self._said)
            self._said = -1
        *lines, rest = (self._line + (data or b"")).split(b"\n")
        self._line = rest[-MAX_LINE:]
        said = [line[:MAX_LINE].decode(errors="replace") for line in lines]
        if said:
            self.sign_of_life = time.monotonic()
        self.ready = self.ready or "READY=1" in said
        self.healthy = self.healthy or HEALTHY in said
        return said

    def _pass_on(self) -> None:
        """What it printed goes where the launcher's own goes; the last of it is kept."""
        while self._printed >= 0 and (data := _read(self._printed)) is not None:
            if data == b"":
                os.close(self._printed)
                self._printed = -1
                return
            self.tail = (self.tail + data)[-MAX_TAIL:]
            say(data)


def say(data: bytes) -> None:
    """Print; whoever reads it may be gone."""
    try:
        os.write(2, data)
    except OSError:
        return


def _read(descriptor: int) -> bytes | None:
    """What there is, empty at the end, None where there is nothing yet."""
    try:
        return os.read(descriptor, 64 * 1024)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _become(command: list[str], environment: dict[str, str], said: int, printed: int, parent: int) -> None:
    """In the new process: become the agent. Never returns."""
    try:
        if sys.platform == "linux":
            import ctypes  # noqa: PLC0415  # never in the launcher itself, to which it would cost memory

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(NOT_STARTED)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(printed, 2)
        os.set_inheritable(said, True)
        kept = {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD}
        added = {PIPE: str(said), WATCHDOG: f"{SIGN_OF_LIFE_S:g}", PYTHON: sys.executable, **environment}
        os.execve(command[0], command, {**kept, **added})  # noqa: S606  # becoming it is what this is for
    except BaseException as error:  # noqa: BLE001  # nothing may run on in the launcher's copy
        say(f"flotilla-agent: cannot start {command[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(NOT_STARTED)


def program_of(folder: Path, release: str) -> Path | None:
    """A release's program; None where the tree has none that can be started."""
    program = folder / "releases" / release / "bin" / "flotilla-agent"
    return program if release and program.is_file() and os.access(program, os.X_OK) else None
