"""What a wave has proven, by the counts of its devices' verdicts. Pure."""

from enum import StrEnum

from controller.rollouts.plan import ABSENT, BUSY, FAILURES, UNPROVEN, Plan, Verdict
from controller.rollouts.tally import Tally


class Proof(StrEnum):
    """How a wave that has begun stands."""

    OPEN = "open"
    PROVEN = "proven"
    FAILED = "failed"


def new_failures(tally: Tally, wave: int) -> int:
    """How many devices of a wave failed in spite of which no operator has gone on.

    One that was late then, and has failed since, is forgiven already.
    """
    return tally.number(wave, FAILURES) - tally.forgiven(wave, FAILURES)


def too_many(plan: Plan, tally: Tally, wave: int) -> bool:
    """Whether more devices of a wave failed than may."""
    wanted, failures = plan.waves[wave], new_failures(tally, wave)
    if wanted.max_failures is not None and failures > wanted.max_failures:
        return True
    results = failures + tally.number(wave, {Verdict.SUCCEEDED})
    limit = wanted.max_failures_percent
    return limit is not None and results >= wanted.min_results and failures * 100 > limit * results


def proof(plan: Plan, tally: Tally, wave: int) -> Proof:
    """How a wave stands that has begun.

    It is proven when enough of the devices that were reached have succeeded: as soon as that is so, or when nobody is
    waited for any more. Those that are away do not count, and neither do those in spite of which an operator went on.
    What was proven once is unproven by failures only.
    """
    wanted, progress = plan.waves[wave], plan.progress[wave]
    busy, waiting = tally.number(wave, BUSY), tally.number(wave, {Verdict.WAITING})
    good, bad = tally.number(wave, {Verdict.SUCCEEDED}), tally.number(wave, UNPROVEN)
    accepted = tally.forgiven(wave, UNPROVEN)
    absent = tally.number(wave, ABSENT)
    results = good + bad - accepted
    # who comes back to what was proven, and is waited for, refused or late, has broken nothing: it stops nobody else
    failures = new_failures(tally, wave)
    unproven = failures and good * 100 < wanted.success * (good + failures)
    was_proven = progress.proven_at is not None and not unproven
    if not results and not busy:
        if accepted or was_proven:
            return Proof.OPEN if waiting and not was_proven else Proof.PROVEN
        # nobody is in it: what the waves before have proven has to do, so the first one waits for somebody
        return Proof.OPEN if absent or waiting or wave == 0 else Proof.PROVEN
    enough = good * 100 >= wanted.success * (results + busy)
    is_sure = results >= min(wanted.min_results, results + busy + absent)
    if enough and is_sure and good >= 1 and wanted.success > 0 and not waiting:
        return Proof.PROVEN
    if (busy or waiting) and not was_proven:
        return Proof.OPEN
    if not enough:
        return Proof.PROVEN if was_proven else Proof.FAILED
    return Proof.PROVEN if good or accepted or was_proven or not wanted.success else Proof.OPEN
