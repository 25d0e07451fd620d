"""Real agents for tests, in this process or as processes, and somebody at the broker who announces and listens."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from device_agent.app import run_agent
from device_agent.config import AgentConfig
from device_agent.sdnotify import Notifier
from schemas.codec import encode
from schemas.ids import uuid7
from schemas.messages import (
    LAST_WORDS,
    Announcement,
    Command,
    Desired,
    Message,
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

KINDS: dict[str, type[Message]] = {"events": UpdateEvent, "reported": Reported, "status": Presence}


_milliseconds = itertools.count(int(datetime.now(UTC).timestamp() * 1000))


def new_id() -> str:
    """A UUIDv7, later than the one before it."""
    return uuid7(next(_milliseconds), os.urandom(10))


def announce(package: str, version: str, *, rollout: str | None = None, **changes: Any) -> Announcement:
    """An announcement for every device of the channel `stable`."""
    fields: dict[str, Any] = {
        "rollout": rollout or new_id(),
        "revision": 1,
        "package": package,
        "version": version,
        "channel": "stable",
        "state": ReleaseState.ACTIVE,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": [],
        "published_at": datetime.now(UTC),
    }
    return Announcement(**(fields | changes))


def order(verb: Verb, *, id: str | None = None, valid_s: float = 60, **args: Any) -> Command:  # noqa: A002 - the contract's word
    """A command."""
    return Command(id=id or new_id(), verb=verb, args=args, expires_at=datetime.now(UTC) + timedelta(seconds=valid_s))


class Control:
    """Somebody at the broker: announces and orders, and keeps all that one device says."""

    def __init__(self, link: Link, topics: Topics, device: str) -> None:
        self._link = link
        self._topics = topics
        self._device = device
        self._arrived = asyncio.Condition()
        self.heard: list[UpdateEvent] = []
        self.reports: list[Reported] = []
        self.presences: list[Presence] = []

    async def listen(self) -> None:
        """Take in what the device says, until cancelled."""
        async for message in self._link.messages():
            topic = self._topics.parse(message.topic)
            assert isinstance(topic, DeviceTopic)
            said = json_to(KINDS[topic.kind], message.payload)
            kept: list[Any] = {"events": self.heard, "reported": self.reports, "status": self.presences}[topic.kind]
            async with self._arrived:
                kept.append(said)
                self._arrived.notify_all()
            await self._link.acknowledge(message)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until what was heard meets a condition."""
        async with asyncio.timeout(BOUND_S), self._arrived:
            await self._arrived.wait_for(condition)

    async def announce(self, announcement: Announcement) -> Announcement:
        """Publish a retained announcement."""
        await self._link.publish(
            self._topics.release(announcement.channel, announcement.package), encode(announcement), retain=True
        )
        return announcement

    async def withdraw(self, announcement: Announcement) -> None:
        """Clear the announcement's topic."""
        await self._link.publish(self._topics.release(announcement.channel, announcement.package), b"", retain=True)

    async def desire(self, desired: Desired | None) -> None:
        """Publish what the device is told, retained."""
        await self.say("desired", encode(desired) if desired else b"", retain=True)

    async def order(self, command: Command) -> None:
        """Publish a command."""
        await self.say("commands", encode(command))

    async def say(self, kind: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish any bytes to one of the device's topics."""
        await self._link.publish(self._topics.device(self._device, kind), payload, retain=retain)

    async def shout(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish any bytes on any topic under the root."""
        await self._link.publish(f"{self._topics.root}/{topic}", payload, retain=retain)

    @property
    def events(self) -> list[UpdateEvent]:
        """Each event once, by its number, as a receiver has to take them."""
        return [event for _, event in sorted({event.seq: event for event in self.heard}.items())]

    def phases(self, version: str | None = None) -> list[str]:
        """The phases heard, without repeats for progress."""
        said = [e.phase.value for e in self.events if version in (None, e.version)]
        return [phase for i, phase in enumerate(said) if i == 0 or said[i - 1] != phase]

    def ended(self, version: str | None = None) -> bool:
        """Whether a last word was heard."""
        return any(e.phase in LAST_WORDS for e in self.events if version in (None, e.version))


def json_to(kind: type[Message], payload: bytes) -> Message:
    """A message that a device sent; it keeps the contract or the test fails."""
    from schemas.codec import decode  # noqa: PLC0415 - beside its only use

    json.loads(payload)
    return decode(payload, kind)


@asynccontextmanager
async def control(
    url: str, topic_root: str, device: str, *, as_whom: LinkSettings | None = None
) -> AsyncIterator[Control]:
    """A connection of somebody who announces to and listens to `device`."""
    topics = Topics(topic_root)
    async with connect(as_whom or settings(url, f"control-{device}", clean_start=True)) as link:
        await link.subscribe([topics.device(device, kind) for kind in KINDS])
        made = Control(link, topics, device)
        listening = asyncio.create_task(made.listen(), name="control")
        try:
            yield made
        finally:
            listening.cancel()
            await asyncio.wait({listening})


class RunningAgent:
    """An agent in this process."""

    def __init__(self, task: "asyncio.Task[None]", stop: asyncio.Event) -> None:
        self.task = task
        self._stop = stop

    async def end(self) -> None:
        """Stop it in order, and raise what it raised."""
        self._stop.set()
        async with asyncio.timeout(BOUND_S):
            await self.task

    async def drop(self) -> None:
        """Stop it without letting it say anything, as far as that is possible in one process."""
        self.task.cancel()
        await asyncio.wait({self.task})


@asynccontextmanager
async def agent(config: AgentConfig) -> AsyncIterator[RunningAgent]:
    """Run an agent in this process; stopped at the end where it still runs."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_agent(config, stop, Notifier({})), name=f"agent {config.id}")
    running = RunningAgent(task, stop)
    try:
        yield running
    finally:
        stop.set()
        if not task.done():
            await asyncio.wait({task}, timeout=BOUND_S)


@contextmanager
def agent_process(arguments: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`flotilla-agent` as a process, its stderr in `log`; gone at the end."""
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "device_agent.cli.main", *arguments], stderr=stderr, stdout=subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
