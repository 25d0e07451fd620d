"""What keeps a package's services running: systemd where that is init, the agent itself elsewhere."""

import os
import shutil
from pathlib import Path
from typing import Final, Literal, Protocol

from device_agent.clock import Clock, SystemClock
from device_agent.seams import ServiceManager
from device_agent.service_watch import WatchedServices

__all__ = ["SYSTEMD_IS_INIT", "KeptServices", "pick_service_manager"]

SYSTEMD_IS_INIT: Final = Path("/run/systemd/system")
"""Exists exactly where systemd is init: sd_booted(3)."""


class KeptServices(ServiceManager, WatchedServices, Protocol):
    """A service manager that can be watched."""


def pick_service_manager(
    root: Path,
    *,
    kind: Literal["auto", "systemd", "supervisor"] = "auto",
    clock: Clock | None = None,
    systemd_marker: Path = SYSTEMD_IS_INIT,
) -> KeptServices:
    """The manager for this machine.

    Args:
        root: the agent's root folder.
        kind: `auto` takes systemd where it is init and the agent is root, so that services live on when
            the agent restarts. Anything else (containers, macOS, an agent of an ordinary user, several
            agents on one machine) is supervised by the agent.
    """
    clock = clock or SystemClock()
    fits = systemd_marker.is_dir() and os.geteuid() == 0 and shutil.which("systemctl") is not None
    if kind == "systemd" or (kind == "auto" and fits):
        from device_agent.services.systemd import SystemdServices  # noqa: PLC0415  # one of both, to save memory

        return SystemdServices(root, clock=clock)
    from device_agent.services.supervisor import Supervisor  # noqa: PLC0415  # the same

    return Supervisor(root, clock=clock)
