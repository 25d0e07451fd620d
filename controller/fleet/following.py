"""Whether any device follows a channel: a typing error in a channel's name reaches nobody, and says so nowhere else."""

from typing import Final

from sqlalchemy import Connection, bindparam, func, select

from controller.fleet.tables import devices
from schemas.errors import one_line

NAMED: Final = 5
"""Channels that are named in place of one that nobody follows."""


_ANYBODY: Final = select(devices.c.id).where(devices.c.channel == bindparam("channel")).limit(1)


def nobody_follows(connection: Connection, channel: str) -> str | None:
    """One line where no device that was heard of follows the channel, with those that most devices do; else None."""
    follows = devices.c.channel
    if connection.scalar(_ANYBODY, {"channel": channel}) is not None:
        return None
    most = select(follows).where(follows.is_not(None)).group_by(follows).order_by(func.count().desc(), follows)
    named = list(connection.scalars(most.limit(NAMED)))
    others = f"; devices follow {', '.join(named)}" if named else ""
    return f"no device that was heard of follows channel {one_line(channel)}{others}"
