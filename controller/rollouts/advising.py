"""What can be done about a rollout that was stopped, in words for people, with the commands. Pure."""

from collections.abc import Iterable
from typing import Final

from controller.rollouts.plan import RETRIED, UNPROVEN, Plan, RolloutState, Verdict
from controller.rollouts.tally import Tally

STOPPED: Final = frozenset({RolloutState.PAUSED, RolloutState.HALTED})
"""States in which commands are named that take the rollout's id."""


def advice(plan: Plan, tally: Tally, *, rollout: str, package: str, channel: str, earlier: str | None = None) -> str:
    """One line on what can be done about a rollout that was stopped; empty for any other.

    Args:
        plan: of the rollout, and where its devices stand.
        tally: likewise.
        rollout: its id, or as much of it as names it: the line says it up to three times.
        package: what it brings; `channel` likewise.
        earlier: the version that the channel announced before, if any.
    """
    match plan.state:
        case state if state in STOPPED:
            back = f"flotilla revert {rollout} sends back everybody who took it"
            on = f"flotilla resume {rollout}"
            if not plan.stopped or not _counted(tally, UNPROVEN):
                return f"{on} goes on with it; {back}"
            again = f"; flotilla retry {rollout} after that tries the failed ones again"
            return (
                f"{back}; {on} accepts what went wrong and lets the next devices start"
                f"{again if _counted(tally, RETRIED) else ''}"
            )
        case RolloutState.REVERTED:
            nothing = "devices that join later have nothing announced until"
            if earlier is None:
                return f"{nothing} another version of {package} is released on channel {channel}"
            return (
                f"{nothing} a version is released anew, e.g. the one before:"
                f" flotilla release {package} {earlier} --channel {channel}"
            )
        case _:
            return ""


def _counted(tally: Tally, verdicts: Iterable[Verdict]) -> int:
    """How many devices of the whole rollout have one of these verdicts."""
    counts = tally.verdicts()
    return sum(counts.get(one, 0) for one in verdicts)
