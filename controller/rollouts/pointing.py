"""What became of what a channel points at: the repository has the pointer, and a rollout that is stopped leaves it."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, select

from controller.fleet.sql import chunks
from controller.rollouts.plan import STARTING, RolloutState
from controller.rollouts.tables import announcements, rollouts


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
