"""One simulated device: the agent's own connection, inbox, decider, commands and reporter around simulated updates."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from device_agent.commands import Commands
from device_agent.connection import Connection
from device_agent.decider import Decider
from device_agent.heard import Heard
from device_agent.inbox import Inbox
from device_agent.policy import DeviceView
from device_agent.reporter import Link as ReporterLink
from device_agent.reporter import Reporter
from device_agent.simulator.course import Course, Kind, course_of, facts_of, tags_of
from device_agent.simulator.memory import MemoryJournal
from device_agent.simulator.tally import Tally
from device_agent.simulator.turns import InTurn, Turns
from device_agent.simulator.updates import SimulatedUpdates
from device_agent.version import VERSION
from schemas.errors import NetworkError
from schemas.messages import LAST_WORDS, FactValue, UpdateEvent
from schemas.topics import Topics
from transport import Backoff, LinkSettings, TransportError

FLAP_EVERY_S: Final = 20.0
"""A flapping device keeps a connection for this long, on average."""
FLAP_AWAY_S: Final = 2.0
"""And is away for this long, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRules:
    """What all devices of a fleet have in common.

    Attributes:
        link: the broker; the client id is each device's own.
        topics: the topic root.
        channel: that all follow.
        pace_s: how long an update takes on average, seconds.
        seed: what chance depends on.
        bad_versions: releases that work nowhere.
    """

    link: LinkSettings
    topics: Topics
    channel: str
    pace_s: float
    seed: int
    bad_versions: frozenset[str] = frozenset()


