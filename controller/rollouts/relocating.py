"""Announces rollouts anew where devices are to fetch from another place."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from controller.rollouts import announcing
from controller.rollouts.keeping import intention_of, text_of
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollouts
from controller.rollouts.together import OPEN
from schemas.errors import OperatorError


def relocate(connection: Connection, urls: Sequence[str], now: datetime) -> int:
    """See `RolloutStore.move_repository`; in a writing transaction."""
    rows = connection.execute(select(rollouts).where(OPEN).order_by(rollouts.c.id).with_for_update())
    moving = [row for row in rows.mappings() if intention_of(row).repository != list(urls)]
    for row in moving:
        _announce_at(connection, row, list(urls), now)
    return len(moving)


def _announce_at(connection: Connection, row: Any, urls: list[str], now: datetime) -> None:
    connection.execute(update(rollouts).where(rollouts.c.id == row["id"]).values(repository=text_of(urls)))
    intention = msgspec.structs.replace(intention_of(row), repository=urls)
    announced = RolloutState(row["state"]).announced
    if announced is None or announcing.current_rollout(connection, row["channel"], row["package"]) != row["id"]:
        raise OperatorError("rollout.state", f"rollout {row['id']} is not what its channel announces")
    try:
        revision = announcing.announce(connection, intention, announced, now)
    except OperatorError as error:
        raise OperatorError(
            error.code, f"rollout {row['id']} of {row['package']} can't be moved to {', '.join(urls)}: {error}"
        ) from error
    connection.execute(update(rollouts).where(rollouts.c.id == row["id"]).values(revision=revision))
