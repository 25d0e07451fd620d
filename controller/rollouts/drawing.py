"""How many devices each wave of a plan brings, and the id of a rollout, by which its shares are drawn. Pure.

Which devices a share is comes from a hash of the rollout's id and theirs, which agents work out by themselves. By any
id, a tenth of ten devices may be none or four of them. So a release to a small fleet takes an id by which each wave
brings as many as it should, of which there are plenty; who they are is as much a matter of chance as ever.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import msgspec

from controller.rollouts.judging import Judge
from controller.rollouts.plan import Observation, Plan
from controller.rollouts.waves import RolloutPlan, Wave
from controller.rollouts.widening import let_in
from schemas.messages import BUCKETS, FactValue
from schemas.targeting import bucket, where_holds

SMALL: Final = 50
"""Among more devices a share is near enough what it should be by any id."""

EXACT: Final = 12
"""Up to so many devices, a plan of a few shares finds an id that brings each wave what it should."""

_FEW_SHARES: Final = 3
_TRIES: Final = 500
_LOOKS: Final = 6000
"""Devices whose place in the shares is looked at over all tries."""
_LOOKS_BY_WAVE: Final = 10_000
"""Devices that are looked at wave by wave over all tries, as the engine does: a release, beside which nobody else may
write, waits for no more than a fraction of a second. Where an id can be exact, it is found with a third of that."""
EVERYBODY: Final = 100
"""Percent."""


def certain_wave(
    plan: RolloutPlan, device: str, *, tags: Mapping[str, str], facts: Mapping[str, FactValue]
) -> int | None:
    """The wave in which a device that is meant starts, from 1; None where that is drawn or chosen later."""
    for number, wave in enumerate(plan.waves, start=1):
        match _takes(wave, device, tags, facts):
            case True:
                return number
            case None:
                return None
    return None


def _takes(wave: Wave, device: str, tags: Mapping[str, str], facts: Mapping[str, FactValue]) -> bool | None:
    """Whether the wave takes a device that no earlier one has; None where it may."""
    if wave.where is not None:
        return where_holds(wave.where, tags=tags, facts=facts)
    if isinstance(wave.devices, list):
        return device in wave.devices
    return True if wave.upto == EVERYBODY else None


def brought(plan: RolloutPlan, sure: Sequence[int | None], meant: int) -> list[int]:
    """How many devices each wave brings.

    Args:
        plan: the waves.
        sure: `certain_wave` of each device that may be meant.
        meant: how many of these are, where only a share is.
    """
    found: list[int] = []
    for number, wave in enumerate(plan.waves, start=1):
        before = sum(found)
        if wave.upto is not None:
            # a share that would be nobody is one device
            brings = max(1, math.ceil(meant * wave.upto / EVERYBODY) - before)
        elif wave.picks:
            brings = wave.picks
        else:
            brings = sum(one == number for one in sure)
        found.append(min(brings, meant - before))
    return found


def is_exact(plan: RolloutPlan, meant: int, *, of_share: bool) -> bool:
    """Whether a release to so many devices brings each wave as many as `brought` says, and not only about so many.

    `of_share`: whether it is for a share of the devices only.
    """
    # of several devices that a wave picks some may be away when it begins, or have the version
    if of_share or any(wave.picks > 1 for wave in plan.waves):
        return False
    shares = [wave for wave in plan.waves if wave.upto is not None and wave.upto < EVERYBODY]
    by_number = all(wave.upto is not None or wave.picks for wave in plan.waves)
    return not shares or (by_number and meant <= EXACT and len(shares) <= _FEW_SHARES)


def drawn(plan: Plan, seen: Sequence[Observation], now: datetime, new_id: Callable[[], str]) -> str:
    """The id for a rollout that is about to begin: its own, or the first of some others that draws its waves as they
    should be, or nearest to it.

    Args:
        plan: the rollout, no wave of which has begun.
        seen: every device that it may concern.
        now: the controller's time.
        new_id: makes another id.
    """
    base, names = plan.base, frozenset(plan.base.devices)
    # without a share of the others, whoever is not named has no part in it
    concerned = [one for one in seen if base.upto or one.device in names]
    fitting = [one for one in concerned if one.device not in base.exclude and _fits(plan, one)]
    is_drawn = 0 < base.upto < BUCKETS or any(0 < wave.buckets < BUCKETS for wave in plan.waves)
    if not is_drawn or not 1 < len(fitting) <= SMALL:
        return plan.rollout
    named = sum(one.device in names for one in fitting)
    meant = named - (-(len(fitting) - named) * base.upto // BUCKETS)
    sure = [certain_wave(plan.plan, one.device, tags=one.tags, facts=one.facts) for one in fitting]
    wanted = brought(plan.plan, sure, meant)
    # in the end a wave has brought the same devices, however many of them begin at a time
    at_once = [msgspec.structs.replace(wave, concurrency=None, concurrency_per=None) for wave in plan.waves]
    plan = replace(plan, plan=msgspec.structs.replace(plan.plan, waves=at_once))
    ways = [fitting] if (there := _there(fitting)) is fitting else [fitting, there]
    best, least, looks = plan.rollout, math.inf, 0
    for attempt in range(min(_TRIES, _LOOKS // len(fitting))):
        tried = replace(plan, rollout=new_id() if attempt else plan.rollout)
        off = _far_off(tried, fitting, wanted) * SMALL
        if not off:
            off = _off(tried, ways, wanted, now)
            looks += len(fitting) * len(ways) * len(plan.waves)
        if off < least:
            best, least = tried.rollout, off
        if not off or looks >= _LOOKS_BY_WAVE:
            break
    return best


def _fits(plan: Plan, one: Observation) -> bool:
    return not plan.base.where or where_holds(plan.base.where, tags=one.tags, facts=one.facts)


def _off(plan: Plan, ways: Sequence[Sequence[Observation]], wanted: Sequence[int], now: datetime) -> int:
    """By how much its waves bring more or fewer than they should, later going on with each of the ways, the first of
    which is how the devices are now: those that are away stay so, or come back."""
    return sum(
        abs(has - should)
        for later in ways
        for has, should in zip(_brings(plan, ways[0], later, now), wanted, strict=True)
    )


def _far_off(plan: Plan, seen: Sequence[Observation], wanted: Sequence[int]) -> int:
    """By how much its shares alone are wrong, whoever is picked besides; spares looking at who would be."""
    names = frozenset(plan.base.devices)
    places = [(bucket(plan.rollout, one.device), one.device in names) for one in seen]
    off, should, besides = 0, 0, 0
    for number, (wave, brings) in enumerate(zip(plan.waves, wanted, strict=True)):
        should += brings
        is_share = wave.upto is not None
        besides += 1 if is_share else brings
        if is_share:
            # those that the release names are in by the wave's share of all, the others by its part of the release's
            share, of_named = plan.share(number), wave.buckets
            has = sum(place < (max(share, of_named) if named else share) for place, named in places)
            off += max(has - should, should - besides - has, 0)
    return off


def _brings(plan: Plan, first: Sequence[Observation], later: Sequence[Observation], now: datetime) -> list[int]:
    """How many devices each wave brings where all go well: the first one with some of these, the others with those."""
    places = {one.device: bucket(plan.rollout, one.device) for one in first}
    seen = first
    for number in range(len(plan.waves)):
        judge = Judge(plan, now, places)
        marks = {one.device: judge.mark(one) for one in seen}
        # nobody is there to be picked: the wave waits until somebody is
        begun = (let_in(plan, number, some, now, marks=marks, places=places) for some in (seen, _there(seen)))
        given = next((one for one in begun if one is not None), {"started_at": now})
        progress = list(plan.progress)
        progress[number] = msgspec.structs.replace(progress[number], **given)
        plan = replace(plan, progress=tuple(progress))
        seen = later
    judge = Judge(plan, now, places)
    waves = [judge.mark(one).wave for one in seen]
    return [waves.count(number) for number in range(len(plan.waves))]


def _there(seen: Sequence[Observation]) -> Sequence[Observation]:
    return seen if all(one.online for one in seen) else [msgspec.structs.replace(one, online=True) for one in seen]
