"""Questions about rollouts, answered from the database."""

from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, and_, func, select

from controller.database import from_db, reading
from controller.fleet.tables import devices
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import announcements, rollout_devices, rollouts
from controller.rollouts.views import Rollout, RolloutDevice, device_view
from schemas.errors import OperatorError, one_line
from schemas.messages import RolloutPolicy, Targets

MAX_PAGE = 1000
"""Rows that one answer may have."""


class RolloutReader:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def rollouts(
        self,
        *,
        channel: str | None = None,
        package: str | None = None,
        state: RolloutState | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Rollout]:
        """Rollouts, the newest first.

        Args:
            channel: only of this one; `package` and `state` likewise.
            before: only those older than the rollout with this id, for the next page.
            limit: at most this many.
        """
        found = select(rollouts.c.id).order_by(rollouts.c.id.desc()).limit(min(max(limit, 1), MAX_PAGE))
        if channel is not None:
            found = found.where(rollouts.c.channel == channel)
        if package is not None:
            found = found.where(rollouts.c.package == package)
        if state is not None:
            found = found.where(rollouts.c.state == state.value)
        if before is not None:
            found = found.where(rollouts.c.id < before)
        with reading(self._engine) as connection:
            return _read(connection, list(connection.scalars(found)))

    def rollout(self, rollout: str) -> Rollout:
        """One rollout, with counts; raises `OperatorError` (`rollout.unknown`)."""
        with reading(self._engine) as connection:
            return read_rollout(connection, rollout)

    def devices(self, rollout: str, *, after: str = "", limit: int = 100) -> list[RolloutDevice]:
        """The devices that a rollout concerns, by id, from the one after `after` on."""
        found = (
            select(rollout_devices, devices.c.online)
            .outerjoin(devices, devices.c.id == rollout_devices.c.device)
            .where(rollout_devices.c.rollout == rollout, rollout_devices.c.device > after)
            .order_by(rollout_devices.c.device)
            .limit(min(max(limit, 1), MAX_PAGE))
        )
        with reading(self._engine) as connection:
            return [device_view(row) for row in connection.execute(found).mappings()]

    def of_device(self, device: str, *, limit: int = 20) -> list[tuple[Rollout, RolloutDevice]]:
        """The latest rollouts that concern a device, the newest first, and how it stands in each."""
        found = (
            select(rollout_devices, devices.c.online)
            .join(devices, devices.c.id == rollout_devices.c.device)
            .where(rollout_devices.c.device == device)
            .order_by(rollout_devices.c.rollout.desc())
            .limit(min(max(limit, 1), MAX_PAGE))
        )
        with reading(self._engine) as connection:
            rows = connection.execute(found).mappings().all()
            known = {one.id: one for one in _read(connection, [row["rollout"] for row in rows])}
            return [(known[row["rollout"]], device_view(row)) for row in rows if row["rollout"] in known]


def read_rollout(connection: Connection, rollout: str) -> Rollout:
    """One rollout, with counts; raises `OperatorError` (`rollout.unknown`)."""
    found = _read(connection, [rollout])
    if not found:
        raise OperatorError("rollout.unknown", f"there is no rollout {one_line(rollout)}")
    return found[0]


def _read(connection: Connection, ids: list[str]) -> list[Rollout]:
    """These rollouts, the newest first."""
    own = and_(
        announcements.c.channel == rollouts.c.channel,
        announcements.c.package == rollouts.c.package,
        announcements.c.rollout == rollouts.c.id,
        announcements.c.payload.is_not(None),
    )
    found = select(rollouts, announcements.c.revision).outerjoin(announcements, own).where(rollouts.c.id.in_(ids))
    rows = connection.execute(found.order_by(rollouts.c.id.desc())).mappings().all()
    verdicts = _counts(connection, ids, "verdict")
    phases = _counts(connection, ids, "phase")
    return [_view(row, verdicts.get(row["id"], {}), phases.get(row["id"], {})) for row in rows]


def _counts(connection: Connection, ids: list[str], column: str) -> dict[str, dict[str, int]]:
    what = rollout_devices.c[column]
    found = (
        select(rollout_devices.c.rollout, what, func.count())
        .where(rollout_devices.c.rollout.in_(ids), what.is_not(None))
        .group_by(rollout_devices.c.rollout, what)
        .order_by(what)
    )
    counts: dict[str, dict[str, int]] = {}
    for rollout, value, number in connection.execute(found):
        counts.setdefault(rollout, {})[value] = number
    return counts


def _view(row: Any, verdicts: dict[str, int], phases: dict[str, int]) -> Rollout:
    return Rollout(
        id=row["id"],
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        state=RolloutState(row["state"]),
        revision=row["revision"],
        targets=msgspec.json.decode(row["targets"], type=Targets),
        policy=msgspec.json.decode(row["policy"], type=RolloutPolicy),
        repository=msgspec.json.decode(row["repository"], type=list[str]),
        created_at=from_db(row["created_at"]),
        changed_at=from_db(row["changed_at"]),
        meant=sum(verdicts.values()),
        verdicts=verdicts,
        phases=phases,
    )
