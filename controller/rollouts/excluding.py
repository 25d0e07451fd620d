"""Devices that a release leaves out by name: those that would have a part in its rollout, and have none for that."""

from functools import cache
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, bindparam, exists, select

from controller.fleet.sql import among, listed
from controller.fleet.tables import devices
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.messages import Targets

_word = rollout_devices.c
_WHOM: Final = select(rollouts.c.channel, rollouts.c.base, rollouts.c.targets)


def left_out_by_name(connection: Connection, rollout: str) -> dict[str, bool]:
    """These devices of a rollout's channel, by id, and whether they are there.

    Who was left out later, by a cancel, has a part in the rollout and its own word about it.
    """
    row = connection.execute(_WHOM.where(rollouts.c.id == rollout)).mappings().first()
    return {} if row is None else left_out_of(connection, rollout, row)


def left_out_of(connection: Connection, rollout: str, row: Any) -> dict[str, bool]:
    """The same; `row` has the rollout's channel, `base` and `targets`."""
    named = msgspec.json.decode(row["base"] or row["targets"], type=Targets).exclude
    if not named:
        return {}
    dialect = connection.dialect.name
    about = {"rollout": rollout, "channel": row["channel"], **listed(dialect, named)}
    return {device: bool(online) for device, online in connection.execute(_known(dialect), about)}


@cache
def _known(dialect: str) -> Select[Any]:
    """Of `channel` and listed, and no part in `rollout`. Made once, as every look at a rollout asks it."""
    has_a_part = exists().where(_word.rollout == bindparam("rollout"), _word.device == devices.c.id)
    known = select(devices.c.id, devices.c.online).where(
        among(dialect, devices.c.id), devices.c.channel == bindparam("channel"), ~has_a_part
    )
    return known.order_by(devices.c.id)
