"""The values that the rollout engine takes and returns; nothing here reads a clock, a disk or a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from controller.rollouts.waves import ALL_AT_ONCE, OnFailure, RolloutPlan, Wave, seconds
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
    """How one device stands in one rollout; each has exactly one. `docs/rollouts.md` has them as a table.

    `not_meant`: the targets leave it out. `waiting`: meant, and its turn has not come. `pending`: may start, and has
    not. `held`: not started, and the rollout's state, a pin or a hold keeps it so. `ended`: not started, and the
    rollout is over. `missed`: not started by the time after which nobody may. `unreached`: not heard of since it was
    offered. `asleep`: away, as it usually is at this hour. `late`: reached, and not done by its wave's deadline.
    `silent`: began, and was not heard of again. `soaking`: says that it succeeded, and has not proven it yet. `left`:
    had succeeded, and reports something else.
    The others are what the device itself said last.
    """

    NOT_MEANT = "not_meant"
    WAITING = "waiting"
    PENDING = "pending"
    HELD = "held"
    ENDED = "ended"
    MISSED = "missed"
    UNREACHED = "unreached"
    ASLEEP = "asleep"
    LATE = "late"
    SILENT = "silent"
    DEFERRED = "deferred"
    UPDATING = "updating"
    SOAKING = "soaking"
    REJECTED = "rejected"
    SUCCEEDED = "succeeded"
    LEFT = "left"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


BUSY: Final = frozenset({Verdict.PENDING, Verdict.DEFERRED, Verdict.UPDATING, Verdict.SOAKING})
"""Verdicts of devices that may do something and are waited for."""

UNDER_WAY: Final = frozenset(Phase) - LAST_WORDS - {Phase.DEFERRED}
"""Words of a device that has begun and goes on: from one of them to the next its verdict stays."""

OPEN: Final = BUSY | {Verdict.WAITING}
"""Verdicts that hold a rollout open: something is still going to happen."""

FAILURES: Final = frozenset({Verdict.FAILED, Verdict.ROLLED_BACK, Verdict.SILENT, Verdict.LEFT})
"""What a wave's limits count."""

UNPROVEN: Final = FAILURES | {Verdict.REJECTED, Verdict.LATE, Verdict.MISSED}
"""Devices that were there and are no success. Refusals are no failures: nothing was touched."""

RETRIED: Final = frozenset({Verdict.FAILED, Verdict.ROLLED_BACK, Verdict.REJECTED, Verdict.CANCELLED})
"""Verdicts that a retry opens again."""

ABSENT: Final = frozenset({Verdict.UNREACHED, Verdict.ASLEEP})
"""Devices that do not count as long as they are away; what they are offered stays."""

STILL: Final = UNPROVEN | ABSENT | {Verdict.HELD, Verdict.CANCELLED, Verdict.ENDED}
"""Verdicts between which a device goes without having done anything: who was forgiven is so until it has."""

FINAL: Final = {phase: Verdict(phase.value) for phase in LAST_WORDS}
"""Last words of a device and the verdict each of them is; a success has yet to be proven."""


