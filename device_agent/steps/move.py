"""What a step gives back: how the update moves on, and what is journaled and told with that."""

from dataclasses import dataclass, field
from typing import Any

from device_agent.lifecycle import Outcome
from device_agent.updates import Install, Origin, Update
from schemas.messages import ErrorReport, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The arguments of `Journal.advance`; see there."""

    outcome: Outcome
    error: ErrorReport | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    install: Install | None = None
    uninstall: bool = False


def leave(update: Update, install: Install | None) -> Move:
    """How an accepted wish to leave a release begins: by going back, unless it is not what is installed any more."""
    reverts = update.request.origin is Origin.REVERT
    gone = install is None or install.current.version != update.version
    if install is None or gone or (install.previous is None and update.request.to is None and not reverts):
        other = f"{update.package} {update.version} is not what there is to go back from any more"
        return Move(outcome=Outcome.CANCEL, error=ErrorReport(code="conflict.superseded", message=other))
    reverted = ErrorReport(code="conflict.reverted", message="the rollout was reverted")
    return Move(outcome=Outcome.GO_BACK, error=reverted if reverts else None, changes={"before": install})
