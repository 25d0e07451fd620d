"""Takes in what devices publish: read, committed in batches, and only then acknowledged.

What was not committed when the controller or the link died is delivered again by the broker; what was
committed and not acknowledged comes again too, and changes nothing the second time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from controller.database import utc_now
from controller.fleet.halving import store_but_unfit
from controller.fleet.incoming import EventIn, Incoming, Reader
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.patience import patiently, reason
from controller.fleet.recall import Recall
from controller.fleet.refusals import Refusals
from controller.logs import told
from schemas.errors import ContractError
from transport import Link, Message

MAX_BATCH: Final = 1000
"""Messages in one transaction: as many as wait, which under load spares most of the commits."""
LINGER_S: Final = 0.006
"""A batch waits for more messages until none has come for so long: it spares commits, and nobody notices."""
_TURN_S: Final = 0.001
"""It waits for so long in any case: what the connection holds already is read meanwhile."""
LONGEST_S: Final = 0.25
"""A batch takes messages in for so long at most. Of a thousand, each costs half of what each of fifty does."""

log = logging.getLogger(__name__)


class Intake:
    """Feeds one store from one link after the other.

    Args:
        store: where batches go.
        reader: knows the topics.
        on_outcome: told what each batch changed, on the event loop, right after its commit and whatever
            happens to the link meanwhile.
        on_batch: told of each batch that is done: how many messages, and seconds since its oldest one arrived.
        on_quiet: called when what devices had to say is at an end, and taken in.
        recall: takes what the controller itself has said; None where that is not heard.
        aside: takes messages that are not the intake's; True for those.
        clock: the time of day.
    """

    def __init__(
        self,
        store: IntakeStore,
        reader: Reader,
        on_outcome: Callable[[Outcome], None],
        recall: Recall | None = None,
        *,
        on_batch: Callable[[int, float], None] = lambda _messages, _waited_s: None,
        on_quiet: Callable[[], None] = lambda: None,
        aside: Callable[[Message], bool] = lambda _message: False,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._reader = reader
        self._on_outcome = on_outcome
        self._on_batch = on_batch
        self._on_quiet = on_quiet
        self._recall = recall
        self._aside = aside
        self._clock = clock
        self._oldest: float | None = None
        self.more = False
        """Whether more is to be expected than the batch that is taken in, or was last: it was closed before an end."""
        self.refusals = Refusals()

    def delay_s(self) -> float:
        """For how long the oldest message that was taken from the link has been waiting for its commit; 0 for none."""
        return 0.0 if self._oldest is None else max(time.monotonic() - self._oldest, 0.0)

    async def run(self, link: Link) -> None:
        """Take in and acknowledge messages until the link is lost.

        Raises:
            LinkLost: what is not acknowledged comes again on the next link.
        """
        while True:
            first = await self._first(link)
            self._oldest = first[0].arrived
            try:
                read = _Read()
                messages, self.more = await gather(link, first, partial(self._read, into=read))
                await self._take_in(read)
                self._on_batch(len(messages), self.delay_s())
            finally:
                self._oldest = None
            if not self.more:
                self._on_quiet()
            await link.acknowledge_all(messages)

    async def _first(self, link: Link) -> list[Message]:
        """The next messages; says so where none come although a batch was closed as if more would."""
        if self.more:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_S):
                    return await link.batch(MAX_BATCH)
            self.more = False
            self._on_quiet()
        return await link.batch(MAX_BATCH)

    async def take_in(self, messages: Sequence[Message]) -> None:
        """Commit a batch; returns when each message is in the database or refused for good."""
        read = _Read()
        self._read(messages, into=read)
        await self._take_in(read)

    def _read(self, messages: Sequence[Message], *, into: "_Read") -> None:
        for message in messages:
            topic = message.topic
            try:
                said = self._reader.quickly(topic, message.payload, retained=message.retain)
                if said is None:
                    if self._recall is not None and self._recall.is_own(topic):
                        into.own.append(message)
                        continue
                    if self._aside(message):
                        continue
                    said = self._reader.read(topic, message.payload, retained=message.retain)
                into.said.append(said)
            except ContractError as error:
                into.refused.append((topic, error))

    async def _take_in(self, read: "_Read") -> None:
        now = asyncio.get_running_loop().time()
        # not before: where the connection breaks while more is waited for, all of it comes again
        for topic, error in read.refused:
            self.refusals.refuse(topic, error, now)
        if read.said:
            await store_but_unfit(read.said, self._commit, self._leave_out)
        if self._recall is not None:
            await self._recall.take(read.own, self.refusals)

    async def _commit(self, batch: Sequence[Incoming]) -> None:
        work = partial(self._commit_here, batch, asyncio.get_running_loop())
        await patiently(work, doing="intake")

    def _leave_out(self, one: Incoming, error: Exception) -> None:
        what = f"event {one.event.seq}" if isinstance(one, EventIn) else type(one).__name__
        self.refusals.counts["internal.error"] += 1
        extra = told("refused", device=one.device, code="internal.error")
        log.error("device %s: %s can't be stored and is left out: %s", one.device, what, reason(error), extra=extra)

    def _commit_here(self, batch: Sequence[Incoming], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread that nothing cancels: what is committed is always told."""
        outcome = self._store.take_in(batch, self._clock())
        loop.call_soon_threadsafe(self._on_outcome, outcome)


class _Read:
    """What the messages of a batch say: those of devices, and the controller's own."""

    def __init__(self) -> None:
        self.said: list[Incoming] = []
        self.own: list[Message] = []
        self.refused: list[tuple[str, ContractError]] = []


async def gather(
    link: Link, messages: list[Message], read: Callable[[Sequence[Message]], None] = lambda _messages: None
) -> tuple[list[Message], bool]:
    """Add what comes until nothing has for `LINGER_S`; see `LONGEST_S`, `MAX_BATCH`.

    Args:
        link: where it comes.
        messages: what has come already; one at least, `MAX_BATCH` at most.
        read: called with each of them, some at a time, as they come: while the last ones do there is time for it.

    Returns:
        The messages, and whether more is to be expected: with `MAX_BATCH` unanswered the broker sends nothing more.

    Raises:
        LinkLost: the connection is gone.
    """
    until = time.monotonic() + LONGEST_S
    read(messages)
    while len(messages) < MAX_BATCH and (now := time.monotonic()) < until:
        await asyncio.sleep(max(messages[-1].arrived + LINGER_S - now, _TURN_S))
        more = link.waiting(MAX_BATCH - len(messages))
        if not more:
            return messages, False
        read(more)
        messages += more
    return messages, True
