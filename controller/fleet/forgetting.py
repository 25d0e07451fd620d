"""Forgets a device that is gone for good, and keeps what the broker still has of it from bringing it back.

The topics that a device wrote are its own: the controller may not clear them, and hears them anew with each
connection. So its id is kept until the device itself speaks again; from then on it is a new one.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine, Table, bindparam, delete, or_, select, update

from controller.database import to_db, writing
from controller.fleet.incoming import ClearedIn, Incoming, PresenceIn, ReportedIn
from controller.fleet.sql import chunks, insert_into
from controller.fleet.tables import commands, desired, device_packages, devices, events, forgotten
from controller.fleet.views import unknown_device
from controller.rollouts.tables import announcements, rollout_asks, rollout_devices, rollouts
from schemas.errors import OperatorError
from schemas.messages import Desired

_OF_IT: Final[tuple[Table, ...]] = (device_packages, events, commands, rollout_asks, rollout_devices)
"""All that is kept of a device besides its own row; what it was told is taken back, not removed."""

_OF_DEVICE: Final = select(rollout_devices.c.rollout).where(rollout_devices.c.device == bindparam("device"))
_ANNOUNCED: Final = select(announcements.c.rollout).where(announcements.c.payload.is_not(None))
_LOOKED_AT: Final = (
    select(rollouts.c.id)
    .where(or_(rollouts.c.id.in_(_OF_DEVICE), rollouts.c.id.in_(_ANNOUNCED)))
    .order_by(rollouts.c.id)
    .with_for_update()
)


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What has to look again: the channel that the device was on, and the announced rollouts that knew it."""

    channel: str | None
    rollouts: list[str]


def forget(engine: Engine, device: str, now: datetime) -> Forgotten:
    """Remove a device, and all that it said and was told.

    What it was told apart from its channel is said to it no more, with the next revision: should it come back, it
    follows its channel like any other.

    Raises:
        OperatorError: `device.unknown`; `device.online` where it is there, and would be back with its next word.
    """
    with writing(engine) as connection:
        # before the device's row, as a look at a rollout that is under way could write its verdict once more
        connection.execute(_LOOKED_AT, {"device": device})
        found = select(devices.c.online, devices.c.channel).where(devices.c.id == device).with_for_update()
        row = connection.execute(found).first()
        if row is None:
            raise unknown_device(device)
        if row.online:
            raise OperatorError(
                "device.online",
                f"{device} is there, and would be back with its next word; stop its agent first, then forget it",
            )
        knew = _OF_DEVICE.where(rollout_devices.c.rollout.in_(_ANNOUNCED))
        known = Forgotten(channel=row.channel, rollouts=list(connection.scalars(knew, {"device": device})))
        for table in _OF_IT:
            connection.execute(delete(table).where(table.c.device == device))
        _take_back(connection, device, now)
        connection.execute(delete(devices).where(devices.c.id == device))
        note = insert_into(connection, forgotten).values(device=device, forgotten_at=to_db(now))
        connection.execute(note.on_conflict_do_nothing())
        return known


def _take_back(connection: Connection, device: str, now: datetime) -> None:
    """Tell it nothing apart from its channel any more; the revision goes on, as a device ignores an older one."""
    told = connection.execute(select(desired.c.rev, desired.c.payload).where(desired.c.device == device)).first()
    if told is None:
        return
    nothing = Desired(rev=told.rev + 1)
    if msgspec.json.decode(told.payload, type=Desired) != Desired(rev=told.rev):
        values = {"rev": nothing.rev, "payload": msgspec.json.encode(nothing).decode(), "changed_at": to_db(now)}
        connection.execute(update(desired).where(desired.c.device == device).values(**values))


class Left(NamedTuple):
    """Of devices that were forgotten: `gone` are those of which only what was left of them came, the others `back`."""

    gone: set[str]
    back: set[str]


def only_left(connection: Connection, new: Iterable[str], batch: Iterable[Incoming]) -> Left:
    """Tell the devices of which nothing came but what is left from before they were forgotten from those that are back.

    The latter are not forgotten any more.

    Args:
        connection: in a writing transaction.
        new: devices that have no row.
        batch: what came, of these and of others.
    """
    candidates = {
        device
        for some in chunks(sorted(new))
        for device in connection.scalars(select(forgotten.c.device).where(forgotten.c.device.in_(some)))
    }
    if not candidates:
        return Left(set(), set())
    back = {one.device for one in batch if one.device in candidates and _speaks(one)}
    for some in chunks(sorted(back)):
        connection.execute(delete(forgotten).where(forgotten.c.device.in_(some)))
    return Left(candidates - back, back)


def _speaks(one: Incoming) -> bool:
    """Whether only a device that is there says so: its last will comes by itself, and late.

    Nobody who is online can be forgotten, so a presence that says so is from later, though the broker has kept it: the
    controller may have been away, or its database put back.
    """
    match one:
        case ClearedIn():
            return False
        case PresenceIn():
            return one.presence.online
        case ReportedIn():
            return one.live
        case _:
            return True
