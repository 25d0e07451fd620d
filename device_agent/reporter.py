"""Tells the broker what happened and what is true: events from the outbox, the report, presence.

An event leaves the outbox when the broker's PUBACK says success, and not before. The report is retained
and is published anew after each change, a few changes at once where they come together.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, Protocol

from device_agent.due_report import DueReport, Told
from device_agent.logs import line, logger
from device_agent.outbox import KeptEvent
from device_agent.policy import DeviceView
from device_agent.threads import in_thread
from device_agent.version import VERSION
from schemas.codec import encode
from schemas.messages import InstalledPackage, Phase, Presence, Reported
from schemas.topics import Topics
from transport import PublishRefused, TransportError, Will

IN_FLIGHT: Final = 32
PUBLISH_S: Final = 60.0
"""Bound on one publish: 32 events with their log tails over a slow mobile connection."""
GOODBYE_S: Final = 2.0
WILL_DELAY_S: Final = 15
EVENTS_FIRST_S: Final = 10.0
"""How long a report waits for the events that it counts, so that nobody takes them for lost and asks for them again."""
LOOK_EVERY_S: Final = 86_400.0
REFUSED_FIRST_S: Final = 5.0
REFUSED_LONGEST_S: Final = 300.0
TOO_LARGE: Final = 0x95


class Link(Protocol):
    """The part of the connection that this needs."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> None:
        """Publish at QoS 1; return when the broker has taken it."""
        ...

    async def publish_all(
        self, topic: str, payloads: Sequence[bytes], *, timeout_s: float = 10.0
    ) -> list[TransportError | None]:
        """Publish several on one topic, in their order; gives what became of each, None where the broker has it."""
        ...


