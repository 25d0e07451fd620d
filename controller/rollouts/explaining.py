"""Why a rollout stands where it stands, in words for people. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from controller.fleet.views import Deferral
from controller.rollouts.holding import BY_OWNER, Held, first_of, held_up, is_owners
from controller.rollouts.plan import (
    ABSENT,
    BUSY,
    ENDED,
    FAILURES,
    OPEN,
    STILL,
    UNPROVEN,
    Plan,
    RolloutState,
    Verdict,
)
from controller.rollouts.proving import Proof, proof, too_many
from controller.rollouts.tally import Tally
from controller.rollouts.views import Rollout, RolloutDevice, Takers, WaveState, WaveView

REMEMBERED: Final = frozenset({RolloutState.HALTED, RolloutState.REVERTED})
"""One that was in such a state when another took its place remembers who had stopped it, and why."""
WHY_LEFT_OUT: Final = "the release leaves it out by name (--exclude)"
_NOT_BEGUN: Final = frozenset({Verdict.PENDING, Verdict.WAITING})
_STOPPED: Final = frozenset({RolloutState.HALTED, RolloutState.REVERTED, *ENDED})
"""Nobody starts any more, and nobody is waited for."""

_WITH_RESULT: Final = " with a result;"
_SUCCEEDED: Final = " devices succeeded, "


_ANEW: Final = "release it anew to begin with others"


def wave_views(plan: Plan, tally: Tally, held: Sequence[Held] = ()) -> list[WaveView]:
    """Every wave as people see it; `held` as for `because`."""
    return [_wave_view(plan, tally, number, held) for number in range(len(plan.waves))]


def because(plan: Plan, tally: Tally, *, by: str | None = None, held: Sequence[Held] = ()) -> str:
    """One line on what the rollout waits for, or why it stopped.

    Args:
        plan: the rollout.
        tally: counts of its devices.
        by: who brought it to its state, as the audit log names them; None where the engine did.
        held: its devices that are known to be held, by id.
    """
    match plan.state:
        case RolloutState.SUPERSEDED:
            return f"a newer rollout took its place{_before(plan)}"
        case RolloutState.WITHDRAWN:
            return f"the channel does not announce the package any more{_before(plan)}"
        case RolloutState.COMPLETE:
            return f"{_short_of(tally)}nobody is waited for; devices that come later or come back get it too"
        case RolloutState.ACTIVE:
            return _active(plan, tally, held)
        case _:
            if by is None and plan.stopped:
                return f"{plan.stopped}{_since(plan, tally)}"
            before = f"; before that: {plan.stopped}" if plan.stopped else ""
            return f"{plan.state.value} by {person(by)}{before}"


def already(present: RolloutState, wanted: RolloutState) -> bool:
    """Whether asking for a state changes nothing: a rollout that is complete has nothing left to go on with."""
    return wanted is present or (wanted is RolloutState.ACTIVE and present is RolloutState.COMPLETE)


def how_it_was(plan: Plan, tally: Tally, *, by: str | None, since: datetime) -> str:
    """What there is to remember of a rollout that was stopped, once another takes its place; empty for nothing."""
    if plan.state not in REMEMBERED:
        return plan.stopped
    said = because(plan, tally, by=by)
    named = said if said.startswith(plan.state.value) else f"{plan.state.value}: {said}"
    return f"{named} (since {since.isoformat(timespec='seconds').replace('+00:00', 'Z')})"


def stopped_before(state: RolloutState, stopped: str) -> RolloutState | None:
    """The state that a rollout which is over was stopped in, by what `how_it_was` has it remember."""
    return next((one for one in REMEMBERED if state in ENDED and stopped.startswith(one.value)), None)


def _since(plan: Plan, tally: Tally) -> str:
    """What has become of the wave that the engine stopped a rollout for, where it would not do so any more."""
    if plan.state in {RolloutState.REVERTED, *ENDED} or not any(
        one in plan.stopped for one in (_WITH_RESULT, _SUCCEEDED)
    ):
        return ""
    wave = next((number for number in range(plan.begun) if _named(plan, number) in plan.stopped), 0)
    if too_many(plan, tally, wave) or proof(plan, tally, wave) is Proof.FAILED:
        return ""
    return f"; since then {_result(tally, wave)}"


def _before(plan: Plan) -> str:
    return f"; before that: {plan.stopped}" if plan.stopped else ""


def reason(
    verdict: Verdict | None,
    state: RolloutState,
    *,
    pinned: str | None,
    hold: bool,
    leaves: bool,
    online: bool,
    waits: Deferral | None = None,
) -> str:
    """Why one device is held, or that it is away and so has not heard; empty where its verdict says all.

    Args:
        verdict: of the device.
        state: of the rollout.
        pinned: the version that it was told to stay at, if any.
        hold: whether it was told to start nothing.
        leaves: whether it was asked to leave the rollout, and has not answered.
        online: whether it is there.
        waits: what it waits for, by its last word.
    """
    if is_owners(verdict, waits):
        return BY_OWNER
    if verdict in _NOT_BEGUN and not online:
        return "away"
    if verdict is not Verdict.HELD:
        return ""
    told = [*([f"pinned at {pinned}"] if pinned is not None else []), *(["on hold"] if hold else [])]
    told += ["asked to leave it"] if leaves else []
    if state in {RolloutState.PAUSED, RolloutState.HALTED}:
        told.append(f"the rollout is {state.value}")
    return ", ".join(told) or "on another channel, or not meant any more"


def away_text(rollout: Rollout, devices: Iterable[RolloutDevice]) -> str:
    """Who of these devices is away of those that a wave which has begun waits for; empty for nobody."""
    if rollout.state is not RolloutState.ACTIVE:
        return ""
    waited_for = BUSY | ABSENT
    away = [
        one.device
        for one in devices
        if not one.online and one.verdict in waited_for and one.wave is not None and one.wave <= rollout.wave
    ]
    return f"away: {first_of(away)}" if away else ""


def left_out_text(number: int) -> str:
    """How many devices a release leaves out by name; empty for none."""
    if not number:
        return ""
    return "1 device is left out by the release" if number == 1 else f"{number} devices are left out by the release"


def goes_back(package: str, one: Takers) -> str:
    """What a revert means for some of the devices that took a release: `2 devices go back to 1.0.0: pi-1, pi-2`."""
    is_one, more = one.count == 1, " …" if one.count > len(one.devices) else ""
    who, names = "1 device" if is_one else f"{one.count} devices", f"{', '.join(one.devices)}{more}"
    if one.previous is None:
        return f"{who} had no {package} before and {'is' if is_one else 'are'} left with none: {names}"
    return f"{who} {'goes' if is_one else 'go'} back to {one.previous}: {names}"


def person(actor: str | None) -> str:
    """Whoever acted, for people: `anna`, `the token ci`, `somebody at the controller's machine`."""
    kind, _, name = (actor or "").partition(":")
    match kind:
        case "user":
            return name
        case "token":
            return f"the token {name}"
        case "local":
            return "somebody at the controller's machine"
        case _:
            return "an operator"


def _active(plan: Plan, tally: Tally, held: Sequence[Held]) -> str:
    for number in range(plan.begun):
        if proof(plan, tally, number) is not Proof.PROVEN:
            return _named(plan, number) + _running(plan, tally, number, held)
    if plan.begun < len(plan.waves):
        return _named(plan, plan.begun) + _next(plan, tally, held)
    # who comes back to a wave that is proven is waited for, too
    last = next((one for one in range(plan.begun) if tally.number(one, OPEN)), plan.begun - 1)
    return _named(plan, last) + _running(plan, tally, last, held)


def too_many_text(plan: Plan, tally: Tally, wave: int) -> str:
    """Why a wave failed by its limits."""
    wanted = plan.waves[wave]
    of = tally.number(wave, FAILURES | {Verdict.SUCCEEDED, Verdict.SOAKING})
    parts = [f"{wanted.max_failures}"] if wanted.max_failures is not None else []
    parts += [f"{wanted.max_failures_percent:g} %"] if wanted.max_failures_percent is not None else []
    forgiven = tally.forgiven(wave, FAILURES)
    after = f" after the {forgiven} that were accepted" if forgiven else ""
    return (
        f"{_named(plan, wave)}{_counts(tally, wave, FAILURES)} of {of}{_WITH_RESULT}"
        f" {' or '.join(parts)} may fail{after}"
    )


def counted_text(plan: Plan, tally: Tally, wave: int) -> str:
    """Why a wave failed though nobody is waited for any more."""
    good = tally.number(wave, {Verdict.SUCCEEDED})
    of = good + tally.number(wave, UNPROVEN)
    wanted = plan.waves[wave].success
    return f"{_named(plan, wave)}{good} of {of}{_SUCCEEDED}{wanted:g} % must; {_counts(tally, wave, UNPROVEN)}"


def _wave_view(plan: Plan, tally: Tally, number: int, held: Sequence[Held]) -> WaveView:
    progress = plan.progress[number]
    counts = tally.wave(number)
    state = _state(plan, tally, number)
    return WaveView(
        number=number + 1,
        share=plan.waves[number].share,
        state=state,
        verdicts={name: counts[name] for name in sorted(counts) if counts[name]},
        started_at=progress.started_at,
        proven_at=progress.proven_at,
        approved_at=progress.approved_at,
        deadline=plan.ends(number),
        accepted=tally.forgiven(number, STILL),
        because=_wave_because(plan, tally, number, state, held),
    )


def _state(plan: Plan, tally: Tally, number: int) -> WaveState:
    progress = plan.progress[number]
    if progress.started_at is None:
        if plan.state in _STOPPED:
            return _stopped(plan)
        next_one = number == plan.begun and plan.state is RolloutState.ACTIVE
        asks = plan.lacks_approval(number)
        before = all(proof(plan, tally, one) is Proof.PROVEN for one in range(number))
        return WaveState.AWAITING_APPROVAL if next_one and asks and before else WaveState.WAITING
    found = proof(plan, tally, number)
    if plan.stopped and (found is Proof.FAILED or too_many(plan, tally, number)):
        return WaveState.FAILED
    # what is taken back, or comes later, makes nothing unproven of a rollout that is over, and its end proves nothing
    was_proven = plan.state in _STOPPED and progress.proven_at is not None
    proven = found is Proof.PROVEN and (plan.state not in _STOPPED or tally.number(number, {Verdict.SUCCEEDED}) > 0)
    if proven or was_proven or plan.state is RolloutState.COMPLETE:
        return WaveState.ACCEPTED if _in_spite(plan, tally, number) else WaveState.PROVEN
    if plan.state in _STOPPED:
        return _stopped(plan)
    moving = tally.number(number, {Verdict.PENDING, Verdict.DEFERRED, Verdict.UPDATING, Verdict.WAITING})
    soaking = tally.number(number, {Verdict.SOAKING})
    return WaveState.SOAKING if soaking and not moving else WaveState.RUNNING


def _in_spite(plan: Plan, tally: Tally, number: int) -> bool:
    """Whether a wave counts as proven only as an operator has gone on in spite of what came of it."""
    good, bad = tally.number(number, {Verdict.SUCCEEDED}), tally.number(number, UNPROVEN)
    return tally.forgiven(number, UNPROVEN) > 0 and good * 100 < plan.waves[number].success * (good + bad)


def _stopped(plan: Plan) -> WaveState:
    """How a wave stands that had proven nothing when its rollout was stopped: only what was halted can go on."""
    return WaveState.STOPPED if plan.state is RolloutState.HALTED else WaveState.ENDED


def _wave_because(plan: Plan, tally: Tally, number: int, state: WaveState, held: Sequence[Held]) -> str:
    match state:
        case WaveState.STOPPED | WaveState.ENDED:
            begun = plan.progress[number].started_at is not None
            not_begun = "it has not begun" if state is WaveState.STOPPED else "it never began"
            return f"{_over(plan)}; {_result(tally, number) if begun else not_begun}"
        case WaveState.WAITING:
            return _waiting(plan, tally, number, held)
        case WaveState.AWAITING_APPROVAL:
            return _next(plan, tally, held)
        case WaveState.FAILED:
            return _failed(plan, tally, number)
        case WaveState.PROVEN | WaveState.ACCEPTED:
            spite = "; an operator went on in spite of that" if state is WaveState.ACCEPTED else ""
            return f"{_result(tally, number)}{spite}"
        case _:
            return _running(plan, tally, number, held)


def _failed(plan: Plan, tally: Tally, number: int) -> str:
    """Why a wave failed: what stopped the rollout, where it names this wave, and what else there is against it."""
    if _named(plan, number) in plan.stopped:
        return plan.stopped
    return too_many_text(plan, tally, number) if too_many(plan, tally, number) else counted_text(plan, tally, number)


def _waiting(plan: Plan, tally: Tally, number: int, held: Sequence[Held]) -> str:
    if plan.state is RolloutState.PAUSED:
        return "does not begin as long as the rollout is paused"
    before = number == plan.begun and plan.state is RolloutState.ACTIVE
    open_before = any(proof(plan, tally, one) is not Proof.PROVEN for one in range(number))
    return _next(plan, tally, held) if before and not open_before else "waits for the waves before it"


def _over(plan: Plan) -> str:
    """Why a wave ended with its rollout, or stopped with it."""
    match plan.state:
        case RolloutState.HALTED:
            return "goes on when the rollout is resumed"
        case RolloutState.SUPERSEDED:
            return "a newer rollout took its place"
        case RolloutState.WITHDRAWN:
            return "the package was withdrawn from the channel"
        case _:
            return f"the rollout was {plan.state.value}"


def _running(plan: Plan, tally: Tally, number: int, held: Sequence[Held]) -> str:
    whom, behind = held_up(plan, tally, number, held)
    waits = whom or _counts(tally, number, (Verdict.UPDATING, Verdict.PENDING, Verdict.DEFERRED))
    if turn_to_come := tally.number(number, {Verdict.WAITING}):
        turn = f"{turn_to_come} whose turn has not come"
        waits = f"{waits}, {turn}" if waits else turn
    soaking = tally.number(number, {Verdict.SOAKING})
    away = _counts(tally, number, ABSENT)
    if soaking:
        soak = f"{soaking} to stay well for {plan.waves[number].soak} and be heard of"
        waits = f"{waits}, {soak}" if waits else soak
    behind = f"; {behind}" if behind else ""
    if waits:
        there = f"; {away}" if whom and away else ""
        return f"waits for {waits}{there}; {_result(tally, number)}{behind}"
    if away:
        return f"waits for a device that is there; {away}"
    return _with_nobody(plan, tally, number)


def _with_nobody(plan: Plan, tally: Tally, number: int) -> str:
    """How a wave stands in which nobody is waited for; a first wave that has proven nothing stays so."""
    result, listed = _result(tally, number), plan.progress[number].devices
    if tally.number(number, {Verdict.HELD}) or proof(plan, tally, number) is not Proof.OPEN:
        return result
    if any(tally.wave(number).values()):
        return f"{result}; nobody is left to prove it: {_ANEW}"
    if not listed:
        return f"no device is in it yet; {result}"
    there = [one for one in listed if one not in plan.base.exclude]
    if not there:
        return f"{result}; {first_of(listed)} left out; nobody is left to prove it: {_ANEW}"
    fits = ", or without what the release asks for" if plan.base.where else ""
    return f"waits for {first_of(there)}, unknown or on another channel{fits}; where that stays so, {_ANEW}"


def _next(plan: Plan, tally: Tally, held: Sequence[Held]) -> str:
    wave = plan.begun
    if plan.lacks_approval(wave):
        return f"waits for a person to say go: flotilla approve {plan.rollout}"
    whom, behind = held_up(plan, tally, wave, held)
    waits = whom or "a device that is online, may start and lacks the release"
    return f"waits for {waits}{f'; {behind}' if behind else ''}"


def _result(tally: Tally, number: int) -> str:
    good = tally.number(number, {Verdict.SUCCEEDED})
    bad = _counts(tally, number, UNPROVEN | {Verdict.CANCELLED})
    return f"{good} succeeded{', ' + bad if bad else ''}"


def _short_of(tally: Tally) -> str:
    """How all devices ended, for the beginning of a line; empty where all that are not still at it succeeded."""
    counts = tally.verdicts()
    other = [one for one in Verdict if one not in OPEN and one is not Verdict.SUCCEEDED and counts.get(one)]
    said = ", ".join(_count(counts[one], one) for one in other)
    return f"{counts.get(Verdict.SUCCEEDED, 0)} succeeded, {said}; " if said else ""


def _counts(tally: Tally, number: int, verdicts: Iterable[Verdict]) -> str:
    counts = tally.wave(number)
    order = [one for one in Verdict if one in set(verdicts)]
    return ", ".join(_count(counts[one], one) for one in order if counts.get(one))


def _count(number: int, verdict: Verdict) -> str:
    return f"{number} {verdict.value.replace('_', ' ')}"


def _named(plan: Plan, number: int) -> str:
    if len(plan.waves) == 1:
        return ""
    return f"wave {number + 1} of {len(plan.waves)} ({plan.waves[number].share}): "
