"""Whom a wave lets in when it begins, and when it has room for more. Pure.

What is let in stays in: every answer holds all that the wave held before.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from controller.rollouts.judging import Judge
from controller.rollouts.plan import ABSENT, BUSY, Mark, Observation, Plan, Verdict
from controller.rollouts.waves import MAX_IDS
from schemas.messages import BUCKETS, Phase
from schemas.targeting import bucket

MOST_LISTED: Final = 200
"""A share with `concurrency` lists so many ids at most to keep the places of those that are away: every device gets the
list with each step."""

_IN_TURN: Final = BUSY | ABSENT | {Verdict.HELD}
"""Verdicts of a device whose turn is not over; one that is held meanwhile goes on with it afterwards."""

_KEPT_OUT: Final = ABSENT | {Verdict.PENDING, Verdict.DEFERRED, Verdict.HELD}
"""Verdicts of a device that is not let in because it is away, or its operator holds it."""


class TooManyIdsError(Exception):
    """An announcement can list no more devices than so many; the text is for people."""


def let_in(
    plan: Plan,
    wave: int,
    seen: Sequence[Observation],
    now: datetime,
    *,
    marks: Mapping[str, Mark],
    places: Mapping[str, int],
) -> dict[str, Any] | None:
    """What `WaveProgress` says of a wave after it let in whom it can now; None where that is nobody.

    Args:
        plan: as it is.
        wave: its number; it has begun, or is the next one.
        seen: every device that the rollout may concern.
        now: the controller's time.
        marks: of those devices; `places`, their buckets.

    Raises:
        TooManyIdsError: the announcement cannot list all of them.
    """
    before, widening = (
        plan.progress[wave],
        _Widening(plan, wave, seen, judge=Judge(plan, now, places), marks=marks, places=places),
    )
    named = list(before.devices) if before.started_at else widening.chosen()
    if named is None:
        return None
    if named and not before.started_at and plan.waves[wave].concurrency is not None:
        # from now on they wait for their turn as all others of such a wave do
        return {"started_at": now, "chosen": widening.to_list(named, 0)}
    more: dict[str, Any] = {}
    if plan.waves[wave].concurrency is None:
        upto = plan.share(wave)
        waiting = widening.waiting()
        named += waiting + widening.listed()
        if turns := widening.turns(waiting, now):
            more = {"turns": turns}
    else:
        free = widening.with_room()
        named += free
        upto, opened = widening.closed(named)
        more = {"turns": widening.turns(free, now)}
        if opened:
            more |= {"opened_at": now, "kept": widening.away_in_turn()}
    upto = max(before.upto, upto)
    ids = widening.to_list(named, upto)
    if before.started_at and (ids, upto) == (before.devices, before.upto):
        return None
    return {"started_at": before.started_at or now, "devices": ids, "upto": upto, **more}


def everybody(plan: Plan, now: datetime) -> dict[str, Any] | None:
    """What `let_in` gives of a first wave that lets in all whom the rollout is for; None where it has to look at them.

    Each bucket is in, so nobody is listed, whoever is there.
    """
    # a wave of anything but a share has none
    is_all = plan.share(0) == BUCKETS and plan.waves[0].concurrency is None
    if not is_all or plan.progress[0].started_at is not None:
        return None
    return {"started_at": now, "devices": [], "upto": BUCKETS}


def picked(plan: Plan, wave: int, seen: Sequence[Observation], now: datetime, number: int) -> list[str]:
    """So many devices at most that a wave may pick beside those that are let in already; `seen` as for `let_in`."""
    if number <= 0:
        return []
    places = {one.device: bucket(plan.rollout, one.device) for one in seen}
    judge = Judge(plan, now, places)
    marks = {one.device: judge.mark(one) for one in seen}
    return _Widening(plan, wave, seen, judge=judge, marks=marks, places=places).fit()[:number]


class _Widening:
    def __init__(
        self,
        plan: Plan,
        wave: int,
        seen: Sequence[Observation],
        *,
        judge: Judge,
        marks: Mapping[str, Mark],
        places: Mapping[str, int],
    ) -> None:
        self._plan = plan
        self._number = wave
        self._wave = plan.waves[wave]
        self._judge = judge
        self._marks = marks
        self._places = places
        self._order = sorted(seen, key=lambda one: (self._places[one.device], one.device))

    def chosen(self) -> list[str] | None:
        """Devices that the engine itself picks for a wave that begins; None where it has to wait for one.

        A wave of so many devices, and a share that would be nobody, which is rounded up to one.
        """
        number = self._wave.picks
        left = self._left()
        if self._wave.upto is not None:
            if not self._order and self._wave.upto < 100:
                return None
            number = 1 if left and not any(self._is_own(one) and not _fixed(one) for one in self._order) else 0
        if not number:
            return []
        fit = self.fit()
        if not fit:
            return None if left or self._number == 0 else []
        return fit[:number]

    def fit(self) -> list[str]:
        """Devices that may be picked, in order; one that has the version already proves nothing."""
        there = [one for one in self._left() if one.online]
        return [one.device for one in there if not self._has_it(one)] or [one.device for one in there]

    def _left(self) -> list[Observation]:
        return [one for one in self._order if self._may_be_chosen(one)]

    def waiting(self) -> list[str]:
        """Those whose turn it is."""
        return [one.device for one in self._order if self._waits(one)]

    def listed(self) -> list[str]:
        """Ids that the plan or the operator names, heard of or not."""
        base, wanted = self._plan.base, self._wave
        if isinstance(wanted.devices, list):
            known = set(base.devices)
            return [one for one in wanted.devices if one in known or self._place(one) < base.upto]
        return [one for one in base.devices if self._place(one) < wanted.buckets]

    def with_room(self) -> list[str]:
        """Those of the waiting that are there and may start beside the others of the wave, in order."""
        busy = Counter(self._group(one) for one in self._order if self._is_own(one) and self._marks[one.device].place)
        free = []
        for one in self._order:
            group = self._group(one)
            if self._waits(one) and one.online and busy[group] < (self._wave.concurrency or 0):
                busy[group] += 1
                free.append(one.device)
        return free

    def turns(self, free: Sequence[str], now: datetime) -> dict[str, datetime]:
        """Who has its turn after the wave's deadline, with those that get it now."""
        end = self._plan.ends(self._number)
        if end is None or now <= end:
            return {}
        marks, before = self._marks, self._plan.progress[self._number].turns
        going = {one: turn for one, turn in before.items() if one in marks and marks[one].verdict in _IN_TURN}
        return going | dict.fromkeys(free, now)

    def away_in_turn(self) -> list[str]:
        """Who went away before it began, and has its place still."""
        return [one.device for one in self._order if self._marks[one.device].place and not one.online]

    def closed(self, named: Sequence[str]) -> tuple[int, bool]:
        """The buckets of a share all of whose devices are in: they need not be listed.

        Those of waves before this one that let in so many at a time have their turns there, whatever this one is.
        Where that leaves too many to list, those that are away or held are in, too: they begin when they are back.

        Returns:
            The buckets, and whether some of those that are away or held are in by them.
        """
        upto = self._closed(named, lambda one: self._waits_for_turn(one) or self._is_kept_out(one))
        if sum(self._place(one) >= upto for one in named) > MOST_LISTED:
            without_them = self._closed(named, self._waits_for_turn)
            return without_them, without_them > upto
        return upto, False

    def _closed(self, named: Sequence[str], stays_out: Callable[[Observation], bool]) -> int:
        let_in = set(named)
        out = (self._places[one.device] for one in self._order if one.device not in let_in and stays_out(one))
        return min([*out, self._plan.share(self._number)])

    def to_list(self, named: Sequence[str], upto: int) -> list[str]:
        """The ids that must be listed, by name; raises `TooManyIdsError`."""
        others = [one for number, one in enumerate(self._plan.progress) if number != self._number]
        ids = sorted(
            {device for device in named if self._place(device) >= upto} - {d for o in others for d in o.devices}
        )
        number = len(ids) + sum(len(one.devices) for one in others)
        if number > MAX_IDS:
            raise TooManyIdsError(
                f"wave {self._number + 1} ({self._wave.share}) would need {number} devices listed by id, and an"
                f" announcement can list {MAX_IDS}; use upto, or more channels"
            )
        return ids

    def _place(self, device: str) -> int:
        return self._places[device] if device in self._places else bucket(self._plan.rollout, device)

    def _is_own(self, one: Observation) -> bool:
        return self._marks[one.device].wave == self._number

    def _waits(self, one: Observation) -> bool:
        return self._is_own(one) and self._marks[one.device].verdict is Verdict.WAITING

    def _takes_turns(self, one: Observation) -> bool:
        """Whether it belongs to this wave, or to one before it that lets in so many at a time, too."""
        wave = self._marks[one.device].wave
        earlier = wave is not None and wave < self._number and self._plan.waves[wave].concurrency is not None
        return wave == self._number or earlier

    def _waits_for_turn(self, one: Observation) -> bool:
        return self._takes_turns(one) and self._marks[one.device].verdict is Verdict.WAITING

    def _is_kept_out(self, one: Observation) -> bool:
        """Whether it is not let in because it is away or held."""
        out = self._takes_turns(one) and self._marks[one.device].verdict in _KEPT_OUT
        return out and not self._judge.let_in(one, self._places[one.device])

    def _may_be_chosen(self, one: Observation) -> bool:
        place = self._places[one.device]
        return self._judge.meant(one, place) and not self._judge.let_in(one, place) and not _fixed(one)

    def _has_it(self, one: Observation) -> bool:
        return one.installed == self._plan.version and one.installed_phase is Phase.SUCCEEDED

    def _group(self, one: Observation) -> str | None:
        key = self._wave.concurrency_per
        value = None if key is None else one.tags.get(key, one.facts.get(key))
        return None if value is None else str(value)


def _fixed(one: Observation) -> bool:
    """Whether its operator keeps the device from starting anything."""
    return one.pinned is not None or one.hold
