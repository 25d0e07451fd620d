"""A device as the broker sees one: it keeps the wire contract and installs nothing.

async with fake_device(broker.url, "pi-1", topic_root=topic_root) as device:
    await device.report(channel="stable")
    announced = await device.next_announcement()
    await device.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from schemas.codec import decode, encode
from schemas.ids import uuid7
from schemas.messages import (
    Announcement,
    Command,
    Desired,
    ErrorReport,
    InstalledPackage,
    Message,
    Phase,
    Presence,
    Reported,
    UpdateEvent,
)
from schemas.topics import DEFAULT_ROOT, DeviceTopic, ReleaseTopic, Topics
from tests.support.links import BOUND_S, settings
from transport import Link, Will, connect

BAD = frozenset({Phase.REJECTED, Phase.ROLLED_BACK, Phase.FAILED})


def new_id() -> str:
    """A UUIDv7 of now."""
    return uuid7(int(datetime.now(UTC).timestamp() * 1000), os.urandom(10))


class FakeDevice:
    """One device on one connection.

    Attributes:
        announcements: what its channel was told, in the order it came; `commands` and `desired` likewise.
        seq: number of its last event.
    """

    def __init__(self, link: Link, topics: Topics, device: str, channel: str) -> None:
        self._link = link
        self._topics = topics
        self._arrived = asyncio.Condition()
        self.id = device
        self.channel = channel
        self.seq = 0
        self.announcements: list[Announcement] = []
        self.commands: list[Command] = []
        self.desired: list[Desired] = []

    async def listen(self) -> None:
        """Take in what the controller says, until cancelled."""
        async for message in self._link.messages():
            async with self._arrived:
                match self._topics.parse(message.topic):
                    case ReleaseTopic() if message.payload:
                        self.announcements.append(decode(message.payload, Announcement))
                    case DeviceTopic(kind="commands"):
                        self.commands.append(decode(message.payload, Command))
                    case DeviceTopic(kind="desired") if message.payload:
                        self.desired.append(decode(message.payload, Desired))
                self._arrived.notify_all()
            await self._link.acknowledge(message)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until what was heard meets a condition."""
        async with asyncio.timeout(BOUND_S), self._arrived:
            await self._arrived.wait_for(condition)

    async def announcement(self, version: str) -> Announcement:
        """The latest announcement, as soon as it is of this version."""
        await self.until(lambda: self.announcements and self.announcements[-1].version == version)
        return self.announcements[-1]

    async def report(self, **changes: Any) -> Reported:
        """Say, retained, what is true: nothing installed, unless told otherwise."""
        fields: dict[str, Any] = {
            "device": self.id,
            "at": datetime.now(UTC),
            "seq": self.seq,
            "channel": self.channel,
            "tags": {},
            "facts": {"model": "pi4", "platform": "linux-aarch64"},
            "packages": {},
        }
        made = Reported(**(fields | changes))
        await self._publish("reported", made, retain=True)
        return made

    async def clear_report(self) -> None:
        """Be taken out of service."""
        await self._link.publish(self._topics.device(self.id, "reported"), b"", retain=True)

    async def say(self, phase: Phase, **changes: Any) -> UpdateEvent:
        """The next event; of a new update of `tacho` unless told otherwise."""
        self.seq += 1
        fields: dict[str, Any] = {
            "device": self.id,
            "boot_id": "boot-1",
            "seq": self.seq,
            "update": new_id(),
            "rollout": None,
            "attempt": 1,
            "package": "tacho",
            "version": "1.0.0",
            "from_version": None,
            "phase": phase,
            "at": datetime.now(UTC),
        }
        event = UpdateEvent(**(fields | changes))
        await self._publish("events", event)
        return event

    async def repeat(self, event: UpdateEvent) -> None:
        """Say something again, as a replay does."""
        await self._publish("events", event)

    async def update(self, announced: Announcement, *phases: Phase, **changes: Any) -> list[UpdateEvent]:
        """One event for each phase of one update to what was announced; the bad phases have an error.

        A success is followed by the report that the announced version is what runs now.
        """
        update = new_id()
        said = []
        for phase in phases:
            error = ErrorReport(code="health.http", message=f"no answer on {self.id}", log_tail="first line\nlast line")
            fields: dict[str, Any] = {
                "update": update,
                "rollout": announced.rollout,
                "package": announced.package,
                "version": announced.version,
                "error": error if phase in BAD else None,
            }
            said.append(await self.say(phase, **(fields | changes)))
        if Phase.SUCCEEDED in phases:
            await self.report(packages={announced.package: installed(announced)})
        return said

    async def _publish(self, kind: str, message: Message, *, retain: bool = False) -> None:
        await self._link.publish(self._topics.device(self.id, kind), encode(message), retain=retain)


def installed(announced: Announcement) -> InstalledPackage:
    """What a report says of a release that was taken."""
    return InstalledPackage(
        version=announced.version,
        manifest="a" * 64,
        installed_at=datetime.now(UTC),
        previous=None,
        phase=Phase.SUCCEEDED,
        rollout=announced.rollout,
    )


@asynccontextmanager
async def fake_device(
    broker_url: str, device: str, *, topic_root: str = DEFAULT_ROOT, channel: str = "stable", session: int = 1
) -> AsyncIterator[FakeDevice]:
    """A device that is online, and listens, in the block; offline, with its own words, after it."""
    topics = Topics(topic_root)

    def presence(*, online: bool) -> Presence:
        return Presence(
            device=device,
            online=online,
            session=session,
            boot_id="boot-1",
            agent_version="0.0.0-fake",
            at=datetime.now(UTC),
        )

    status = topics.device(device, "status")
    will = Will(topic=status, payload=encode(presence(online=False)))
    async with connect(settings(broker_url, f"fake-{device}", clean_start=True), will=will) as link:
        made = FakeDevice(link, topics, device, channel)
        await link.subscribe(
            [topics.releases_of(channel), topics.device(device, "desired"), topics.device(device, "commands")]
        )
        await link.publish(status, encode(presence(online=True)), retain=True)
        listening = asyncio.create_task(made.listen(), name=f"fake device {device}")
        try:
            yield made
            await link.publish(status, encode(presence(online=False)), retain=True)
            link.withdraw_will()
        finally:
            listening.cancel()
            await asyncio.wait({listening})
