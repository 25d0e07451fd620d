"""What the stores give back about rollouts: values for the API and the command line."""

from datetime import datetime
from typing import Any

import msgspec

from controller.database import from_db
from controller.rollouts.plan import RolloutState, Verdict
from schemas.messages import RolloutPolicy, Targets


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: a release that a channel's devices are asked to take.

    Attributes:
        revision: of the announcement that tells of it; None when its topic belongs to another by now.
        verdicts: how many devices have which verdict.
        phases: how many devices said which phase last.
        meant: how many devices it concerns, `not_meant` left out.
    """

    id: str
    package: str
    version: str
    channel: str
    state: RolloutState
    revision: int | None
    targets: Targets
    policy: RolloutPolicy
    repository: list[str]
    created_at: datetime
    changed_at: datetime
    meant: int
    verdicts: dict[str, int]
    phases: dict[str, int]


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout. All but device, verdict and online are empty until it says something.

    Attributes:
        at: when it said so, by its own clock.
        error_code: of its last word; likewise the message.
        bytes_done: of content, as it said while fetching; likewise the total.
    """

    device: str
    verdict: Verdict | None
    online: bool
    phase: str | None
    update: str | None
    attempt: int | None
    from_version: str | None
    at: datetime | None
    error_code: str | None
    error_message: str | None
    bytes_done: int | None
    bytes_total: int | None


def moment(value: int | None) -> datetime | None:
    """A moment from the database, if there is one."""
    return None if value is None else from_db(value)


def device_view(row: Any) -> RolloutDevice:
    """A row of `rollout_devices`, with `online`, as a value."""
    return RolloutDevice(
        device=row["device"],
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
        online=bool(row["online"]),
        phase=row["phase"],
        update=row["update_id"],
        attempt=row["attempt"],
        from_version=row["from_version"],
        at=moment(row["at"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        bytes_done=row["bytes_done"],
        bytes_total=row["bytes_total"],
    )
