"""Whether the controller can do its work now, and if not, why: one line a part.

Anybody who can connect may ask, so a reason names no address and no path; the log does.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import Engine, select

from controller.database import reading, utc_now
from controller.fleet.service import FleetStatus
from controller.logs import told
from schemas.errors import OperatorError, one_line

BEHIND_S: Final = 30.0
"""A message that has waited for this long for its commit means that the intake is stuck or overrun."""

MARGIN: Final = timedelta(days=2)
"""The timestamp is signed again with more than four of its 14 days left: with two left, that has failed for days."""


log = logging.getLogger(__name__)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One part; `reason` is one line, empty where all is well."""

    ok: bool
    reason: str = ""


_NO_BROKER: Final = Check(ok=False, reason="there is no connection to the broker; the log says why")


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Ready when every check is."""

    ready: bool
    checks: dict[str, Check]


class Health:
    """Looks at each part.

    Args:
        engine: the database.
        status: how the fleet service is doing; safe from any thread.
        expiries: when the signature of each role ends, as far as is known.
        clock: the time of day.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        status: Callable[[], FleetStatus],
        expiries: Callable[[], Mapping[str, datetime]],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine = engine
        self._status = status
        self._expiries = expiries
        self._clock = clock

    def readiness(self) -> Readiness:
        """All checks; blocks for one small query."""
        status = self._status()
        checks = {
            "database": self._database(),
            "broker": Check(ok=True) if status.connected else _NO_BROKER,
            "intake": _intake(status.intake_delay_s),
            "metadata": self._metadata(),
        }
        return Readiness(ready=all(one.ok for one in checks.values()), checks=checks)

    def _database(self) -> Check:
        try:
            with reading(self._engine) as connection:
                connection.execute(select(1))
        except OperatorError as error:
            log.warning("not ready: %s", one_line(error), extra=told("health", error))
            return Check(ok=False, reason="the database cannot be read; the log says why")
        return Check(ok=True)

    def _metadata(self) -> Check:
        soon = {role: end for role, end in self._expiries().items() if end - self._clock() < MARGIN}
        if not soon:
            return Check(ok=True)
        role, end = min(soon.items(), key=lambda one: one[1])
        return Check(ok=False, reason=f"the signature of {role} ends on {end:%Y-%m-%d %H:%M} UTC; the log says why")


def _intake(delay_s: float) -> Check:
    if delay_s < BEHIND_S:
        return Check(ok=True)
    return Check(ok=False, reason=f"a message has been waiting for its commit for {delay_s:.0f} s")
