"""Rollouts that are about to be changed, each with the others of its set: locked together, and turned together."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, and_, select

from controller.rollouts.evaluating import move
from controller.rollouts.explaining import already
from controller.rollouts.keeping import intention_of
from controller.rollouts.plan import ENDED, MOVES, RolloutState
from controller.rollouts.reader import unknown_rollout
from controller.rollouts.tables import rollouts
from schemas.errors import OperatorError

OPEN: Final = and_(*(rollouts.c.state != state.value for state in sorted(ENDED)))
"""Of rollouts that are announced."""


def locked(connection: Connection, rollout: str) -> Any:
    """The row of a rollout that is to be changed, locked together with the others of its set.

    Raises `OperatorError` (`rollout.unknown`).
    """
    there = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().first()
    if there is None:
        raise unknown_rollout(rollout)
    together = [rollout, *(other["id"] for other in others_of_set(connection, there))]
    return next(row for row in lock_all(connection, together) if row["id"] == rollout)


def lock_all(connection: Connection, ids: Iterable[str]) -> list[Any]:
    """The rows of these rollouts, locked: in the order of their ids, as everywhere where several are."""
    found = select(rollouts).where(rollouts.c.id.in_(sorted(ids))).order_by(rollouts.c.id)
    return list(connection.execute(found.with_for_update()).mappings())


def others_of_set(connection: Connection, row: Any) -> list[Any]:
    """The rollouts that were made together with this one and are still announced; `locked` has locked them."""
    group = intention_of(row).policy.set
    if group is None:
        return []
    found = select(rollouts).where(
        OPEN,
        rollouts.c.channel == row["channel"],
        rollouts.c.package.in_(sorted(group.packages)),
        rollouts.c.id != row["id"],
    )
    rows = connection.execute(found.order_by(rollouts.c.id)).mappings()
    return [other for other in rows if intention_of(other).policy.set == group]


def turn(connection: Connection, row: Any, state: RolloutState, now: datetime, by: str | None) -> None:
    """Give a rollout, and the others of its set, another state; raises `OperatorError` where that cannot be."""
    present = RolloutState(row["state"])
    if already(present, state):
        return
    if state not in MOVES[present]:
        possible = " or ".join(sorted(MOVES[present]))
        how = f"; it can become {possible}" if possible else ": it is over; release the package anew"
        raise OperatorError("rollout.state", f"rollout {row['id']} is {present} and can't become {state}{how}")
    move(connection, row, state, now, by=by)
    for other in others_of_set(connection, row):
        if state in MOVES[RolloutState(other["state"])]:
            move(connection, other, state, now, by=by)