EVERYBODY: Final = Targets()


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one device that a rollout may concern. Times are by the controller's clock.

    Attributes:
        device: its id.
        phase: the last one it reported for this very rollout, if any.
        heard_at: when that came in; None where there is none.
        error_code: of that word.
        installed: the version of the package it reported last, if any.
        installed_phase: the phase of that installation.
        reported_since: whether its last report is newer than its last word.
        pinned: the version that its operator pinned the package to, if any.
        hold: whether its operator has it start nothing.
        forgiven: whether an operator has gone on in spite of it, and it has done nothing anew since.
        taken_back: whether it was asked to leave this rollout, and has not answered.
        moved: whether it follows another channel now.
        online: whether it is there now.
        last_seen: when it was last heard of.
        hours: when it usually is there; see `controller.fleet.hours`.
        tags: as reported; only read where the targets or the plan ask for some.
        facts: as reported; likewise.
    """

    device: str
    phase: Phase | None = None
    heard_at: datetime | None = None
    error_code: str | None = None
    installed: str | None = None
    installed_phase: Phase | None = None
    reported_since: bool = False
    pinned: str | None = None
    hold: bool = False
    forgiven: bool = False
    taken_back: bool = False
    moved: bool = False
    online: bool = True
    last_seen: datetime
    hours: str | None = None
    tags: Mapping[str, str] = {}
    facts: Mapping[str, FactValue] = {}


class WaveProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far one wave is; kept with the rollout.

    Attributes:
        started_at: when it began; None before that.
        proven_at: when it had proven enough for the first time.
        approved_at: when a person said go.
        upto: buckets below this are in because of it.
        devices: ids that are in because of it: chosen, named, or found by its conditions.
        chosen: ids that were picked for it when it began, where not all of them may begin at a time.
        turns: who got its turn, or was asked to try again, after the wave's deadline, and when.
        opened_at: when devices that were away were let in last, so that fewer ids are listed; they take no place.
        kept: ids of those that were away then and had a place already, which they keep.
    """

    started_at: datetime | None = None
    proven_at: datetime | None = None
    approved_at: datetime | None = None
    upto: int = 0
    devices: list[str] = []
    chosen: list[str] = []
    turns: dict[str, datetime] = {}
    opened_at: datetime | None = None
    kept: list[str] = []

    def lacks_approval(self, wave: Wave) -> bool:
        """Whether a person has still to say go before the wave."""
        return wave.approval and self.approved_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One rollout as its operator wants it, and how far it is: all that the engine has to know between two looks.

    Attributes:
        rollout: its id.
        version: what is to be installed.
        state: where it is now.
        base: whom it means at all, once its last wave has begun.
        plan: its waves.
        progress: of each wave of the plan.
        stopped: why the engine stopped it, for people; empty where it did not.
        not_before: nobody starts before this.
        deadline: nobody starts after this.
        silent_after_s: seconds without a sign of life after which a device is not waited for.
    """

    rollout: str
    version: str
    state: RolloutState
    base: Targets = EVERYBODY
    plan: RolloutPlan = ALL_AT_ONCE
    progress: tuple[WaveProgress, ...] = (WaveProgress(),)
    stopped: str = ""
    not_before: datetime | None = None
    deadline: datetime | None = None
    silent_after_s: float = DEFAULT_SILENT_AFTER_S

    @property
    def waves(self) -> list[Wave]:
        """The plan's."""
        return self.plan.waves

    @property
    def begun(self) -> int:
        """How many waves have begun."""
        return sum(one.started_at is not None for one in self.progress)

    @property
    def targets(self) -> Targets:
        """Whom the announcement means now: whoever any wave that began has let in."""
        upto = max((one.upto for one in self.progress), default=0)
        named = {device for one in self.progress for device in one.devices}
        return msgspec.structs.replace(self.base, upto=upto, devices=sorted(named))

    def lacks_approval(self, wave: int) -> bool:
        """Whether a person has still to say go before a wave."""
        return self.progress[wave].lacks_approval(self.waves[wave])

    def share(self, wave: int) -> int:
        """The buckets that a wave of so many percent is, rounded up; 0 for another one."""
        percent = self.waves[wave].upto
        return 0 if percent is None else -int(-self.base.upto * percent // 100)

    def ends(self, wave: int) -> datetime | None:
        """When a wave's devices are not waited for any more."""
        started, patience = self.progress[wave].started_at, self.patience(wave)
        if started is None or patience is None:
            return None
        return (max(started, self.not_before) if self.not_before else started) + patience

    def patience(self, wave: int) -> timedelta | None:
        """How long a wave waits for its devices; None for no limit but that of silence."""
        deadline = self.waves[wave].deadline
        return None if deadline is None else timedelta(seconds=seconds(deadline))


STOPS: Final = {
    OnFailure.PAUSE: RolloutState.PAUSED,
    OnFailure.HALT: RolloutState.HALTED,
    OnFailure.REVERT: RolloutState.REVERTED,
}
"""What a failing wave makes of its rollout."""


class Mark(NamedTuple):
    """One device in one rollout.

    Attributes:
        verdict: its one verdict.
        wave: the wave it belongs to, from 0; None for none.
        due: when the verdict may change though nothing is heard; None for never.
        ask: whether the device is to be asked to report.
        listen: whether any sign of life may change the verdict.
        phase: its last word.
        place: whether it takes one of the places of a wave with `concurrency`.
        forgiven: whether an operator has gone on in spite of it: it neither counts against its wave nor for it.
    """

    verdict: Verdict
    wave: int | None = None
    due: datetime | None = None
    ask: bool = False
    listen: bool = False
    phase: Phase | None = None
    place: bool = False
    forgiven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What follows from a plan and observations.

    Attributes:
        plan: the same rollout, as it is from now on.
        marks: device to what became of it, one for each observation.
    """

    plan: Plan
    marks: Mapping[str, Mark]

    @property
    def state(self) -> RolloutState:
        """Where the rollout is from now on."""
        return self.plan.state

    @property
    def targets(self) -> Targets:
        """Whom the announcement means from now on."""
        return self.plan.targets

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Device to verdict, one for each observation."""
        return {device: mark.verdict for device, mark in self.marks.items()}

    @property
    def ask(self) -> frozenset[str]:
        """Devices of which a word would decide something now: they are to be asked to report."""
        return frozenset(device for device, mark in self.marks.items() if mark.ask)
