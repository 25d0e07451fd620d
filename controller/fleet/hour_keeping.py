"""Notes once an hour which devices are there: one that is online need not say anything for hours."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import Engine, bindparam, or_, select, update

from controller.database import to_db, writing
from controller.fleet.hours import hour_number, marked
from controller.fleet.tables import devices

AT_ONCE: Final = 1000
"""Devices in one transaction: others must not wait for long."""


class HourKeeper:
    """Synchronous, safe from any thread.

    Args:
        engine: the controller's database.
        clock: the time of day.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def note(self) -> int:
        """Note the present hour for every device that is online and has it not yet; returns for how many."""
        hour = hour_number(to_db(self._clock()))
        new = or_(devices.c.heard_hour.is_(None), devices.c.heard_hour < hour)
        found = select(devices.c.id, devices.c.hours).where(devices.c.online, new).order_by(devices.c.id).limit(AT_ONCE)
        number = 0
        while True:
            with writing(self._engine) as connection:
                rows = [
                    {"key": device, "hours_now": marked(hours, hour)} for device, hours in connection.execute(found)
                ]
                if not rows:
                    return number
                changed = update(devices).where(devices.c.id == bindparam("key"))
                connection.execute(changed.values(heard_hour=hour, hours=bindparam("hours_now")), rows)
            number += len(rows)
