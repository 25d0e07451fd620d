"""Notifications in the database: found, kept until they are delivered, tried again, given up."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, delete, func, select, update

from controller.database import from_db, reading, to_db, writing
from controller.fleet.sql import insert_into
from controller.fleet.tables import counters, devices
from controller.notify.config import NotifyConfig, Target
from controller.notify.kinds import NAMED, Notification, RolloutMoment, of_rollout, of_silence, of_waiting
from controller.notify.tables import notifications
from controller.rollouts.keeping import awaits_approval, plan_of
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.ids import uuid7

BACKOFF_S: Final = (10.0, 60.0, 300.0, 1800.0, 7200.0)
"""Waits between attempts; after the last one it is given up."""

MAX_WAITING: Final = 1000
"""Notifications that wait for one target; what comes beyond that is not kept for it."""

KEPT: Final = timedelta(days=30)
"""What was delivered or given up is remembered for so long."""

_AT_ONCE: Final = 200
"""Rollouts that one look takes; the next one goes on behind them."""

_OVERLAP: Final = timedelta(hours=1)
"""Looked at again, for what was committed late or under a clock that was set back; the key says what is known."""

_MICROSECOND: Final = timedelta(microseconds=1)
_BEGAN: Final = "notify.began"
_ROLLOUTS: Final = "notify.rollouts"
_SILENT: Final = "notify.silent"
_TOLD_STATES: Final = [
    state.value for state in (RolloutState.HALTED, RolloutState.PAUSED, RolloutState.REVERTED, RolloutState.COMPLETE)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A notification that is to be delivered now; `attempts` are those that failed."""

    id: str
    kind: str
    title: str
    body: str
    data: dict[str, Any]
    created_at: datetime
    attempts: int


