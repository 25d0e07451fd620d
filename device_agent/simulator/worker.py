"""One process of a simulated fleet: told what to be by a line on stdin, ends when stdin does, counts on stdout."""

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from device_agent.logs import logger, set_up_logging
from device_agent.simulator.course import Kind
from device_agent.simulator.device import FleetRules
from device_agent.simulator.fleet import Member, SimulatedFleet, allow_connections, members_of
from device_agent.simulator.tally import Tally
from schemas.topics import Topics
from transport import LinkSettings

TELL_EVERY_S: Final = 0.5


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to be, as the line on its stdin.

    Attributes:
        devices: in the whole fleet.
        part: which share of it is this process's: every `parts`-th device from this one on.
        parts: how many processes there are.
        per_s: how many devices of this process connect in a second.
        rates: share of each kind of device.
    """

    broker: str
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    topic_root: str
    channel: str
    prefix: str
    devices: int
    part: int
    parts: int
    per_s: float
    rates: dict[Kind, float]
    pace_s: float
    seed: int
    bad_versions: list[str]
    session_expiry_s: int
    verbose: bool = False

    def link_settings(self, client_id: str) -> LinkSettings:
        """How to reach the broker."""
        return LinkSettings(
            url=self.broker,
            client_id=client_id,
            username=self.username,
            password_file=Path(self.password_file) if self.password_file else None,
            ca_file=Path(self.ca_file) if self.ca_file else None,
            session_expiry_s=self.session_expiry_s,
        )


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A line on a process's stdout. `last` ends them."""

    tally: Tally
    last: bool = False


def main() -> None:
    """Be one process of a fleet."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever started this ends it, by closing stdin
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    set_up_logging()
    logger().setLevel(logging.INFO if orders.verbose else logging.CRITICAL)
    # thousands of devices live as long as the process: looking through them for garbage again and again costs a lot
    gc.set_threshold(50_000, 5, 100)
    asyncio.run(_run(orders))


def own(orders: Orders) -> list[Member]:
    """The devices of one process."""
    members = members_of(orders.devices, orders.rates, prefix=orders.prefix, seed=orders.seed)
    return [one for one in members if one.number % orders.parts == orders.part]


async def _run(orders: Orders) -> None:
    mine = own(orders)
    allow_connections(len(mine))
    rules = FleetRules(
        link=orders.link_settings(orders.prefix),
        topics=Topics(orders.topic_root),
        channel=orders.channel,
        pace_s=orders.pace_s,
        seed=orders.seed,
        bad_versions=frozenset(orders.bad_versions),
    )
    fleet = SimulatedFleet(mine, rules, per_s=orders.per_s)
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(_tell(fleet), name="tally")
        tasks.create_task(_until_end_of(reader, stop), name="stdin")
        await fleet.run(stop)
        telling.cancel()
    _say(fleet.tally(), last=True)


async def _until_end_of(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    while await reader.read(1024):
        pass
    stop.set()


async def _tell(fleet: SimulatedFleet) -> None:
    all_there = False
    while True:
        tally = fleet.tally()
        _say(tally)
        if not all_there and tally.connected == tally.devices:
            all_there = True
            gc.freeze()  # with 1500 devices a look through all that they are made of stopped them for over a second
        await asyncio.sleep(TELL_EVERY_S)


def _say(tally: Tally, *, last: bool = False) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Word(tally=tally, last=last)) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
