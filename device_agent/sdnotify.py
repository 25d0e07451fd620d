"""Tells systemd that the agent is ready, alive and ending (sd_notify(3)); does nothing without systemd.

`systemd-notify` as a program would not do: with `NotifyAccess=main` only the agent itself is heard.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


class Notifier:
    """The socket that systemd listens on, as the environment names it."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, pid: int | None = None) -> None:
        """
        Args:
            environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
            pid: of this process.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        # an address in Linux's abstract name space is written with @ for its zero byte
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment, os.getpid() if pid is None else pid) if address else None

    def tell(self, *lines: str) -> None:
        """Send, or do nothing where nobody listens: an agent must not fail because of who watches it."""
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
        self.tell(f"STATUS={text}")


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which systemd wants a sign of life; None for never."""
    usec = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(pid))
    return int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and meant == str(pid) else None
