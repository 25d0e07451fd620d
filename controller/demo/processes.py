"""The demo's processes: each in a group of its own, its output kept in a file, none left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broker_config import free_port
from broker_config.uninterrupted import uninterrupted
from schemas.errors import OperatorError, one_line

STOP_SECONDS = 10.0


class Processes:
    """Starts processes and ends them all; a context manager.

    Args:
        logs: folder for one log file a process.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start `command`; its output goes to `{name}.log`."""
        with self.log(name).open("ab") as log, uninterrupted():
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def pid_of(self, name: str) -> int:
        """The process id of what was started under `name`."""
        return self._running[name].pid

    def names(self) -> list[str]:
        """What was started and not ended by `kill`, `end` or `stop`."""
        return list(self._running)

    def ended(self) -> list[str]:
        """Which of them have ended by themselves."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def kill(self, name: str) -> None:
        """SIGKILL for this one process alone, what it started is left to itself."""
        process = self._running.pop(name)
        process.kill()
        process.wait(STOP_SECONDS)

    def end(self, name: str) -> int:
        """End one process in good order, as `stop` does; its exit status."""
        process = self._running.pop(name)
        _signal_group(process, signal.SIGTERM)
        return _end(process, time.monotonic() + STOP_SECONDS)

    def wait(self, name: str, seconds: float) -> int:
        """Wait until a process ends by itself; its exit status. Raises `OperatorError` after `seconds`."""
        try:
            status = self._running[name].wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise OperatorError("input.bad", f"{name} did not end within {seconds:.0f} s") from error
        del self._running[name]
        return status

    def log(self, name: str) -> Path:
        """The file that the output of what is or was started under `name` goes to."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raise `OperatorError` (`service.crashed`) where a process has ended, with its last line."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise OperatorError(
                    "service.crashed",
                    f"{name} ended with status {process.returncode}: {one_line(self.last_line(name))}"
                    f" (all of it: {self.log(name)})",
                )

    def last_line(self, name: str) -> str:
        """The last line that a process printed, or that it printed none."""
        with self.log(name).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def stop(self) -> None:
        """End all processes, the last started first: SIGTERM, and SIGKILL for whom it takes too long."""
        running = list(reversed(self._running.values()))
        for process in running:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            _end(process, deadline)
        self._running.clear()


def program(name: str) -> str:
    """A command of this installation, beside the running interpreter.

    Raises `OperatorError` (`config.missing`) where it is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise OperatorError(
            "config.missing", f"{name} is not installed beside {sys.executable}; install flotilla-ota there"
        )
    return str(path)


def free_ports(count: int) -> list[int]:
    """As many loopback ports as asked for, different ones, that no outgoing connection will be given meanwhile."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def _end(process: subprocess.Popen[bytes], deadline: float) -> int:
    """Wait for the end of a process that was asked to; SIGKILL for its group at the deadline."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGKILL)
        return process.wait(STOP_SECONDS)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
