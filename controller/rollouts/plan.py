"""The values that the rollout engine takes and returns; nothing here reads a clock, a disk or a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from schemas.messages import LAST_WORDS, FactValue, Phase, ReleaseState, Targets

DEFAULT_SILENT_AFTER_S: Final = 7 * 86_400
"""A device that was not heard of for this long does not hold a rollout open."""


class RolloutState(StrEnum):
    """Where a rollout is. All but the last two are announced as they are.

    `superseded`: a newer rollout of the same package took its place on the channel.
    `withdrawn`: the package is no longer announced on the channel.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    HALTED = "halted"
    REVERTED = "reverted"
    COMPLETE = "complete"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"

    @property
    def announced(self) -> ReleaseState | None:
        """What an announcement says of it; None when it is not announced any more."""
        return None if self in ENDED else ReleaseState(self.value)


ENDED: Final = frozenset({RolloutState.SUPERSEDED, RolloutState.WITHDRAWN})
"""States in which the channel's topic belongs to somebody else, or to nobody."""

STARTING: Final = frozenset({RolloutState.ACTIVE, RolloutState.COMPLETE})
"""States in which a device may start: one that joins a channel later takes what the others have."""

MOVES: Final[dict[RolloutState, frozenset[RolloutState]]] = {
    RolloutState.ACTIVE: frozenset({RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED}),
    RolloutState.PAUSED: frozenset({RolloutState.ACTIVE, RolloutState.HALTED, RolloutState.REVERTED}),
    RolloutState.HALTED: frozenset({RolloutState.ACTIVE, RolloutState.REVERTED}),
    RolloutState.COMPLETE: frozenset({RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED}),
    RolloutState.REVERTED: frozenset(),
    RolloutState.SUPERSEDED: frozenset(),
    RolloutState.WITHDRAWN: frozenset(),
}
"""What an operator may ask for, by state. `complete` comes about by itself, and going back is for good:
the same release again is a new rollout, so that every device's words belong to one intention."""


class Verdict(StrEnum):
    """How one device stands in one rollout; each has exactly one.

    `not_meant`: the targets leave it out. `pending`: to start, not heard of yet. `held`: not started, and the
    rollout's state, or a pin, keeps it from starting. `missed`: not started by the deadline.
    `silent`: no last word, and not heard of for too long. The others are what the device itself said last.
    """

    NOT_MEANT = "not_meant"
    PENDING = "pending"
    HELD = "held"
    MISSED = "missed"
    SILENT = "silent"
    DEFERRED = "deferred"
    UPDATING = "updating"
    REJECTED = "rejected"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN: Final = frozenset({Verdict.PENDING, Verdict.DEFERRED, Verdict.UPDATING})
"""Verdicts that hold a rollout open: something is still going to happen."""

FINAL: Final = {phase: Verdict(phase.value) for phase in LAST_WORDS}
"""Last words of a device and the verdict each of them is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is known of one device that a rollout may concern.

    Attributes:
        device: its id.
        phase: the last one it reported for this very rollout, if any.
        installed: the version of the package it reported last, if any.
        installed_phase: the phase of that installation.
        pinned: the version that its operator pinned the package to, if any.
        last_seen: when it was last heard of, by the controller's clock.
        tags: as reported; only read where the targets ask for some.
        facts: as reported; likewise.
    """

    device: str
    phase: Phase | None = None
    installed: str | None = None
    installed_phase: Phase | None = None
    pinned: str | None = None
    last_seen: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, FactValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One rollout as its operator wants it.

    Attributes:
        rollout: its id.
        version: what is to be installed.
        state: where it is now.
        targets: whom it means.
        deadline: nobody starts after this.
        silent_after_s: seconds without a sign of life after which a device is not waited for.
    """

    rollout: str
    version: str
    state: RolloutState
    targets: Targets
    deadline: datetime | None = None
    silent_after_s: float = DEFAULT_SILENT_AFTER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What follows from a plan and observations.

    Attributes:
        state: where the rollout is from now on.
        targets: whom the announcement means from now on; waves will widen it, one wave means all at once.
        verdicts: device to verdict, one for each observation.
    """

    state: RolloutState
    targets: Targets
    verdicts: Mapping[str, Verdict]
