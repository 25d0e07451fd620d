"""What became of a rollout's devices at the last look, in memory, so that the next look is only at what changed.

The database is the truth: a standing that is lost, or was made for another state of its rollout, is made anew from it.
"""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from controller.rollouts.plan import Mark, Plan, Verdict
from controller.rollouts.tally import Tally
from schemas.messages import Phase

Words = dict[str, Phase | None]
"""Device to the last step of its update that it spoke of; None where it said something else, or something else about it
changed."""

MOST_MARKS: Final = 100_000
"""Devices kept, over all rollouts: some 40 MiB. Rollouts beyond that are judged from the database at every look."""


class Standing:
    """The marks of one rollout's devices, counted, with the times at which they may change by themselves.

    Args:
        stamp: the state of the rollout in the database that they are for.
        plan: the rollout.
        marks: device to mark.
    """

    def __init__(self, stamp: object, plan: Plan, marks: Mapping[str, Mark]) -> None:
        self.stamp = stamp
        self.plan = plan
        self.tally = Tally()
        self.listening: set[str] = set()
        self.asking: set[str] = set()
        self._marks: dict[str, Mark] = {}
        self._due: list[tuple[datetime, str]] = []
        self.update(marks)

    def __len__(self) -> int:
        return len(self._marks)

    def update(self, marks: Mapping[str, Mark], gone: Iterable[str] = ()) -> None:
        """These devices have other marks now, and those are not concerned any more."""
        for device in gone:
            self._remove(device)
        for device, mark in marks.items():
            self._remove(device)
            self._marks[device] = mark
            self.tally.add(mark)
            if mark.listen:
                self.listening.add(device)
            if mark.ask:
                self.asking.add(device)
            if mark.due is not None:
                heapq.heappush(self._due, (mark.due, device))
        if len(self._due) > 4 * len(self._marks) + 1000:
            self._due = [(mark.due, device) for device, mark in self._marks.items() if mark.due is not None]
            heapq.heapify(self._due)

    def to_judge(self, words: Words) -> set[str]:
        """The devices whose mark may be another because of what they said; of the others only their word is noted.

        Args:
            words: device to what it said, see `Words`.
        """
        found: set[str] = set()
        for device, phase in words.items():
            mark = self._marks.get(device)
            if phase is None or mark is None or mark.verdict is not Verdict.UPDATING:
                found.add(device)
            elif mark.phase is not phase:
                self.tally.move(mark, phase)
                self._marks[device] = mark._replace(phase=phase)
        return found

    def next_due(self) -> datetime | None:
        """When the first of the marks may change by itself; None for never."""
        while self._due:
            moment, device = self._due[0]
            mark = self._marks.get(device)
            if mark is not None and mark.due == moment:
                return moment
            heapq.heappop(self._due)
        return None

    def take_due(self, now: datetime) -> set[str]:
        """The devices whose mark may have changed by itself till now; each is given once."""
        found: set[str] = set()
        while (moment := self.next_due()) is not None and moment <= now:
            found.add(heapq.heappop(self._due)[1])
        return found

    def _remove(self, device: str) -> None:
        before = self._marks.pop(device, None)
        if before is not None:
            self.tally.remove(before)
            self.listening.discard(device)
            self.asking.discard(device)


class Standings:
    """The standings of the rollouts that were looked at last, bounded. For one thread at a time."""

    def __init__(self, most_marks: int = MOST_MARKS) -> None:
        self._most = most_marks
        self._kept: OrderedDict[str, Standing] = OrderedDict()

    def __contains__(self, rollout: str) -> bool:
        return rollout in self._kept

    def get(self, rollout: str) -> Standing | None:
        """The standing of a rollout, if there is one."""
        found = self._kept.get(rollout)
        if found is not None:
            self._kept.move_to_end(rollout)
        return found

    def keep(self, rollout: str, standing: Standing) -> None:
        """Keep one, and forget those that were asked for least recently beyond the bound."""
        self._kept[rollout] = standing
        self._kept.move_to_end(rollout)
        marks = sum(map(len, self._kept.values()))
        while marks > self._most and self._kept:
            marks -= len(self._kept.popitem(last=False)[1])

    def drop(self, rollout: str) -> None:
        """Forget one."""
        self._kept.pop(rollout, None)

    def forget(self, device: str) -> None:
        """It is in no rollout any more, whether one of these is looked at again or not."""
        for standing in self._kept.values():
            standing.update({}, gone=[device])

    def listening(self, devices: Collection[str]) -> dict[str, set[str]]:
        """The rollouts that a sign of life of these devices may matter to, each with those devices."""
        heard = set(devices)
        found = {rollout: standing.listening & heard for rollout, standing in self._kept.items()}
        return {rollout: some for rollout, some in found.items() if some}

    def due(self, now: datetime) -> set[str]:
        """Rollouts that time alone may have changed."""
        return {
            rollout
            for rollout, standing in self._kept.items()
            if (moment := standing.next_due()) is not None and moment <= now
        }

    def next_due(self) -> datetime | None:
        """When time alone may change one of them."""
        moments = (standing.next_due() for standing in self._kept.values())
        return min((moment for moment in moments if moment is not None), default=None)

    def asking(self) -> dict[str, set[str]]:
        """Rollouts with the devices that are to be asked to report."""
        return {rollout: set(standing.asking) for rollout, standing in self._kept.items() if standing.asking}
