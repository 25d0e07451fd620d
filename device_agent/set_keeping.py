"""Looks at the journal for sets: which may be switched to, which can't be taken any more and are taken apart."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from device_agent.clock import Clock
from device_agent.journal import MAX_UPDATES, Journal
from device_agent.lifecycle import Outcome
from device_agent.sets import Broken, Ready, Waiting, group_members, judge
from device_agent.threads import in_thread
from device_agent.updates import Update
from schemas.messages import LAST_WORDS, ErrorReport, ReleaseSet


class Standing(NamedTuple):
    """How it is with updates without a last word.

    Attributes:
        unfinished: all of them.
        ready: the members of one set that move together now; empty where there is no such set.
        due: when a set is to be looked at again.
        taken_apart: whether updates have ended that may have left something behind.
    """

    unfinished: list[Update]
    ready: tuple[Update, ...]
    due: datetime | None
    taken_apart: bool = False


class SetKeeping:
    """See the module."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    async def look(self) -> Standing:
        """Take apart what can't be taken any more, each set in one transaction; what remains."""
        return await in_thread(self._look)

    async def begin_anew(self, group: ReleaseSet) -> None:
        """Before a member is begun: where none is under way, what became of the set before counts no more."""
        await in_thread(self._begin_anew, group.id)

    def _begin_anew(self, group: str) -> None:
        past = [u for u in self._journal.history(limit=MAX_UPDATES) if u.request.group and u.request.group.id == group]
        if all(update.phase in LAST_WORDS for update in past):
            with self._journal.together():
                for update in past:
                    self._journal.change(update.id, request=msgspec.structs.replace(update.request, group=None))

    def _look(self) -> Standing:
        unfinished = self._journal.unfinished()
        if not any(update.request.group for update in unfinished):
            return Standing(unfinished, (), None)
        now, installs = self._clock.now(), self._journal.installs()
        sets = group_members(unfinished, self._journal.history(limit=MAX_UPDATES))
        verdicts = [judge(members, installs, now) for members in sets]
        broken = [verdict.moves for verdict in verdicts if isinstance(verdict, Broken) and verdict.moves]
        for moves in broken:
            self._take_apart(moves, now)
        ready = [verdict.members for verdict in verdicts if isinstance(verdict, Ready)]
        # one that has been begun goes first: nothing else may change the device in the middle of it
        ready.sort(key=lambda members: not any(update.switch_begun for update in members))
        due = [verdict.until for verdict in verdicts if isinstance(verdict, Waiting) and verdict.until is not None]
        if broken:
            unfinished = self._journal.unfinished()
        return Standing(unfinished, next(iter(ready), ()), min(due, default=None), bool(broken))

    def _take_apart(self, moves: Sequence[tuple[Update, Outcome, ErrorReport]], now: datetime) -> None:
        with self._journal.together():
            for update, outcome, error in moves:
                self._journal.advance(update.id, outcome, at=now, error=error)