class SimulatedDevice:
    """See the module.

    Args:
        name: its id.
        number: its place in the fleet.
        turns: of all devices of this process.
        twin: whether it is the second one with this id.
    """

    __slots__ = (
        "_chance",
        "_commands",
        "_connection",
        "_course_now",
        "_facts",
        "_heard",
        "_keeping",
        "_reporter",
        "_rules",
        "_stop",
        "_tags",
        "_tally",
        "_updates",
        "journal",
        "kind",
        "name",
        "silent",
    )

    def __init__(
        self,
        name: str,
        number: int,
        kind: Kind,
        rules: FleetRules,
        tally: Tally,
        *,
        turns: Turns,
        twin: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.silent = False
        self._rules = rules
        self._tally = tally
        self._stop = asyncio.Event()
        self._course_now: tuple[str, str, Course] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._chance = random.Random(f"{rules.seed}:{name}:{twin}")  # noqa: S311  # guards nothing
        boot_id = self._chance.randbytes(16).hex()
        self._tags = tags_of(number)
        self._facts: dict[str, FactValue] = facts_of(name, number, agent_version=VERSION, boot_id=boot_id)
        self.journal = MemoryJournal(
            device=name, boot_id=boot_id, on_begun=self._begun, on_event=self._told, on_confirmed=self._confirmed
        )
        self._updates = SimulatedUpdates(
            self.journal,
            course=self._course,
            now=_now,
            random_bytes=self._chance.randbytes,
            fall_silent=self._fall_silent,
        )
        self._assemble(boot_id, turns)

    def _assemble(self, boot_id: str, turns: Turns) -> None:
        rules = self._rules
        heard = self._heard = Heard(self.journal)
        self._reporter = _CountingReporter(
            topics=rules.topics, outbox=self.journal, view=self._view, boot_id=boot_id, device=self.name, now=_now
        )
        self._reporter.count = self._tally.note_message
        decider = Decider(
            updates=self._updates,
            heard=heard,
            device=self._view,
            now=_now,
            changed=self._changed,
            reopen=self.journal.forget_verdicts,
        )
        self._commands = Commands(
            updates=self._updates,
            heard=heard,
            now=_now,
            replay=self._reporter.replay,
            report=self._reporter.report_soon,
            check=self._check,
        )
        decisions = InTurn(decider, turns)
        inbox = Inbox(topics=rules.topics, device=self.name, decisions=decisions, take_command=self._commands.take)
        self._connection = Connection(
            settings=replace(rules.link, client_id=self.name),
            topics=rules.topics,
            device=self.name,
            inbox=inbox,
            reporter=self._reporter,
            subscriptions=heard,
            view=self._view,
            next_session=self._next_session,
            stop=self._stop,
            backoff=Backoff(rng=self._chance),
        )

    @property
    def open(self) -> bool:
        """Whether it has an update without a last word, or words that the broker does not have yet."""
        return not self.silent and self.journal.is_open

    @property
    def connected(self) -> bool:
        """Whether the broker is there, for all that it knows."""
        return self._connection.connected

    def stop(self) -> None:
        """Say goodbye and end."""
        self._updates.end()
        self._stop.set()

    async def run(self) -> None:
        """Be a device until `stop`, until it falls silent, or until another one with its id drives it out."""
        commands = asyncio.create_task(self._commands.serve(), name=f"commands {self.name}")
        try:
            while await self._dropped():
                self._tally.drops += 1
                await _unless(self._stop, self._chance.expovariate(1 / FLAP_AWAY_S))
        except NetworkError:
            self._tally.duplicates += 1
        finally:
            self._updates.end()
            commands.cancel()

    async def _dropped(self) -> bool:
        """Stay connected for as long as this device does; whether the connection was dropped only to come back."""
        keeping = self._keeping = asyncio.create_task(self._connection.keep(), name=f"connection {self.name}")
        flap_s = self._chance.expovariate(1 / FLAP_EVERY_S) if self.kind is Kind.FLAPPING else None
        try:
            await asyncio.wait({keeping}, timeout=flap_s)
        finally:
            # whoever is cut off like this says no word, and the broker speaks the last will
            keeping.cancel()
            await asyncio.wait({keeping})
            self._connection.connected = False
        if not keeping.cancelled():
            keeping.result()
        return keeping.cancelled() and not (self.silent or self._stop.is_set())

    def _fall_silent(self) -> None:
        self.silent = True
        self._tally.silent += 1
        if self._keeping is not None:
            self._keeping.cancel()

    def _course(self, package: str, version: str) -> Course:
        rules, now = self._rules, self._course_now
        if now is not None and now[:2] == (package, version):
            return now[2]
        course = course_of(
            self.name,
            self.kind,
            package=package,
            version=version,
            bad=version in rules.bad_versions,
            pace_s=rules.pace_s,
            seed=rules.seed,
        )
        # asked for at each step, and drawn from a generator that is made anew for it
        self._course_now = (package, version, course)
        return course

    def _view(self) -> DeviceView:
        return DeviceView(
            id=self.name,
            channel=self._rules.channel,
            installed=frozenset(self.journal.installs()),
            tags=self._tags,
            facts=self._facts,
        ).told(self._heard.desired())

    def _changed(self) -> None:
        self._connection.refresh()
        self._reporter.report_soon()

    async def _check(self) -> None:
        self._facts = {**self._facts, "check": "ok (simulated)"}
        self._reporter.report_soon()

    def _next_session(self) -> int:
        self._tally.connections += 1
        return self.journal.next_session()

    def _told(self, event: UpdateEvent) -> None:
        self._tally.note_event(event)
        self._reporter.stir(event.phase)
        if event.phase in LAST_WORDS:
            self._connection.refresh()

    def _begun(self) -> None:
        self._tally.updates += 1

    def _confirmed(self, count: int, size: int) -> None:
        self._tally.confirmed += count
        self._tally.event_bytes += size


class _CountingReporter(Reporter):
    """Counts what it publishes."""

    count: Callable[[str, int], None]

    async def run(self, link: ReporterLink) -> None:
        await super().run(_CountingLink(link, self.count))

    async def say_online(self, link: ReporterLink, session: int) -> None:
        await super().say_online(_CountingLink(link, self.count), session)

    async def say_goodbye(self, link: ReporterLink, session: int) -> bool:
        return await super().say_goodbye(_CountingLink(link, self.count), session)


class _CountingLink:
    __slots__ = ("_count", "_link")

    def __init__(self, link: ReporterLink, count: Callable[[str, int], None]) -> None:
        self._link = link
        self._count = count

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> None:
        self._count(topic.rpartition("/")[2], len(payload))
        await self._link.publish(topic, payload, retain=retain, timeout_s=timeout_s)

    async def publish_all(
        self, topic: str, payloads: Sequence[bytes], *, timeout_s: float = 10.0
    ) -> list[TransportError | None]:
        kind = topic.rpartition("/")[2]
        for payload in payloads:
            self._count(kind, len(payload))
        return await self._link.publish_all(topic, payloads, timeout_s=timeout_s)


def _now() -> datetime:
    return datetime.now(UTC)


async def _unless(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but no longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
