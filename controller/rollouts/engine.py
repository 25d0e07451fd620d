"""The rollout engine: `(plan, observations, now)` to decisions, and nothing else.

The same inputs give the same decisions, so a controller that was away or restarted goes on as if it had
never been gone. Devices are judged one by one (`judging`), counted (`tally`), and what the counts allow is the next
step; it is repeated until there is none. Who only has new marks for some devices counts anew and asks `by_counts`: most
steps change no device's mark, and nobody else has to be looked at for them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec

from controller.rollouts.explaining import counted_text, too_many_text
from controller.rollouts.judging import Judge
from controller.rollouts.plan import (
    STOPS,
    UNDER_WAY,
    UNPROVEN,
    Decisions,
    Mark,
    Observation,
    Plan,
    RolloutState,
    Verdict,
)
from controller.rollouts.proving import Proof, new_failures, proof, too_many
from controller.rollouts.tally import Tally
from controller.rollouts.widening import TooManyIdsError, everybody, let_in
from schemas.messages import Phase
from schemas.targeting import bucket


@dataclass(frozen=True, slots=True)
class Stop:
    """The rollout is stopped; `because` says why."""

    state: RolloutState
    because: str


@dataclass(frozen=True, slots=True)
class Move:
    """The rollout gets another state: all is done, or something is to be done again."""

    state: RolloutState


@dataclass(frozen=True, slots=True)
class Prove:
    """The wave has proven enough for the first time."""

    wave: int


@dataclass(frozen=True, slots=True)
class LetIn:
    """A wave begins, or has room for more of its devices."""

    wave: int


Counted = Move | Prove
"""Steps that leave every mark as it is: nobody may start, or has to stop, because of one."""

_BY_COUNTS: Final = (Move, Prove)

Step = Counted | Stop | LetIn


def decide(plan: Plan, observations: Iterable[Observation], now: datetime) -> Decisions:
    """Give every observed device its verdict, and take every step that can be taken now.

    Args:
        plan: what is wanted, and how far it is.
        observations: one for each device that the rollout may concern.
        now: the controller's time, with a zone.
    """
    seen = list(observations)
    plan = _begun_for_all(plan, now)
    places = {one.device: bucket(plan.rollout, one.device) for one in seen}
    while True:
        judge = Judge(plan, now, places)
        marks = {one.device: judge.mark(one) for one in seen}
        steps = next_steps(plan, Tally(marks.values()))
        taken = (_taken(plan, step, seen, now, marks=marks, places=places) for step in steps)
        after = next((one for one in taken if one != plan), None)
        if after is None:
            return Decisions(plan=plan, marks=marks)
        plan = after


def _begun_for_all(plan: Plan, now: datetime) -> Plan:
    """The plan with its first wave begun, where that is a matter of no device's verdict; else as it is."""
    if plan.begun:
        return plan
    step = next_step(plan, Tally())
    given = everybody(plan, now) if isinstance(step, LetIn) else None
    return plan if given is None else _with(plan, 0, **given)


def next_step(plan: Plan, tally: Tally) -> Step | None:
    """The first of `next_steps`; None where all stays as it is."""
    return next(next_steps(plan, tally), None)


def next_steps(plan: Plan, tally: Tally) -> Iterator[Step]:
    """What the counts allow or ask for: one step, after those that change nothing where nobody is found for them.

    A stopped rollout takes no step by itself.
    """
    if plan.state is not RolloutState.ACTIVE:
        if plan.state is RolloutState.COMPLETE and tally.open:
            yield Move(RolloutState.ACTIVE)
        return
    begun = range(plan.begun)
    limit = next((step for wave in begun if (step := _limit(plan, tally, wave)) is not None), None)
    if limit is not None:
        yield limit
        return
    for wave in begun:
        found = proof(plan, tally, wave)
        if found is not Proof.PROVEN or plan.progress[wave].proven_at is None:
            step = _of_wave(plan, tally, wave, found)
            break
        if tally.number(wave, {Verdict.WAITING}) and _has_room(plan, tally, wave):
            yield LetIn(wave)  # who comes back to what is proven begins in its turn
    else:
        step = _after_all_begun(plan, tally)
    if step is not None:
        yield step


def by_counts(plan: Plan, tally: Tally, now: datetime) -> Plan | None:
    """The plan after every step that can be taken now, if none of them changes a mark or asks for who the devices are.

    Args:
        plan: what is wanted, and how far it is.
        tally: counts of the marks that its devices have.
        now: as for `decide`.

    Returns:
        The plan, the same one where there is no step; None where `decide` has to look at every device.
    """
    while (step := next_step(plan, tally)) is not None:
        if not isinstance(step, _BY_COUNTS):
            return None
        plan = _after(plan, step, now)
    return plan