class Outbox:
    """Synchronous, safe from any thread. What happened before the first look is nobody's news."""

    def __init__(self, engine: Engine, config: NotifyConfig) -> None:
        self._engine = engine
        self._config = config

    def look(self, now: datetime) -> int:
        """Find what is new and keep it for each target that wants it; returns how many could not be kept."""
        with writing(self._engine) as connection:
            found = [*self._rollouts(connection, now), *_waiting(connection), *self._silent(connection, now)]
            left_out = sum(self._keep(connection, target, found, now) for target in self._config.targets)
            connection.execute(
                delete(notifications).where(
                    notifications.c.due_at.is_(None), notifications.c.created_at < to_db(now - KEPT)
                )
            )
        return left_out

    def due(self, target: str, now: datetime, limit: int = 20) -> list[Waiting]:
        """What is to be delivered to a target now, the longest due first."""
        found = (
            select(notifications)
            .where(notifications.c.target == target, notifications.c.due_at <= to_db(now))
            .order_by(notifications.c.due_at, notifications.c.id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [
                Waiting(
                    id=row["id"],
                    kind=row["kind"],
                    title=row["title"],
                    body=row["body"],
                    data=msgspec.json.decode(row["data"]),
                    created_at=from_db(row["created_at"]),
                    attempts=row["attempts"],
                )
                for row in connection.execute(found).mappings()
            ]

    def delivered(self, one: Waiting, now: datetime) -> None:
        """It need not be told again."""
        self._change(one, sent_at=to_db(now), due_at=None, attempts=one.attempts + 1, error=None)

    def failed(self, one: Waiting, why: str, now: datetime) -> float | None:
        """It is tried again after so many seconds; None where it is given up."""
        wait_s = BACKOFF_S[one.attempts] if one.attempts < len(BACKOFF_S) else None
        due_at = None if wait_s is None else to_db(now + timedelta(seconds=wait_s))
        self._change(one, due_at=due_at, attempts=one.attempts + 1, error=why)
        return wait_s

    def _change(self, one: Waiting, **values: int | str | None) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(notifications).where(notifications.c.id == one.id).values(**values))

    def _keep(self, connection: Connection, target: Target, found: Sequence[Notification], now: datetime) -> int:
        wanted = [one for one in found if one.kind in target.kinds]
        if not wanted:
            return 0
        there = notifications.c
        known = set(
            connection.scalars(
                select(there.key).where(there.target == target.name, there.key.in_([one.key for one in wanted]))
            )
        )
        new = [one for one in wanted if one.key not in known]
        waiting = select(func.count()).where(there.target == target.name, there.due_at.is_not(None))
        room = max(MAX_WAITING - (connection.scalar(waiting) or 0), 0)
        rows = [_row(target.name, one, now) for one in new[:room]]
        if rows:
            connection.execute(insert_into(connection, notifications).on_conflict_do_nothing(), rows)
        return len(new) - len(rows)

    def _rollouts(self, connection: Connection, now: datetime) -> Iterable[Notification]:
        first = _cursor(connection, _BEGAN, first=to_db(now))
        begun = _cursor(connection, _ROLLOUTS, first=first)
        changed = rollouts.c.changed_at
        told = select(rollouts).where(rollouts.c.state.in_(_TOLD_STATES)).limit(_AT_ONCE)
        new = connection.execute(told.where(changed > begun).order_by(changed)).mappings().all()
        if new:
            _move(connection, _ROLLOUTS, new[-1]["changed_at"])
        since = max(begun - _OVERLAP // _MICROSECOND, first)
        again = told.where(changed <= begun, changed > since).order_by(changed.desc())
        rows = [*connection.execute(again).mappings(), *new]
        return [news for row in rows if (news := of_rollout(_moment(connection, row))) is not None]

    def _silent(self, connection: Connection, now: datetime) -> Iterable[Notification]:
        until = to_db(now - timedelta(seconds=self._config.silent_after_s))
        since = _cursor(connection, _SILENT, first=until)
        if until <= since:
            return []
        _move(connection, _SILENT, until)
        fell = (
            ~devices.c.online,
            devices.c.channel.is_not(None),  # one that was taken out of service is missed by nobody
            devices.c.last_seen > since,
            devices.c.last_seen <= until,
        )
        count = connection.scalar(select(func.count()).select_from(devices).where(*fell)) or 0
        if not count:
            return []
        first = connection.scalars(select(devices.c.id).where(*fell).order_by(devices.c.id).limit(NAMED)).all()
        return [of_silence(first, count, until, self._config.silent_after_s)]


def _waiting(connection: Connection) -> Iterable[Notification]:
    """Of the rollouts that wait for a person now; the key says which was told of."""
    asks = (rollouts.c.state == RolloutState.ACTIVE.value, rollouts.c.plan.contains('"approval":true'))
    for row in connection.execute(select(rollouts).where(*asks).limit(_AT_ONCE)).mappings().all():
        if awaits_approval(row):
            plan = plan_of(row)
            yield of_waiting(_moment(connection, row), plan.begun + 1, len(plan.waves))


def _moment(connection: Connection, row: Any) -> RolloutMoment:
    word = rollout_devices.c
    of_this = word.rollout == row["id"]
    verdicts = select(word.verdict, func.count()).where(of_this, word.verdict.is_not(None), word.verdict != "not_meant")
    codes = select(word.error_code, func.count()).where(of_this, word.error_code.is_not(None))
    return RolloutMoment(
        rollout=row["id"],
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        state=RolloutState(row["state"]),
        stopped=row["stopped"] or "",
        changed_at=row["changed_at"],
        verdicts=_counts(connection, verdicts.group_by(word.verdict)),
        failures=_counts(connection, codes.group_by(word.error_code).limit(NAMED)),
    )


def _counts(connection: Connection, question: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(question)}


def _row(target: str, one: Notification, now: datetime) -> dict[str, Any]:
    moment = to_db(now)
    return {
        "id": uuid7(moment // 1000, secrets.token_bytes(10)),
        "key": one.key,
        "target": target,
        "kind": one.kind,
        "title": one.title,
        "body": one.text,
        "data": msgspec.json.encode(one.data).decode(),
        "created_at": moment,
        "attempts": 0,
        "due_at": moment,
        "sent_at": None,
        "error": None,
    }


def _cursor(connection: Connection, name: str, *, first: int) -> int:
    """Up to where was looked; begins at `first`."""
    statement = insert_into(connection, counters).values(name=name, value=first)
    connection.execute(statement.on_conflict_do_nothing())
    return connection.scalar(select(counters.c.value).where(counters.c.name == name)) or 0


def _move(connection: Connection, name: str, value: int) -> None:
    connection.execute(update(counters).where(counters.c.name == name).values(value=value))
