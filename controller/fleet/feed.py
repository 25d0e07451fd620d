"""What changes, as it changes, for whoever watches. In memory: the database is where nothing is lost.

Every watcher has a bounded queue. One that does not keep up is told so and dropped, so that it can never hold
up the intake, and asks the database for what it missed (`DeviceRegistry.events_since`).
"""

from asyncio import Queue, QueueFull
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from controller.rollouts.views import Rollout
from schemas.messages import Presence, Reported, UpdateEvent

DEFAULT_BACKLOG: Final = 2000


@dataclass(frozen=True, slots=True)
class EventTaken:
    """A new event is in the database under `id`."""

    id: int
    event: UpdateEvent


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """A device came or went."""

    presence: Presence


@dataclass(frozen=True, slots=True)
class ReportTaken:
    """A device reported what is true on it."""

    reported: Reported


@dataclass(frozen=True, slots=True)
class DeviceForgotten:
    """A device was removed, with all that was known of it."""

    device: str


@dataclass(frozen=True, slots=True)
class RolloutChanged:
    """A rollout was made, changed its state, or devices in it changed their verdicts."""

    rollout: Rollout


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """The broker went, or is there again; `away` is why it is not there, None where it is."""

    away: str | None


@dataclass(frozen=True, slots=True)
class TooSlow:
    """The last item: the watcher did not keep up, and what came from here on was not kept for it."""


Change = EventTaken | PresenceChanged | ReportTaken | DeviceForgotten | RolloutChanged | ConnectionChanged
Item = Change | TooSlow


class Watcher:
    """An asynchronous iterator over changes, from the moment it was made; ends after `TooSlow`."""

    def __init__(self, backlog: int) -> None:
        # One place more than the backlog: the last word must always fit.
        self._queue: Queue[Item] = Queue(backlog + 1)
        self._backlog = backlog
        self.dropped = False

    def offer(self, change: Change) -> bool:
        """Queue a change; False when the watcher is dropped for being too slow."""
        try:
            if self._queue.qsize() < self._backlog:
                self._queue.put_nowait(change)
                return True
            self._queue.put_nowait(TooSlow())
        except QueueFull:
            pass  # it was told already
        self.dropped = True
        return False

    async def __aiter__(self) -> AsyncIterator[Item]:
        while True:
            item = await self._queue.get()
            yield item
            if isinstance(item, TooSlow):
                return


class ChangeFeed:
    """Hands every change to every watcher. For the event loop's thread only."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self.published = 0
        """How many changes there were; whoever only wants to know whether anything changed need not watch."""

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    @contextmanager
    def watch(self, *, backlog: int = DEFAULT_BACKLOG) -> Iterator[Watcher]:
        """Watch as long as the block lasts.

        Args:
            backlog: changes that may wait to be read before the watcher counts as too slow.
        """
        watcher = Watcher(backlog)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def publish_all(self, changes: Iterable[Change], number: int) -> None:
        """As `publish`, for many; where nobody watches they are only counted, and not even made.

        Args:
            changes: the changes.
            number: how many those are.
        """
        if not self._watchers:
            self.published += number
            return
        for change in changes:
            self.publish(change)

    def publish(self, change: Change) -> None:
        """Tell everybody who watches; never waits."""
        self.published += 1
        for slow in [watcher for watcher in self._watchers if not watcher.offer(change)]:
            self._watchers.discard(slow)
