"""The devices of one process: connected at a bounded pace, counted, and all ended in good order."""

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.simulator.course import Kind, kinds_of
from device_agent.simulator.device import FleetRules, SimulatedDevice
from device_agent.simulator.tally import Tally
from device_agent.simulator.turns import Turns
from device_agent.threads import nothing_blocks

GOODBYE_S: Final = 30.0
"""How long the devices of one process may take to say goodbye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of the fleet; `twin` is the second one with an id."""

    name: str
    number: int
    kind: Kind
    twin: bool = False


def members_of(count: int, rates: dict[Kind, float], *, prefix: str, seed: int) -> list[Member]:
    """The whole fleet, in order; each duplicated device is followed by its twin."""
    width = max(4, len(str(count)))
    members: list[Member] = []
    for number, kind in enumerate(kinds_of(count, rates, seed)):
        name = f"{prefix}-{number + 1:0{width}}"
        members.append(Member(name=name, number=number, kind=kind))
        if kind is Kind.DUPLICATED:
            members.append(Member(name=name, number=number, kind=kind, twin=True))
    return members


class SimulatedFleet:
    """The devices of this process.

    Args:
        members: which they are.
        rules: what they have in common.
        per_s: how many connect in a second.
    """

    def __init__(self, members: Iterable[Member], rules: FleetRules, *, per_s: float) -> None:
        self._tally = Tally()
        turns = Turns()
        self._devices = [
            SimulatedDevice(one.name, one.number, one.kind, rules, self._tally, turns=turns, twin=one.twin)
            for one in members
        ]
        self._per_s = per_s

    async def run(self, stop: asyncio.Event) -> None:
        """Be a fleet until `stop` is set, then say goodbye for all of them."""
        nothing_blocks()
        loop = asyncio.get_running_loop()
        begun, running = loop.time(), set[asyncio.Task[None]]()
        for number, device in enumerate(self._devices):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begun + number / self._per_s):
                    await stop.wait()
            if stop.is_set():
                break
            running.add(asyncio.create_task(device.run(), name=device.name))
        await stop.wait()
        for device in self._devices:
            device.stop()
        if running:
            _, late = await asyncio.wait(running, timeout=GOODBYE_S)
            for task in late:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
            defects = [one for one in ended if isinstance(one, Exception)]
            if defects:
                raise defects[0]

    def tally(self) -> Tally:
        """What they did so far."""
        self._tally.devices = len(self._devices)
        self._tally.connected = sum(device.connected for device in self._devices)
        self._tally.open = sum(device.open for device in self._devices)
        self._tally.cpu_s = time.process_time()
        self._tally.memory = _resident()
        return self._tally


def allow_connections(count: int) -> bool:
    """Let this process, and those it starts, have so many connections; False where the system does not allow it."""
    wanted = count + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return True
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        with contextlib.suppress(OSError, ValueError):  # root may
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= wanted


def _resident() -> int:
    try:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
