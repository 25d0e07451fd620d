"""Publishes what the database says: announcements, desired states and commands. The database is the truth.

All retained topics are published at every connection, as a broker may have lost what it had, and whatever
changed as soon as it does. A row counts as published when the broker's PUBACK said so.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from controller.database import utc_now
from controller.fleet.orders import DesiredRow, OrderStore
from controller.fleet.patience import patiently
from controller.fleet.views import SentCommand
from controller.logs import told
from controller.rollouts.announcing import AnnouncementStore, TopicState
from schemas.codec import encode
from schemas.errors import one_line
from schemas.messages import Command
from schemas.topics import Topics
from transport import Link, PublishRefused

LOOK_AGAIN_S: Final = 60.0
"""What the broker refused is tried again after this time, unless something changes before."""

ANSWER_S: Final = 60.0
"""How long the broker may take to answer: it does so behind all that it has to send at that moment, and to take a busy
broker for a lost one would have all of that sent again."""

_AT_ONCE: Final = 100

log = logging.getLogger(__name__)
T = TypeVar("T")


class Announcer:
    """Keeps the broker's topics as the database has them.

    Args:
        topics: builds the topics.
        announcements: what release topics are to hold.
        orders: what single devices are told.
        on_said: told of each retained message right before it is published.
        clock: the time of day.
    """

    def __init__(
        self,
        topics: Topics,
        announcements: AnnouncementStore,
        orders: OrderStore,
        *,
        on_said: Callable[[str, bytes], None] = lambda _topic, _payload: None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._topics = topics
        self._announcements = announcements
        self._orders = orders
        self._on_said = on_said
        self._clock = clock
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Something has changed in the database; for the event loop's thread."""
        self._changed.set()

    async def run(self, link: Link) -> None:
        """Publish everything once, and then every change, until the link is lost.

        Raises:
            LinkLost: or another transport error that ends the link.
        """
        changed_only = False
        while True:
            self._changed.clear()
            await self._publish(link, changed_only=changed_only)
            changed_only = True
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _publish(self, link: Link, *, changed_only: bool) -> None:
        topics, rows, pending = await patiently(partial(self._due, changed_only=changed_only), doing="publishing")
        announced = await _each(topics, partial(self._announce, link))
        if announced:
            await patiently(partial(self._announcements.mark_published, announced), doing="announcing releases")
        await self._publish_desired(link, rows, changed_only=changed_only)
        # all before may have taken long, and a device carries out what the broker still delivers
        valid = [one for one in pending if one.expires_at > self._clock()]
        sent = [one.id for one in await _each(valid, partial(self._command, link))]
        if sent:
            await patiently(lambda: self._orders.mark_sent(sent, self._clock()), doing="sending commands")
        if pending and len(sent) == len(valid):
            self.wake()  # there may be more than one page of them

    def _due(self, *, changed_only: bool) -> tuple[list[TopicState], list[DesiredRow], list[SentCommand]]:
        """What is to be published of each kind; of desired states and commands a first page. In a thread."""
        # read first and sent last: what was said before a command, or with it, reaches its device before it does
        pending = self._orders.pending(self._clock())
        return (
            self._announcements.topics(changed_only=changed_only),
            self._orders.desired_rows(changed_only=changed_only),
            pending,
        )

    async def _publish_desired(self, link: Link, rows: list[DesiredRow], *, changed_only: bool) -> None:
        """These, and the pages after them."""
        while rows:
            taken = await _each(rows, partial(self._desired, link))
            await patiently(partial(self._orders.mark_published, taken), doing="telling devices")
            more = partial(self._orders.desired_rows, changed_only=changed_only, after=rows[-1].device)
            rows = await patiently(more, doing="telling devices")

    async def _announce(self, link: Link, state: TopicState) -> bool:
        return await self._keep(link, self._topics.release(state.channel, state.package), state.payload or b"")

    async def _desired(self, link: Link, row: DesiredRow) -> bool:
        return await self._keep(link, self._topics.device(row.device, "desired"), row.payload)

    async def _keep(self, link: Link, topic: str, payload: bytes) -> bool:
        """Have the broker keep it."""
        self._on_said(topic, payload)
        return await publish(link, topic, payload, retain=True)

    async def _command(self, link: Link, command: SentCommand) -> bool:
        expiry_s = math.ceil((command.expires_at - self._clock()).total_seconds())
        message = Command(id=command.id, verb=command.verb, args=command.args, expires_at=command.expires_at)
        topic = self._topics.device(command.device, "commands")
        return await publish(link, topic, encode(message), expiry_s=max(expiry_s, 1))


async def publish(link: Link, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None) -> bool:
    """Publish; False where the broker refuses, which is said in one line.

    Raises:
        LinkLost: or another transport error that ends the link.
    """
    try:
        await link.publish(topic, payload, retain=retain, expiry_s=expiry_s, timeout_s=ANSWER_S)
    except PublishRefused as refused:
        log.warning(
            "the broker refuses what the controller publishes on %s: %s",
            topic,
            one_line(refused),
            extra=told("announce", topic=topic, code="broker.denied"),
        )
        return False
    return True


async def _each(items: Sequence[T], send: Callable[[T], Awaitable[bool]]) -> list[T]:
    """Send the items, many at a time; returns those that the broker took."""
    taken: list[T] = []

    async def one(item: T) -> None:
        if await send(item):
            taken.append(item)

    for start in range(0, len(items), _AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for item in items[start : start + _AT_ONCE]:
                group.create_task(one(item), name="announce")
    return taken