class Outbox(Protocol):
    """The part of the journal that this needs."""

    def unsent(self, limit: int = 100) -> list[KeptEvent]:
        """The oldest events that the broker has not confirmed."""
        ...

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has confirmed these."""
        ...

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        """Events above `seq`, confirmed or not."""
        ...

    def last_seq(self) -> int:
        """The last event's number."""
        ...

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Wait until there is an event above `after_seq`."""
        ...

    def installed(self) -> dict[str, InstalledPackage]:
        """What the device runs."""
        ...


class Reporter:
    """See the module. `run` is called once for each connection; what it has to say outlives them."""

    def __init__(
        self,
        *,
        topics: Topics,
        outbox: Outbox,
        view: Callable[[], DeviceView],
        boot_id: str,
        device: str,
        now: Callable[[], datetime],
    ) -> None:
        """
        Args:
            view: the device as it is now, facts included; called in a thread.
        """
        self._topics = topics
        self._outbox = outbox
        self._view = view
        self._boot_id = boot_id
        self._device = device
        self._now = now
        self._due = DueReport(self._truth)
        self._sent = asyncio.Event()
        self._replay_after: int | None = None
        self._replay_asked = asyncio.Event()

    def report_soon(self) -> None:
        """Something that the report tells has changed, or somebody asked for it."""
        self._due.ask()

    def stir(self, phase: Phase | None = None) -> None:
        """There is a new event; on the event loop.

        Args:
            phase: the event's; None where anything may have changed.
        """
        self._due.stir(phase)

    def replay(self, after_seq: int) -> None:
        """Send the events above `after_seq` again. Requests that come meanwhile become one."""
        before = self._replay_after
        self._replay_after = after_seq if before is None else min(before, after_seq)
        self._replay_asked.set()

    async def run(self, link: Link) -> None:
        """Send what there is to send over the link, until it is lost."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_events(link), name="outbox")
            tasks.create_task(self._send_reports(link), name="reported")
            tasks.create_task(self._send_again(link), name="replay")

    async def say_online(self, link: Link, session: int) -> None:
        """Publish presence for this connection."""
        await self._publish(link, "status", encode(self._presence(session, online=True)), retain=True)

    async def say_goodbye(self, link: Link, session: int) -> bool:
        """Publish an orderly end; False where the broker could not be told in time (the will does it then)."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                payload = encode(self._presence(session, online=False))
                await link.publish(self._topics.device(self._device, "status"), payload, retain=True)
        except (TransportError, TimeoutError):
            return False
        return True

    def will(self, session: int) -> Will:
        """What the broker is to say when this connection breaks."""
        return Will(
            topic=self._topics.device(self._device, "status"),
            payload=encode(self._presence(session, online=False)),
            delay_s=WILL_DELAY_S,
        )

    def _presence(self, session: int, *, online: bool) -> Presence:
        return Presence(
            device=self._device,
            online=online,
            session=session,
            boot_id=self._boot_id,
            agent_version=VERSION,
            at=self._now(),
        )

    async def _send_events(self, link: Link) -> None:
        while True:
            seen = await in_thread(self._outbox.last_seq)
            waiting = await in_thread(self._outbox.unsent, IN_FLIGHT)
            if waiting:
                await self._send(link, waiting)
            else:
                await self._outbox.wait_for_events(seen, LOOK_EVERY_S)

    async def _send(self, link: Link, events: Sequence[KeptEvent]) -> None:
        """Publish events, several in flight, in their order; refused ones are tried again with growing waits."""
        topic = self._topics.device(self._device, "events")
        wait_s = REFUSED_FIRST_S
        while events:
            outcomes = await link.publish_all(topic, [event.payload for event in events], timeout_s=PUBLISH_S)
            results = list(zip(events, outcomes, strict=True))
            sent = [event.seq for event, outcome in results if outcome is None]
            refused = [(event, outcome) for event, outcome in results if isinstance(outcome, PublishRefused)]
            hopeless = [event.seq for event, outcome in refused if outcome.reason_code == TOO_LARGE]
            await in_thread(self._outbox.mark_sent, sent + hopeless)
            self._sent.set()
            _raise_first(outcome for outcome in outcomes if not isinstance(outcome, PublishRefused))
            if refused:
                first, why = refused[0]
                logger().error(line("events", why, refused=len(refused), seq=first.seq, given_up=len(hopeless)))
            events = [event for event, outcome in refused if event.seq not in hopeless]
            if events:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, REFUSED_LONGEST_S)

    async def _send_again(self, link: Link) -> None:
        while True:
            await self._replay_asked.wait()
            self._replay_asked.clear()
            after, self._replay_after = self._replay_after, None
            try:
                while after is not None:
                    events = await in_thread(self._outbox.events_after, after, IN_FLIGHT)
                    await self._send(link, events)
                    after = events[-1].seq if events else None
            finally:
                if after is not None:  # the connection was lost on the way: the next one goes on
                    self.replay(after)

    async def _send_reports(self, link: Link) -> None:
        told: Told | None = None
        while True:
            told = await self._due.next(told)
            await self._events_first(told.seq)
            payload = await in_thread(self._reported, told)
            await self._publish(link, "reported", payload, retain=True)
            self._due.sent()

    async def _events_first(self, seq: int) -> None:
        """Wait until the broker has the events up to this one, but not for ever: it may refuse them."""
        self._sent.clear()
        if await in_thread(self._has_events, seq):
            return
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            self._sent.set()

        timer = asyncio.get_running_loop().call_later(EVENTS_FIRST_S, give_up)
        try:
            while not is_late:
                await self._sent.wait()
                self._sent.clear()
                if await in_thread(self._has_events, seq):
                    return
        finally:
            timer.cancel()

    def _has_events(self, seq: int) -> bool:
        waiting = self._outbox.unsent(1)
        return not waiting or waiting[0].seq > seq

    def _truth(self) -> Told:
        # the number first: a report may tell less than its number says, never more
        return Told(seq=self._outbox.last_seq(), packages=self._outbox.installed())

    def _reported(self, told: Told) -> bytes:
        view = self._view()
        return encode(
            Reported(
                device=self._device,
                at=self._now(),
                seq=told.seq,
                channel=view.channel,
                tags=dict(view.tags),
                facts=dict(view.facts),
                packages=told.packages,
            )
        )

    async def _publish(self, link: Link, kind: str, payload: bytes, *, retain: bool) -> None:
        """Publish, with one line and growing waits where the broker says no."""
        topic = self._topics.device(self._device, kind)
        wait_s = REFUSED_FIRST_S
        while True:
            try:
                await link.publish(topic, payload, retain=retain, timeout_s=PUBLISH_S)
            except PublishRefused as error:
                logger().error(line(kind, error, retry_s=wait_s))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, REFUSED_LONGEST_S)
            else:
                return


def _raise_first(outcomes: Iterable[BaseException | None]) -> None:
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
