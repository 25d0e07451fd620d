"""What the stores give back about rollouts: values for the API, the command line and watchers."""

from datetime import datetime
from enum import StrEnum

import msgspec

from controller.fleet.views import Update
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.waves import RolloutPlan
from schemas.messages import RolloutPolicy, Targets, Verb


class WaveState(StrEnum):
    """How one wave of a rollout stands.

    `waiting`: its turn has not come, or it waits for a device. `running`: its devices may start. `soaking`: they say
    that they succeeded, and have to stay well. `proven`: enough of them have. `accepted`: too few have, and an
    operator has gone on in spite of that. `failed`: it stopped the rollout.
    `stopped`: the rollout is halted, and the wave goes on when it is resumed. `ended`: the rollout was reverted, or is
    over, before the wave had proven anything.
    """

    WAITING = "waiting"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    SOAKING = "soaking"
    PROVEN = "proven"
    ACCEPTED = "accepted"
    FAILED = "failed"
    STOPPED = "stopped"
    ENDED = "ended"


class WaveView(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of a rollout. Times are by the controller's clock, and None as long as they have not come.

    Attributes:
        number: from 1.
        share: whom it means, for people: `1 device`, `up to 10 %`, `site=bern`, `everybody`.
        verdicts: how many of its own devices have which verdict; whom an engine chooses is counted once it has.
        proven_at: when it had proven enough for the first time.
        deadline: after this nobody in it is waited for; None where the plan has none.
        accepted: devices without success in spite of which an operator has gone on.
        because: what it waits for, what came of it, or why it failed, in one line.
    """

    number: int
    share: str
    state: WaveState
    verdicts: dict[Verdict, int]
    started_at: datetime | None
    proven_at: datetime | None
    approved_at: datetime | None
    deadline: datetime | None
    because: str
    accepted: int = 0


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: a release that a channel's devices are asked to take.

    Attributes:
        revision: of its latest announcement.
        targets: whom the announcement means now; each wave widens it.
        before: `halted` or `reverted`, where it was when another took its place or it was withdrawn; else None.
        changed_at: when it came to its state.
        changed_by: who brought it there, as the audit log names them; None where it came about by itself.
        because: what it waits for, or why it stopped, in one line.
        advice: what can be done where it was stopped, with the commands, in one line; empty where it goes on.
        cancel_asked_at: since when an operator wants all of it stopped; who has yet to answer is asked for apart.
        plan: its waves as they were asked for.
        wave: how many waves have begun.
        waves: how each of them stands.
        verdicts: how many devices have which verdict; those that are not meant are left out.
        left_out: how many devices of the channel the release leaves out by name; they have no verdict that counts.
        phases: how many devices said which phase last.
        asked: how many devices were asked to try again by the request that this answers; else 0.
        instead_of: the rollout that was under way and whose place it took, where this answers the request that made it.
    """

    id: str
    package: str
    version: str
    channel: str
    state: RolloutState
    revision: int
    targets: Targets
    policy: RolloutPolicy
    repository: list[str]
    created_at: datetime
    changed_at: datetime
    changed_by: str | None = None
    cancel_asked_at: datetime | None = None
    because: str
    advice: str = ""
    before: RolloutState | None = None
    plan: RolloutPlan
    wave: int
    waves: list[WaveView]
    verdicts: dict[Verdict, int]
    phases: dict[str, int]
    left_out: int = 0
    asked: int = 0
    instead_of: str | None = None

    @property
    def meant(self) -> int:
        """How many devices it concerns."""
        return sum(self.verdicts.values())


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout.

    Attributes:
        wave: which it belongs to, from 1; None for none.
        verdict: `not_meant` where the release leaves it out by name.
        update: None until it says something.
        asked: `cancel` or `retry`, as long as it was asked for that and has not answered: it is not done.
        asked_at: since when, by the controller's clock.
        reason: why it is held, also by its owner, or left out, or `away` where it may start once it is there; empty for
            any other.
        newer: its verdict in the rollout that took this one's place before it had begun here; None where it did begin,
            and where no rollout that is announced now means it.
    """

    device: str
    wave: int | None
    verdict: Verdict
    online: bool
    update: Update | None
    asked: Verb | None = None
    asked_at: datetime | None = None
    reason: str = ""
    newer: Verdict | None = None


class Takers(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that run what a rollout brought, as they reported it, and what a revert has them go back to.

    Attributes:
        previous: the version; None where they had none before, so that a revert leaves them without the package.
        count: how many they are.
        devices: the first few of them, by id.
    """

    previous: str | None
    count: int
    devices: list[str]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Devices whose last word in a rollout has the same error code, and the same message but for numbers and names.

    Attributes:
        count: how many they are.
        devices: the first few of them, by id.
        message: what the first one said; `log_tail` likewise.
        said_by: the device whose message and log tail these are; None for the rest of those with this code, whose
            messages are not told apart because they would be too many: of them neither is given.
    """

    code: str
    count: int
    devices: list[str]
    message: str
    log_tail: str
    said_by: str | None = None
