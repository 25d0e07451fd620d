"""When a report is due: at once where an update has come to its end, else a few changes at once.

Looking at what is true reads the journal, so nobody looks for an event that changes nothing of it but its number, nor
where a look is due soon enough already.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from device_agent.threads import in_thread
from schemas.messages import LAST_WORDS, InstalledPackage, Phase

COALESCE_S: Final = 0.2
REPORT_EVERY_S: Final = 1.0
"""Two reports are at least this far apart, but for one that tells of an update's end."""
SEQ_ONLY_S: Final = 10.0
"""How long a report may wait in which nothing but the number of the last event has changed."""
SIGN_OF_LIFE_S: Final = 86_400.0

_UNTOUCHED: Final = frozenset(
    {Phase.ACCEPTED, Phase.DEFERRED, Phase.REJECTED, Phase.FETCHING, Phase.STAGED, Phase.CANCELLED}
)
"""Phases of updates for which nothing that is installed has been touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a report tells that makes it worth sending."""

    seq: int
    packages: dict[str, InstalledPackage]

    def has_ended(self, before: "Told") -> bool:
        """Whether an update has come to its end since: something else runs now, and is proven."""
        return any(
            one.phase is Phase.SUCCEEDED and one != before.packages.get(name) for name, one in self.packages.items()
        )


class DueReport:
    """See the module. For one event loop.

    Args:
        truth: what a report would tell now; called in a thread.
    """

    __slots__ = ("_asked", "_due", "_last_at", "_loop", "_stirred", "_timer", "_truth")

    def __init__(self, truth: Callable[[], Told]) -> None:
        self._truth = truth
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the connection
        self._due = math.inf
        self._last_at = -math.inf
        self._stirred = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def ask(self) -> None:
        """Something that the report tells has changed, or somebody asked for it."""
        self._asked = True
        self._stirred.set()

    def stir(self, phase: Phase | None = None) -> None:
        """There is a new event.

        Args:
            phase: the event's; None where anything may have changed.
        """
        if phase in _UNTOUCHED:
            self._be_due_in(SEQ_ONLY_S)
        elif phase is None or phase in LAST_WORDS:
            self._stirred.set()
        else:
            self._be_due_in(COALESCE_S)

    def sent(self) -> None:
        """A report has gone out just now."""
        self._last_at = asyncio.get_running_loop().time()

    async def next(self, told: Told | None) -> Told:
        """Wait until there is something to report that is worth it.

        The end of an update is reported at once: that is what a rollout waits for, and it comes once in an update.

        Args:
            told: the last report on this connection.
        """
        loop = self._loop = asyncio.get_running_loop()
        clock = loop.time
        if told is None:
            self._last_at = -math.inf  # how often is a matter of one connection
            self._stirred.set()
        life = clock() + SIGN_OF_LIFE_S
        # what was stirred while the last one was on its way did not know when that would be
        self._due = min(max(self._due, self._last_at + REPORT_EVERY_S), life)
        while True:
            await self._wait(loop)
            # what is stirred from here on may be told by the next report only
            self._stirred.clear()
            due, self._due = self._due, math.inf
            true = await in_thread(self._truth)
            if told is not None and true.has_ended(told):
                return self._chosen(true)
            changed = told is None or self._asked or true.packages != told.packages
            if changed:
                due = min(due, self._earliest(clock(), COALESCE_S))
            elif told is not None and true.seq != told.seq:
                due = min(due, clock() + SEQ_ONLY_S)
            if clock() < due:
                self._due = min(self._due, due)
            elif changed or true != told or due == life:
                return self._chosen(true)
            else:
                self._due = min(self._due, life)  # the event was counted already when the last report was made

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until it is due, or something may be due at once."""
        if self._stirred.is_set():
            return
        self._timer = loop.call_at(self._due, self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            self._timer.cancel()
            self._timer = None

    def _be_due_in(self, seconds: float) -> None:
        loop = self._loop
        if loop is None:
            return  # with the first connection all is told
        due = self._earliest(loop.time(), seconds)
        if due < self._due:
            self._due = due
            if self._timer is not None:
                self._timer.cancel()
                self._timer = loop.call_at(due, self._stirred.set)

    def _earliest(self, now: float, seconds: float) -> float:
        return max(now + seconds, self._last_at + REPORT_EVERY_S)

    def _chosen(self, true: Told) -> Told:
        self._asked = False
        return true
