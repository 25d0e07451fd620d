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
"""Devices that are looked at over all tries, so that a release waits for no more than a fraction of a second."""
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
        elif isinstance(wave.devices, int):
            brings = wave.devices
        else:
            brings = sum(one == number for one in sure)
        found.append(min(brings, meant - before))
    return found


def is_exact(plan: RolloutPlan, meant: int, *, of_share: bool) -> bool:
    """Whether a release to so many devices brings each wave as many as `brought` says, and not only about so many.

    `of_share`: whether it is for a share of the devices only.
    """
    shares = [wave for wave in plan.waves if wave.upto is not None and wave.upto < EVERYBODY]
    if not shares and not of_share:
        return True
    by_number = all(wave.upto is not None or isinstance(wave.devices, int) for wave in plan.waves)
    return by_number and not of_share and meant <= EXACT and len(shares) <= _FEW_SHARES


def drawn(plan: Plan, seen: Sequence[Observation], now: datetime, new_id: Callable[[], str]) -> str:
    """The id for a rollout that is about to begin: its own, or the first of some others that draws its waves as they
    should be, or nearest to it.

    Args:
        plan: the rollout, no wave of which has begun.
        seen: every device that it may concern.
        now: the controller's time.
        new_id: makes another id.
    """
    base = plan.base
    fitting = [one for one in seen if one.device not in base.exclude and _fits(plan, one)]
    is_drawn = 0 < base.upto < BUCKETS or any(0 < plan.share(number) < base.upto for number in range(len(plan.waves)))
    if not is_drawn or not 1 < len(fitting) <= SMALL:
        return plan.rollout
    named = sum(one.device in base.devices for one in fitting)
    meant = named - (-(len(fitting) - named) * base.upto // BUCKETS)
    sure = [certain_wave(plan.plan, one.device, tags=one.tags, facts=one.facts) for one in fitting]
    wanted = brought(plan.plan, sure, meant)
    best, least = plan.rollout, math.inf
    for attempt in range(min(_TRIES, _LOOKS // len(fitting))):
        rollout = new_id() if attempt else plan.rollout
        off = _off(replace(plan, rollout=rollout), seen, fitting, wanted, now)
        if off < least:
            best, least = rollout, off
        if not off:
            break
    return best


def _fits(plan: Plan, one: Observation) -> bool:
    return not plan.base.where or where_holds(plan.base.where, tags=one.tags, facts=one.facts)


def _off(
    plan: Plan, seen: Sequence[Observation], fitting: Sequence[Observation], wanted: Sequence[int], now: datetime
) -> int:
    """By how much its waves bring more or fewer than they should, those that are away now staying so or coming back."""
    if far := _far_off(plan, fitting, wanted):
        return far * SMALL
    there = _there(seen)
    ways = [seen] if there is seen else [seen, there]
    return sum(
        abs(has - should) for later in ways for has, should in zip(_brings(plan, seen, later, now), wanted, strict=True)
    )


def _far_off(plan: Plan, fitting: Sequence[Observation], wanted: Sequence[int]) -> int:
    """By how much its shares alone are wrong, whoever is picked besides; spares looking at who would be."""
    places = [bucket(plan.rollout, one.device) for one in fitting]
    off, should, besides = 0, 0, 0
    for number, brings in enumerate(wanted):
        should += brings
        share = plan.share(number)
        besides += 1 if share else brings
        if share:
            has = sum(place < share for place in places)
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
