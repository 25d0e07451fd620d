"""Simulated devices inside a test, and everything they say, for tests that speak for the controller themselves.

async with simulated(broker.url, topic_root, 3) as fleet:
    await fleet.announce("1.0.0")
    await fleet.until(lambda: fleet.phases("sim-0001")[-1:] == ["succeeded"])
"""

import asyncio
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from device_agent.simulator.course import Kind
from device_agent.simulator.device import FleetRules
from device_agent.simulator.fleet import SimulatedFleet, members_of
from device_agent.simulator.tally import Tally
from schemas.codec import decode, encode
from schemas.ids import uuid7
from schemas.messages import (
    Announcement,
    Command,
    Desired,
    Presence,
    ReleaseState,
    Reported,
    RolloutPolicy,
    Targets,
    UpdateEvent,
    Verb,
)
from schemas.topics import DeviceTopic, Topics
from tests.support.links import BOUND_S, settings
from transport import Link, LinkSettings, connect


def new_id() -> str:
    """A UUIDv7 of now."""
    return uuid7(int(datetime.now(UTC).timestamp() * 1000), os.urandom(10))


class Watched:
    """What a fleet has said so far.

    Attributes:
        events: device to its events in the order they came, repeated ones included.
        reported: device to its last report; `presence` likewise.
    """

    def __init__(self, link: Link, topics: Topics, fleet: SimulatedFleet) -> None:
        self._link = link
        self._topics = topics
        self._fleet = fleet
        self._arrived = asyncio.Condition()
        self.events: defaultdict[str, list[UpdateEvent]] = defaultdict(list)
        self.reported: dict[str, Reported] = {}
        self.presence: dict[str, Presence] = {}

    async def listen(self) -> None:
        """Take in what devices say, until cancelled."""
        async for message in self._link.messages():
            place = self._topics.parse(message.topic)
            assert isinstance(place, DeviceTopic)
            async with self._arrived:
                match place.kind:
                    case "events":
                        self.events[place.device].append(decode(message.payload, UpdateEvent))
                    case "reported":
                        self.reported[place.device] = decode(message.payload, Reported)
                    case _:
                        self.presence[place.device] = decode(message.payload, Presence)
                self._arrived.notify_all()
            await self._link.acknowledge(message)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until what was said meets a condition."""
        async with asyncio.timeout(BOUND_S), self._arrived:
            await self._arrived.wait_for(condition)

    def phases(self, device: str) -> list[str]:
        """The phases of its events."""
        return [event.phase.value for event in self.events[device]]

    def story(self) -> dict[str, list[tuple[str, str | None]]]:
        """Device to the phase and the error code of each of its events."""
        return {
            device: [(event.phase.value, event.error.code if event.error else None) for event in events]
            for device, events in sorted(self.events.items())
        }

    def tally(self) -> Tally:
        """What the fleet counted."""
        return self._fleet.tally()

    async def announce(self, version: str, *, rollout: str | None = None, **changes: Any) -> Announcement:
        """Announce a version of `tacho` to everybody."""
        fields: dict[str, Any] = {
            "rollout": rollout or new_id(),
            "revision": 1,
            "package": "tacho",
            "version": version,
            "channel": "stable",
            "state": ReleaseState.ACTIVE,
            "targets": Targets(),
            "policy": RolloutPolicy(),
            "repository": ["http://127.0.0.1:1/"],
            "published_at": datetime.now(UTC),
        }
        made = Announcement(**(fields | changes))
        await self._link.publish(self._topics.release("stable", "tacho"), encode(made), retain=True)
        return made

    async def command(self, device: str, verb: Verb, **args: Any) -> None:
        """Ask a device for something."""
        expires_at = datetime.now(UTC) + timedelta(minutes=1)
        made = Command(id=new_id(), verb=verb, args=args, expires_at=expires_at)
        await self._link.publish(self._topics.device(device, "commands"), encode(made))

    async def desire(self, device: str, **fields: Any) -> None:
        """Tell one device what it is to be like."""
        await self._link.publish(self._topics.device(device, "desired"), encode(Desired(**fields)), retain=True)


@asynccontextmanager
async def simulated(
    url: str,
    topic_root: str,
    count: int,
    *,
    rates: Mapping[Kind, float] | None = None,
    pace_s: float = 0.0,
    seed: int = 1,
    bad_versions: frozenset[str] = frozenset(),
) -> AsyncIterator[Watched]:
    """A fleet that is connected in the block."""
    topics = Topics(topic_root)
    rules = FleetRules(
        link=LinkSettings(url=url, client_id="sim", session_expiry_s=60),
        topics=topics,
        channel="stable",
        pace_s=pace_s,
        seed=seed,
        bad_versions=bad_versions,
    )
    members = members_of(count, dict(rates or {}), prefix="sim", seed=seed)
    fleet, stop = SimulatedFleet(members, rules, per_s=1000), asyncio.Event()
    async with connect(settings(url, f"watch-{uuid.uuid4().hex[:8]}", clean_start=True)) as link:
        watched = Watched(link, topics, fleet)
        await link.subscribe([topics.every_device(kind) for kind in ("events", "reported", "status")])
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(watched.listen())
            tasks.create_task(fleet.run(stop))
            try:
                names = {one.name for one in members}
                await watched.until(lambda: names <= watched.reported.keys() & watched.presence.keys())
                yield watched
            finally:
                stop.set()
                names = {one.name for one in members if one.kind not in (Kind.SILENT, Kind.DUPLICATED)}
                await watched.until(lambda: not any(watched.presence[name].online for name in names))
                listening.cancel()
