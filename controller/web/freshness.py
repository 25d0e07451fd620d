"""Answers that many pages ask for: read once, and again at most once a second while things change.

While an answer is read again, whoever asks gets the one before, so that a page never waits for the database where it
was asked for a moment ago; what is live on it looks again a second later.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from anyio import to_thread

T = TypeVar("T")

PAUSE_S: Final = 1.0
OLDEST_S: Final = 30.0
"""Time goes by even where nobody says anything."""
LATE_S: Final = 10.0
"""An answer older than this is not given while the next one is read."""
_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """An answer, and what `generation` was before it was read: whatever changed later may not be in it."""

    generation: int
    value: T


@dataclass(slots=True)
class _Held:
    task: "asyncio.Task[Any]"
    generation: int
    begun: float
    before: "Read[Any] | None" = None
    before_begun: float = 0.0


class Fresh:
    """For one event loop. Reading blocks and so is done in a thread; however many ask, it is done once.

    Args:
        generation: a number that grows whenever an answer may have changed.
        pause_s: an answer is read again no sooner than this after the last time.
        clock: seconds.
    """

    def __init__(
        self,
        generation: Callable[[], int],
        *,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generation = generation
        self._pause_s = pause_s
        self._clock = clock
        self._held: dict[Hashable, _Held] = {}

    async def get(self, key: Hashable, read: Callable[[], T]) -> Read[T]:
        """The answer to the question `key`; raises what `read` raises."""
        held = self._held.get(key)
        if held is None or self._stale(held):
            held = self._begin(key, read, held)
        if held.before is not None and not held.task.done() and self._clock() - held.before_begun < LATE_S:
            return held.before
        # whoever goes away must not take the answer from the others
        return Read(held.generation, await asyncio.shield(held.task))

    def forget(self) -> None:
        """Something was changed on purpose, and whoever did it wants to see it."""
        self._held.clear()

    def _stale(self, held: _Held) -> bool:
        if not held.task.done():
            return False
        if held.task.cancelled() or held.task.exception() is not None:
            return True
        age = self._clock() - held.begun
        return age >= OLDEST_S or (age >= self._pause_s and held.generation != self._generation())

    def _begin(self, key: Hashable, read: Callable[[], T], last: _Held | None) -> _Held:
        if len(self._held) >= _MOST:
            oldest = min(self._held, key=lambda one: self._held[one].begun)
            del self._held[oldest]
        task = asyncio.create_task(to_thread.run_sync(read), name=f"read {key}")
        # an error is told to whoever waits for it; where nobody does any more it is not worth a complaint
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        held = _Held(task, self._generation(), self._clock())
        if last is not None and not last.task.cancelled() and last.task.exception() is None:
            held.before, held.before_begun = Read(last.generation, last.task.result()), last.begun
        self._held[key] = held
        return held
