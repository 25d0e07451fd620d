"""The rollout engine: `(plan, observations, now)` to decisions, and nothing else.

The same inputs give the same decisions, so a controller that was away or restarted goes on as if it had
never been gone. There is one wave now: all devices of a channel at once.
"""

from collections.abc import Iterable
from datetime import datetime

from controller.rollouts.plan import FINAL, OPEN, STARTING, Decisions, Observation, Plan, RolloutState, Verdict
from schemas.messages import Phase
from schemas.targeting import is_meant


def decide(plan: Plan, observations: Iterable[Observation], now: datetime) -> Decisions:
    """Give every observed device its verdict and the rollout its state.

    Args:
        plan: what is wanted.
        observations: one for each device that the rollout may concern.
        now: the controller's time, with a zone.
    """
    verdicts = {one.device: judge(plan, one, now) for one in observations}
    return Decisions(state=_state(plan.state, verdicts.values()), targets=plan.targets, verdicts=verdicts)


def judge(plan: Plan, seen: Observation, now: datetime) -> Verdict:
    """The verdict on one device.

    What a device said about this rollout counts whatever the targets mean now: it may have moved to
    another channel since. A device that runs the version without having said anything was there before.
    """
    if seen.phase in FINAL:
        return FINAL[seen.phase]
    if seen.phase is None:
        if not is_meant(plan.targets, rollout=plan.rollout, device=seen.device, tags=seen.tags, facts=seen.facts):
            return Verdict.NOT_MEANT
        if seen.installed == plan.version and seen.installed_phase is Phase.SUCCEEDED:
            return Verdict.SUCCEEDED
    return _without_last_word(plan, seen, now)


def _without_last_word(plan: Plan, seen: Observation, now: datetime) -> Verdict:
    started = seen.phase not in (None, Phase.DEFERRED)
    if not started and plan.deadline is not None and now > plan.deadline:
        return Verdict.MISSED
    if (now - seen.last_seen).total_seconds() > plan.silent_after_s:
        return Verdict.SILENT
    if started:
        return Verdict.UPDATING
    if plan.state not in STARTING or seen.pinned is not None:
        return Verdict.HELD
    return Verdict.DEFERRED if seen.phase is Phase.DEFERRED else Verdict.PENDING


def _state(state: RolloutState, verdicts: Iterable[Verdict]) -> RolloutState:
    """`active` and `complete` follow from the verdicts; every other state is an operator's to change."""
    if state not in STARTING:
        return state
    found = set(verdicts)
    if found & OPEN:
        return RolloutState.ACTIVE
    # Nobody meant, or nobody but the silent and the pinned: there is nothing yet that could be called complete.
    if found <= {Verdict.NOT_MEANT, Verdict.SILENT, Verdict.HELD}:
        return state
    return RolloutState.COMPLETE
