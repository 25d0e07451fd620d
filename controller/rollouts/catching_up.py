"""A rollout that went on without this database: what its announcement says of its waves. Pure.

An announcement tells whom a rollout means, and nothing of waves. So as few waves as can have meant those are taken to
have begun, and what they have proven since is asked for anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from controller.rollouts.plan import Observation, Plan, WaveProgress
from controller.rollouts.widening import picked
from schemas.messages import Targets
from schemas.targeting import bucket, where_holds


def caught_up(plan: Plan, said: Targets, seen: Sequence[Observation], now: datetime) -> Plan:
    """The plan with whoever was let in since, in the waves that did; who was in before stays in.

    Args:
        plan: as far as is known.
        said: whom a later announcement of the same rollout means.
        seen: every device that the rollout may concern.
        now: the controller's time.
    """
    places = {device: bucket(plan.rollout, device) for device in said.devices}
    upto = max(plan.targets.upto, said.upto)
    plan = replace(plan, base=_base(plan, said, places))
    known = frozenset().union(*(one.devices for one in plan.progress))
    observed = {one.device: one for one in seen}
    new = [
        observed.get(device, Observation(device=device, last_seen=now))
        for device in sorted(said.devices, key=lambda one: (places[one], one))
        if places[device] >= upto and device not in known
    ]
    waves = _waves_of(plan, new, places)
    named_by = [0 if wave is None else wave for wave in waves.values()]
    last = max([plan.begun - 1, _wave_of_share(plan, upto), *named_by])
    progress = list(plan.progress)
    for number in range(last + 1):
        named = [device for device, wave in waves.items() if (last if wave is None else wave) == number]
        progress[number] = _begun(plan, number, min(upto, plan.share(number)), named, now)
    plan = replace(plan, progress=tuple(progress))
    for number in range(plan.begun):
        progress[number] = _all_chosen(plan, number, seen, now)
        plan = replace(plan, progress=tuple(progress))
    return plan


def _base(plan: Plan, said: Targets, places: Mapping[str, int]) -> Targets:
    """Whom the rollout is for at all. That is known, but for one that was itself taken over from an announcement."""
    base = plan.base
    upto = max(base.upto, said.upto)
    more = {device for device, place in places.items() if place >= upto} - {*base.devices}
    return msgspec.structs.replace(base, upto=upto, devices=[*base.devices, *sorted(more)])


def _waves_of(plan: Plan, new: Sequence[Observation], places: Mapping[str, int]) -> dict[str, int | None]:
    """The first wave that can have let each of these devices in by its name; None where none can."""
    numbers = range(len(plan.waves))
    asking = next((number for number in numbers if plan.waves[number].where is not None), None)
    naming: dict[str, int | None] = {}
    for one in new:
        fits = (number for number in numbers if _names(plan, number, one, places[one.device]))
        naming[one.device] = next(fits, None)
    room = {number: _chosen(plan, number) for number in numbers}
    found: dict[str, int | None] = {}
    # whom no wave names was chosen, or met a condition that it does not meet any more
    for device in sorted(naming, key=lambda one: naming[one] is not None):
        own = naming[device] if naming[device] is not None else asking
        free = next((number for number in numbers if room[number] and (own is None or number < own)), own)
        if free is not None and free != own:
            room[free] -= 1
        found[device] = free
    return found


def _names(plan: Plan, number: int, one: Observation, place: int) -> bool:
    """Whether a wave's own words let the device in by its name."""
    wave = plan.waves[number]
    if one.device in plan.progress[number].chosen:
        return True
    if isinstance(wave.devices, list):
        return one.device in wave.devices
    if wave.where is not None:
        return where_holds(wave.where, tags=one.tags, facts=one.facts)
    if wave.concurrency is not None and place < plan.share(number):
        return True
    return one.device in plan.base.devices and place < wave.buckets


def _chosen(plan: Plan, number: int) -> int:
    """How many devices the engine itself may have picked for a wave since; those of one that had begun are known.

    Unless it was itself taken over from an announcement, and lets one after the other in.
    """
    wave, progress = plan.waves[number], plan.progress[number]
    if isinstance(wave.devices, list):
        return 0
    if progress.started_at is None:
        return wave.devices or (1 if wave.upto is not None else 0)
    if wave.devices is None or wave.concurrency is None or progress.chosen:
        return 0
    return max(wave.devices - len(progress.devices), 0)


def _all_chosen(plan: Plan, number: int, seen: Sequence[Observation], now: datetime) -> WaveProgress:
    """How far a wave is that has begun; of one that lets one after the other in, with those whose turn is to come.

    An announcement names none of those, and without them the wave would prove itself with fewer than it is to.
    """
    wave, progress = plan.waves[number], plan.progress[number]
    if not wave.picks or wave.concurrency is None or progress.chosen or not progress.started_at:
        return progress
    more = picked(plan, number, seen, now, wave.picks - len(progress.devices))
    return msgspec.structs.replace(progress, chosen=sorted({*progress.devices, *more}))


def _wave_of_share(plan: Plan, upto: int) -> int:
    """The first wave whose share is so much; -1 for nothing."""
    shares = (number for number in range(len(plan.waves)) if plan.share(number) >= upto)
    return next(shares, -1) if upto else -1


def _begun(plan: Plan, number: int, upto: int, named: Sequence[str], now: datetime) -> WaveProgress:
    before = plan.progress[number]
    upto = max(before.upto, upto)
    devices = {device for device in {*before.devices, *named} if bucket(plan.rollout, device) >= upto}
    return msgspec.structs.replace(before, started_at=before.started_at or now, upto=upto, devices=sorted(devices))
