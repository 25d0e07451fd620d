"""The verdict on one device: `(plan, observation, now)` to a mark. Pure; each device is judged by itself.

That is why a rollout of ten thousand devices need not be judged anew for one of them.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from controller.fleet.hours import next_hour, usually_away
from controller.rollouts.plan import BUSY, ENDED, FINAL, STARTING, STILL, Mark, Observation, Plan, RolloutState, Verdict
from controller.rollouts.waves import seconds
from schemas.messages import Phase
from schemas.targeting import bucket, where_holds

ASK_AFTER: Final = timedelta(seconds=15)
"""A device says that it succeeded, and reports what it runs a moment later. If not, it is asked."""

GRACE: Final = timedelta(minutes=10)
"""A device that went away just before its wave's deadline may be starting anew: it is waited for so long."""

STOPPED_BY_ROLLOUT: Final = "conflict.halted"
"""The error code with which a device ends an update because its rollout was halted."""


TAKEN_BACK: Final = "conflict.reverted"
"""The error code with which a device goes back because its rollout was reverted."""


_WITH_PLACE: Final = BUSY - {Verdict.SOAKING}
"""Verdicts with which a device takes a place of a wave with `concurrency`, if it was let in."""

_NO_PLACES: Final[Mapping[str, int]] = {}


def judge(plan: Plan, seen: Observation, now: datetime) -> Mark:
    """See `Judge`; for one device."""
    return Judge(plan, now).mark(seen)


