"""What a wave has proven, by the counts of its devices' verdicts. Pure."""

from enum import StrEnum

from controller.rollouts.plan import ABSENT, BUSY, FAILURES, UNPROVEN, Plan, Verdict
from controller.rollouts.tally import Tally


class Proof(StrEnum):
    """How a wave that has begun stands."""

    OPEN = "open"
    PROVEN = "proven"
    FAILED = "failed"


def too_many(plan: Plan, tally: Tally, wave: int) -> bool:
    """Whether more devices of a wave failed than may."""
    wanted, accepted = plan.waves[wave], plan.progress[wave].accepted
    failures = max(tally.number(wave, FAILURES) - accepted, 0)
    if wanted.max_failures is not None and failures > wanted.max_failures:
        return True
    results = max(tally.number(wave, FAILURES | {Verdict.SUCCEEDED}) - accepted, 0)
    limit = wanted.max_failures_percent
    return limit is not None and results >= wanted.min_results and failures * 100 > limit * results


def proof(plan: Plan, tally: Tally, wave: int) -> Proof:
    """How a wave stands that has begun.

    It is proven when enough of the devices that were reached have succeeded: as soon as that is so, or when nobody is
    waited for any more. Those that are away do not count, and neither do those in spite of which an operator went on.
    What was proven once is unproven by failures only.
    """
    wanted = plan.waves[wave]
    busy, waiting = tally.number(wave, BUSY), tally.number(wave, {Verdict.WAITING})
    good, bad = tally.number(wave, {Verdict.SUCCEEDED}), tally.number(wave, UNPROVEN)
    accepted = min(plan.progress[wave].accepted, bad)
    absent = tally.number(wave, ABSENT)
    results = good + bad - accepted
    if not results and not busy:
        if accepted:
            return Proof.OPEN if waiting else Proof.PROVEN
        # nobody is in it: what the waves before have proven has to do, so the first one waits for somebody
        return Proof.OPEN if absent or waiting or wave == 0 else Proof.PROVEN
    enough = good * 100 >= wanted.success * (results + busy)
    if enough and good >= 1 and wanted.success > 0 and not waiting:
        return Proof.PROVEN if results >= min(wanted.min_results, results + busy + absent) else Proof.OPEN
    if busy or waiting:
        return Proof.OPEN
    if not enough:
        # who comes back to what was proven and is refused, or late, has broken nothing: it stops nobody else
        failed = tally.number(wave, FAILURES) > plan.progress[wave].accepted
        return Proof.FAILED if failed or plan.progress[wave].proven_at is None else Proof.PROVEN
    return Proof.PROVEN if good or accepted or not wanted.success else Proof.OPEN
