"""Tells who watches over the agent that it is ready, alive and ending: its launcher, else systemd (sd_notify(3)).

Does nothing where nobody does. `systemd-notify` as a program would not do: with `NotifyAccess=main` only the main
process is heard.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from device_agent.agent_child import PIPE
from device_agent.agent_child import WATCHDOG as WATCHDOG_S
from schemas.errors import one_line

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


class Notifier:
    """The launcher's pipe or the socket that systemd listens on, as the environment names it."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, pid: int | None = None) -> None:
        """
        Args:
            environment: the launcher's variables (see `agent_child.py`), else `NOTIFY_SOCKET`, `WATCHDOG_USEC` and
                `WATCHDOG_PID`.
            pid: of this process.
        """
        self._pipe = _number(environment.get(PIPE, ""))
        address = environment.get("NOTIFY_SOCKET", "")
        # an address in Linux's abstract name space is written with @ for its zero byte
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment, os.getpid() if pid is None else pid) if address else None
        if self._pipe is not None:
            self.watchdog_s = float(environment.get(WATCHDOG_S, "90"))

    def tell(self, *lines: str) -> None:
        """Send, or do nothing where nobody listens: an agent must not fail because of who watches it."""
        if self._pipe is not None:
            # short enough to be written whole; the launcher reads as long as it lives
            with contextlib.suppress(OSError):
                os.write(self._pipe, "".join(f"{one[:1000]}\n" for one in lines).encode())
            return
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self.tell(f"STATUS={one_line(text)}")


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which systemd wants a sign of life; None for never."""
    usec = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(pid))
    return int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and meant == str(pid) else None