class Judge:
    """Judges the devices of one rollout at one moment.

    Args:
        plan: the rollout.
        now: the controller's time, with a zone.
        places: buckets of devices that are known already: to work one out takes as long as to judge.
    """

    def __init__(self, plan: Plan, now: datetime, places: Mapping[str, int] = _NO_PLACES) -> None:
        self._plan = plan
        self._places = places
        self._now = now
        self._over = plan.state in ENDED
        self._starting = plan.state in STARTING
        self._given = [(frozenset(one.devices).union(one.chosen), one.upto) for one in plan.progress]
        self._begun = [one.started_at is not None for one in plan.progress]
        self._upto = max((one.upto for one in plan.progress), default=0)
        self._named = frozenset().union(*(one.devices for one in plan.progress))
        self._left_out = frozenset(plan.base.exclude)
        self._base_named = frozenset(plan.base.devices)
        self._lists = [frozenset(one.devices) if isinstance(one.devices, list) else None for one in plan.waves]
        self._shares = [plan.share(number) for number in range(len(plan.waves))]
        self._ends = [plan.ends(number) for number in range(len(plan.waves))]
        self._turns = [one.turns for one in plan.progress]
        self._soaks = [timedelta(seconds=seconds(one.soak)) for one in plan.waves]
        self._limited = [one.concurrency is not None for one in plan.waves]
        self._opened = max((one.opened_at for one in plan.progress if one.opened_at is not None), default=None)
        self._kept = frozenset().union(*(one.kept for one in plan.progress))
        self._silent_after = timedelta(seconds=plan.silent_after_s)

    def mark(self, seen: Observation) -> Mark:
        """Judge one device.

        What a device said about this rollout counts whatever the targets mean now: it may have moved to
        another channel since. A device that runs the version without having said anything was there before.
        """
        mark = self._at_any_time(seen)
        return mark._replace(forgiven=True) if seen.forgiven and mark.verdict in STILL else mark

    def _at_any_time(self, seen: Observation) -> Mark:
        """As `mark`.

        A sign of life from a time that is still to come was noted by a clock that was wrong, and has been put right
        since: all that is known is that the device was there when it said its last word.
        """
        if seen.last_seen <= self._now:
            return self._mark(seen)
        said = seen.heard_at if seen.heard_at is not None and seen.heard_at <= self._now else None
        mark = self._mark(msgspec.structs.replace(seen, last_seen=said or self._now))
        moments = [mark.due, _next([seen.heard_at, seen.last_seen], self._now)]
        return mark._replace(due=min(one for one in moments if one is not None))

    def _mark(self, seen: Observation) -> Mark:
        if self._over:
            return self._after_the_end(seen)
        place = self._place(seen.device)
        wave = self.wave_of(seen, place)
        if seen.phase is Phase.SUCCEEDED:
            return self._succeeded(seen, wave)
        let_in = self.let_in(seen, place)
        meant = self.meant(seen, place)
        # a pause has devices take back what they had not begun; going on, they begin again
        goes_on = self._starting or self._plan.state is RolloutState.PAUSED
        again = seen.phase is Phase.CANCELLED and seen.error_code == STOPPED_BY_ROLLOUT and goes_on and let_in
        if seen.phase in FINAL and not again:
            return Mark(_final(seen), wave, phase=seen.phase)
        if seen.phase in (None, Phase.DEFERRED) or again:
            return self._not_started(seen, wave if meant else None, let_in=let_in)
        return self._under_way(seen, wave)

    def _place(self, device: str) -> int:
        place = self._places.get(device)
        return bucket(self._plan.rollout, device) if place is None else place

    def meant(self, seen: Observation, place: int) -> bool:
        """Whether the rollout is for this device at all. `place` is its bucket."""
        base = self._plan.base
        return (place < base.upto or seen.device in self._base_named) and self._fits(seen)

    def let_in(self, seen: Observation, place: int) -> bool:
        """Whether the announcement means it now; the same as `is_meant` of the plan's targets."""
        return (place < self._upto or seen.device in self._named) and self._fits(seen)

    def wave_of(self, seen: Observation, place: int) -> int | None:
        """The wave that a device belongs to: the first that let it in, or is to; None for one that is not meant.

        One that has said something belongs where it did, though its tags or its channel changed since.
        """
        if seen.phase is None and not self.meant(seen, place):
            return None
        for number, (ids, upto) in enumerate(self._given):
            if seen.device in ids or place < upto or self._is_of(number, seen, place):
                return number
        return None

    def _is_of(self, number: int, seen: Observation, place: int) -> bool:
        """Whether a wave's own words mean the device, begun or not; those that are chosen are known when it begins."""
        wave = self._plan.waves[number]
        if wave.upto is not None:
            return place < self._shares[number] or (seen.device in self._base_named and place < wave.buckets)
        if wave.where is not None:
            return where_holds(wave.where, tags=seen.tags, facts=seen.facts)
        listed = self._lists[number]
        return listed is not None and seen.device in listed

    def _end(self, seen: Observation, wave: int | None) -> datetime | None:
        """When its wave does not wait for the device any more; who gets its turn after that has as long as the wave."""
        if wave is None:
            return None
        turn = self._turns[wave].get(seen.device)
        patience = None if turn is None else self._plan.patience(wave)
        return self._ends[wave] if turn is None or patience is None else turn + patience

    def _fits(self, seen: Observation) -> bool:
        where = self._plan.base.where
        if seen.device in self._left_out:
            return False
        return not where or where_holds(where, tags=seen.tags, facts=seen.facts)

    def _after_the_end(self, seen: Observation) -> Mark:
        """The channel tells of something else; what was said stays."""
        wave = self.wave_of(seen, self._place(seen.device))
        if seen.phase in FINAL:
            return Mark(_final(seen), wave, phase=seen.phase)
        gone = seen.last_seen + self._silent_after
        if seen.phase in (None, Phase.DEFERRED):
            return Mark(Verdict.ENDED, wave, phase=seen.phase)
        if self._now > gone:
            return Mark(Verdict.SILENT, wave, phase=seen.phase, listen=True)
        return Mark(Verdict.UPDATING, wave, phase=seen.phase, due=gone, listen=True)

    def _not_started(self, seen: Observation, wave: int | None, *, let_in: bool) -> Mark:
        phase, last = seen.phase, self._plan.deadline
        # a wave that is to begin with devices that are online may have been waiting for this one
        awaited = not seen.online and not all(self._begun)
        if phase is None and wave is None:
            return Mark(Verdict.HELD if seen.taken_back else Verdict.NOT_MEANT, listen=awaited)
        if phase is None and seen.installed == self._plan.version and seen.installed_phase is Phase.SUCCEEDED:
            return Mark(Verdict.SUCCEEDED, wave)
        reverted = self._plan.state is RolloutState.REVERTED
        if reverted or (last is not None and self._now > last):
            return Mark(Verdict.ENDED if reverted else Verdict.MISSED, wave, phase=phase)
        due = _next([last], self._now)
        if not self._starting or seen.pinned is not None or seen.hold or wave is None:
            return Mark(Verdict.HELD, wave, due=due, phase=phase)
        in_turn = self._begun[wave] and self._limited[wave]
        # of those whose turn it is, whoever is there goes first; the others get a place when they are back
        if let_in or (in_turn and not seen.online):
            return self._offered(seen, wave, let_in=let_in)
        return Mark(Verdict.WAITING, wave, due=due, listen=awaited or in_turn, phase=phase)

    def _offered(self, seen: Observation, wave: int, *, let_in: bool) -> Mark:
        """It may start, or could if it were there, and has not."""
        now, end = self._now, self._end(seen, wave)
        gone = seen.last_seen + self._silent_after
        verdict = Verdict.DEFERRED if seen.phase is Phase.DEFERRED else Verdict.PENDING
        if now > gone:
            verdict = Verdict.UNREACHED
        elif not seen.online and usually_away(seen.hours, now):
            verdict = Verdict.ASLEEP
        elif end is not None and now > end:
            since = self._offered_since(seen, wave)
            # who is away and not let in has not been offered it: its turn is to come
            heard = let_in and (seen.online or since is None or seen.last_seen >= since)
            verdict = Verdict.LATE if heard else Verdict.UNREACHED
        moments = [self._plan.deadline, gone, end]
        if not seen.online and seen.hours is not None:
            moments.append(next_hour(now))
        place = let_in and self._limited[wave] and verdict in _WITH_PLACE
        if place and not seen.online:
            # who went away keeps its place for as long as a start takes, and not from those that are there
            back_by = seen.last_seen + GRACE
            moments.append(back_by)
            had_it = self._opened is None or seen.last_seen > self._opened or seen.device in self._kept
            place = had_it and now <= back_by
        return Mark(verdict, wave, due=_next(moments, now), listen=True, phase=seen.phase, place=place)

    def _offered_since(self, seen: Observation, wave: int) -> datetime | None:
        """Since when a device of a wave that was let in may have heard of it, at the latest: who was let in while away
        was not offered it when the wave began."""
        progress = self._plan.progress
        began, place = progress[wave].started_at, self._place(seen.device)
        if began is None or not self._limited[wave] or seen.device in self._named or seen.device in self._kept:
            return began
        moments = [began] if self._opened is None else [began, self._opened]
        if place >= progress[wave].upto:
            later = (one.started_at for one in progress[wave + 1 :] if place < one.upto)
            moments += [one for one in later if one is not None][:1]
        return max(moments)

    def _under_way(self, seen: Observation, wave: int | None) -> Mark:
        gone = seen.last_seen + self._silent_after
        end = self._end(seen, wave)
        mark = self._quiet(seen, wave, Verdict.UPDATING, end, gone, answered=seen.online)
        if wave is not None and self._limited[wave] and mark.verdict in _WITH_PLACE:
            return mark._replace(place=True)
        return mark

    def _quiet(
        self,
        seen: Observation,
        wave: int | None,
        verdict: Verdict,
        end: datetime | None,
        gone: datetime,
        *,
        answered: bool,
    ) -> Mark:
        """A device that has begun: `verdict` as long as it is waited for, something else when that time is over."""
        now, back_by = self._now, seen.last_seen + GRACE
        own_end, over = end, end is not None and now > end
        if end is not None and not seen.online and seen.last_seen <= end:
            # it is no failure yet, and to end its wave without it would leave out what the plan does about failures
            end = max(end, back_by)
        if now <= gone and (end is None or now <= end):
            # a sign of life puts off the time when it is not waited for any more; only a soak may end by it, and the
            # wait for who went away right before that time
            listen = over or verdict is Verdict.SOAKING
            return Mark(verdict, wave, due=_next([gone, own_end, end], now), listen=listen, phase=seen.phase)
        if now > gone:
            verdict = Verdict.SILENT
        elif answered or now <= back_by:
            verdict = Verdict.LATE
        else:
            verdict = Verdict.ASLEEP if not seen.online and usually_away(seen.hours, now) else Verdict.SILENT
        moments = [gone, end, back_by]
        if not seen.online and seen.hours is not None:
            moments.append(next_hour(now))
        return Mark(verdict, wave, due=_next(moments, now), listen=True, phase=seen.phase)

    def _succeeded(self, seen: Observation, wave: int | None) -> Mark:
        """It says so. It is one when its report says so too, and it was heard of after the soak."""
        plan, now = self._plan, self._now
        runs_it = seen.installed == plan.version and seen.installed_phase is Phase.SUCCEEDED
        if not runs_it and seen.reported_since:
            # its operator wants something else of it
            told = seen.pinned is not None or seen.moved
            return Mark(Verdict.HELD if told else Verdict.LEFT, wave, phase=seen.phase)
        said = seen.heard_at or seen.last_seen
        soaked = said + (self._soaks[wave] if wave is not None else timedelta())
        if runs_it and now >= soaked and seen.last_seen >= soaked:
            return Mark(Verdict.SUCCEEDED, wave, phase=seen.phase)
        asking = soaked if runs_it else max(soaked, said + ASK_AFTER)
        end = self._end(seen, wave)
        if end is not None:
            # what has begun to soak may end it, and answer
            end = max(end, asking + GRACE)
        mark = self._quiet(
            seen, wave, Verdict.SOAKING, end, max(seen.last_seen + self._silent_after, asking), answered=False
        )
        # a word that is still to come by the clock gets its right time from the next one
        ask = seen.online and (now >= asking or said > now)
        return mark._replace(due=_next([mark.due, asking], now), ask=ask)


def _final(seen: Observation) -> Verdict:
    """The verdict on a last word: what was taken back on purpose went wrong on nobody."""
    if seen.phase is None:
        raise ValueError("a device that has said nothing has no last word")
    return Verdict.CANCELLED if seen.error_code == TAKEN_BACK else FINAL[seen.phase]


def _next(moments: list[datetime | None], now: datetime) -> datetime | None:
    """The first of the moments that is still to come. What holds `after` a moment holds a little later."""
    soonest: datetime | None = None
    for moment in moments:
        if moment is not None:
            one = moment + _TICK
            if one > now and (soonest is None or one < soonest):
                soonest = one
    return soonest


_TICK: Final = timedelta(microseconds=1)