def _limit(plan: Plan, tally: Tally, wave: int) -> Step | None:
    """The limits of a wave hold as long as the rollout goes on, however long ago the wave was proven."""
    if too_many(plan, tally, wave):
        return Stop(STOPS[plan.plan.on_failure], too_many_text(plan, tally, wave))
    return None


def _of_wave(plan: Plan, tally: Tally, wave: int, found: Proof) -> Step | None:
    if found is Proof.FAILED:
        failed = new_failures(tally, wave) > 0
        state = STOPS[plan.plan.on_failure] if failed else RolloutState.PAUSED
        return Stop(state, counted_text(plan, tally, wave))
    if tally.number(wave, {Verdict.WAITING}) and _has_room(plan, tally, wave):
        return LetIn(wave)
    return Prove(wave) if found is Proof.PROVEN else None


def _after_all_begun(plan: Plan, tally: Tally) -> Step | None:
    begun = plan.begun
    if begun < len(plan.waves):
        return None if plan.lacks_approval(begun) else LetIn(begun)
    return None if tally.open else Move(RolloutState.COMPLETE)


def _has_room(plan: Plan, tally: Tally, wave: int) -> bool:
    """Whether another of a wave's devices may start: certainly not, or perhaps, as each value of a tag has its own."""
    wanted = plan.waves[wave]
    if wanted.concurrency is None or wanted.concurrency_per is not None:
        return True
    return tally.places(wave) < wanted.concurrency


def _taken(
    plan: Plan,
    step: Step,
    seen: list[Observation],
    now: datetime,
    *,
    marks: Mapping[str, Mark],
    places: Mapping[str, int],
) -> Plan:
    """The plan after a step; the same one where the step has to wait for devices."""
    match step:
        case Stop():
            return replace(plan, state=step.state, stopped=step.because)
        case LetIn():
            try:
                given = let_in(plan, step.wave, seen, now, marks=marks, places=places)
            except TooManyIdsError as error:
                return replace(plan, state=RolloutState.PAUSED, stopped=str(error))
            return plan if given is None else _with(plan, step.wave, **given)
        case _:
            return _after(plan, step, now)


def _after(plan: Plan, step: Counted, now: datetime) -> Plan:
    match step:
        case Move():
            return replace(plan, state=step.state)
        case Prove():
            return _with(plan, step.wave, proven_at=now)


def _with(plan: Plan, wave: int, **changes: object) -> Plan:
    progress = list(plan.progress)
    progress[wave] = msgspec.structs.replace(progress[wave], **changes)
    return replace(plan, progress=tuple(progress))


def approved(plan: Plan, now: datetime) -> Plan | None:
    """The plan after a person said go; None where it does not wait for that."""
    wave = plan.begun
    if wave >= len(plan.waves) or not plan.lacks_approval(wave):
        return None
    return _with(plan, wave, approved_at=now)


def in_turn_again(plan: Plan, waves: Mapping[str, int | None], now: datetime) -> Plan:
    """The plan after devices were asked to try again: after their wave's deadline they have as long again as it had.

    Args:
        plan: the rollout.
        waves: device to its wave.
        now: the controller's time, with a zone.
    """
    for wave in range(plan.begun):
        end = plan.ends(wave)
        some = [device for device, its in waves.items() if its == wave]
        if end is not None and now > end and some:
            plan = _with(plan, wave, turns=plan.progress[wave].turns | dict.fromkeys(some, now))
    return plan


def resumed(plan: Plan, observations: Iterable[Observation], now: datetime) -> tuple[Plan, list[Observation]]:
    """The rollout after an operator went on in spite of what the engine had stopped it for: that is forgiven, once.

    Args:
        plan: the rollout, active again.
        observations: of its devices.
        now: the controller's time, with a zone.

    Returns:
        The plan, and the same devices, those forgiven that are in a wave that has begun and are no success now, or
        have begun and are asleep, beside those that are forgiven already and have done nothing since.
    """
    if not plan.stopped:
        return plan, list(observations)
    judge = Judge(plan, now)
    going = [msgspec.structs.replace(one, forgiven=_is_forgiven(plan, judge.mark(one))) for one in observations]
    return replace(plan, stopped=""), going


def _is_forgiven(plan: Plan, mark: Mark) -> bool:
    # who has begun and is away as usual at this hour is silent again later
    silent = mark.verdict is Verdict.ASLEEP and mark.phase in _HAVE_BEGUN
    in_the_way = mark.verdict in UNPROVEN or silent
    return mark.forgiven or (in_the_way and mark.wave is not None and plan.progress[mark.wave].started_at is not None)


_HAVE_BEGUN: Final = UNDER_WAY | {Phase.SUCCEEDED}
