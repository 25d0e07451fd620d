"""What the stores give back about rollouts: values for the API, the command line and watchers."""

from datetime import datetime

import msgspec

from controller.fleet.views import Update
from controller.rollouts.plan import RolloutState, Verdict
from schemas.messages import RolloutPolicy, Targets


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: a release that a channel's devices are asked to take.

    Attributes:
        revision: of its latest announcement.
        verdicts: how many devices have which verdict; those that are not meant are left out.
        phases: how many devices said which phase last.
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
    verdicts: dict[Verdict, int]
    phases: dict[str, int]

    @property
    def meant(self) -> int:
        """How many devices it concerns."""
        return sum(self.verdicts.values())


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout. `update` is None until it says something."""

    device: str
    verdict: Verdict
    online: bool
    update: Update | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Devices whose last word in a rollout has the same error code.

    Attributes:
        count: how many they are.
        devices: the first few of them, by id.
        message: what the first one said; `log_tail` likewise.
    """

    code: str
    count: int
    devices: list[str]
    message: str
    log_tail: str
