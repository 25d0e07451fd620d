"""What became of what a channel points at: the repository has the pointer, and a rollout that is stopped leaves it."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, exists, select

from controller.fleet.sql import chunks
from controller.rollouts.explaining import stopped_before
from controller.rollouts.plan import FAILURES, STARTING, RolloutState, Verdict, WaveProgress
from controller.rollouts.tables import announcements, rollout_devices, rollouts

_LOOKED_AT: Final = 20
"""Earlier rollouts: who has reverted as many in a row is better served by a person."""


class Pointer(NamedTuple):
    """A channel that points at a version of a package."""

    package: str
    version: str
    channel: str


def stopped_pointers(connection: Connection, packages: Collection[str]) -> dict[Pointer, RolloutState]:
    """The channels whose rollout of these packages was paused, halted or reverted: nobody new gets it there."""
    found = (
        select(rollouts.c.package, rollouts.c.version, rollouts.c.channel, rollouts.c.state)
        .join(announcements, announcements.c.rollout == rollouts.c.id)
        .where(announcements.c.payload.is_not(None), rollouts.c.state.not_in([state.value for state in STARTING]))
    )
    return {
        Pointer(package, version, channel): RolloutState(state)
        for some in chunks(sorted(packages))
        for package, version, channel, state in connection.execute(found.where(announcements.c.package.in_(some)))
    }


def earlier_version(connection: Connection, row: Any) -> str | None:
    """The version that the channel of a rollout announced last before it, of those that nobody stopped there.

    And that went well on a device at least: what is named here is what people release next.

    Args:
        connection: to read from.
        row: of the rollout.
    """
    of, word = rollouts.c, rollout_devices.c
    good = exists().where(word.rollout == of.id, word.verdict == Verdict.SUCCEEDED.value)
    bad = exists().where(word.rollout == of.id, word.verdict.in_([verdict.value for verdict in FAILURES]))
    found = (
        select(of.version, of.state, of.stopped, of.progress, good.label("good"), bad.label("bad"))
        .where(of.channel == row["channel"], of.package == row["package"], of.id < row["id"])
        .order_by(of.id.desc())
        .limit(_LOOKED_AT)
    )
    for version, state, stopped, progress, succeeded, failed in connection.execute(found):
        well = state == RolloutState.SUPERSEDED.value and stopped_before(RolloutState(state), stopped or "") is None
        # where all had it already nobody said so, and no verdict of that is left
        if well and version != row["version"] and (succeeded or (not failed and _proved(progress))):
            return str(version)
    return None


def _proved(progress: str | None) -> bool:
    return any(one.proven_at for one in msgspec.json.decode(progress or "[]", type=list[WaveProgress]))
