"""What a step gives back: how the update moves on, and what is journaled and told with that."""

from dataclasses import dataclass, field
from typing import Any

from device_agent.lifecycle import Outcome
from device_agent.updates import Install
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
