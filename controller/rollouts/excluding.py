"""Devices that a release leaves out by name: those that would have a part in its rollout, and have none for that."""

from typing import Any, Final

import msgspec
from sqlalchemy import Connection, exists, select

from controller.fleet.sql import chunks
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
    found: dict[str, bool] = {}
    has_a_part = exists().where(_word.rollout == rollout, _word.device == devices.c.id)
    for some in chunks(sorted(named)):
        known = select(devices.c.id, devices.c.online).where(
            devices.c.id.in_(some), devices.c.channel == row["channel"], ~has_a_part
        )
        found |= {device: bool(online) for device, online in connection.execute(known.order_by(devices.c.id))}
    return found
