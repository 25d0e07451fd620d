"""What the overview and the list of devices show, counted by the database: no page reads the whole fleet.

Counts come from covering indexes, lists are pages of ids; `controller.web.freshness` says how often they are asked.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, func, not_, select, union

from controller.database import from_db, reading, to_db
from controller.fleet.apart import apart_of
from controller.fleet.tables import OFFLINE, desired, device_packages, devices, events
from controller.rollouts.explaining import stopped_before
from controller.rollouts.keeping import awaits_approval
from controller.rollouts.plan import ENDED, FAILURES, RolloutState, Verdict
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.messages import Phase

AWAY: Final = timedelta(days=1)
"""A device that is offline this long wants to be looked at."""

SHOWN: Final = 8
BAD: Final = tuple(sorted(FAILURES | {Verdict.REJECTED}))
_OPEN: Final = rollouts.c.state.in_([state.value for state in RolloutState if state not in ENDED])
_word, _there = rollout_devices.c, device_packages.c


class VersionCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices run a version, by the phase of that installation."""

    version: str
    devices: int
    phases: dict[Phase, int]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A device whose last word in a rollout that is announced is a bad one."""

    device: str
    rollout: str
    package: str
    version: str
    verdict: Verdict
    code: str | None
    at: datetime | None


class Away(msgspec.Struct, frozen=True, kw_only=True):
    """A device that has been offline for long."""

    device: str
    last_seen: datetime


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet in numbers.

    Attributes:
        channels: device numbers by channel; None for those that reported none.
        versions: by package, the versions most devices run first.
        troubled: how many devices are in trouble; `troubles` are the latest of them.
        away: how many are offline for long; `away_longest` are those first gone.
    """

    devices: int
    online: int
    channels: dict[str | None, int]
    versions: dict[str, list[VersionCount]]
    troubled: int
    troubles: list[Trouble]
    away: int
    away_longest: list[Away]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices a list is to show; empty fields do not matter.

    Attributes:
        q: a part of the id.
        needs: `attention` keeps those in trouble or away for long, `told` those that were told something of their own.
    """

    q: str = ""
    channel: str = ""
    online: bool | None = None
    package: str = ""
    version: str = ""
    needs: str = ""


class DeviceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One device in a list.

    Attributes:
        packages: name to version, by name.
        update: package, version and phase of its latest event by its own count; None where it said nothing yet.
        pins: what it was told to stay at, by package; `hold`, whether it was told to start nothing.
    """

    id: str
    online: bool
    channel: str | None
    last_seen: datetime
    packages: dict[str, str]
    update: tuple[str, str, Phase] | None
    pins: dict[str, str]
    hold: bool


class FleetReading:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def numbers(self, now: datetime) -> Numbers:
        """The overview's numbers."""
        with reading(self._engine) as connection:
            by_channel: dict[str | None, int] = {}
            online = total = 0
            found = select(devices.c.channel, devices.c.online, func.count()).group_by(
                devices.c.channel, devices.c.online
            )
            for channel, is_online, number in connection.execute(found):
                by_channel[channel] = by_channel.get(channel, 0) + number
                total += number
                online += number if is_online else 0
            away = _away(now)
            gone = select(devices.c.id, devices.c.last_seen).where(away).order_by(devices.c.last_seen).limit(SHOWN)
            return Numbers(
                devices=total,
                online=online,
                channels=dict(sorted(by_channel.items(), key=lambda item: (-item[1], item[0] or ""))),
                versions=_versions(connection),
                troubled=_number(connection, select(func.count(_bad_words().c.device.distinct()))),
                troubles=_troubles(connection),
                away=_number(connection, select(func.count()).select_from(devices).where(away)),
                away_longest=[Away(device=row[0], last_seen=from_db(row[1])) for row in connection.execute(gone)],
            )

    def count(self, wanted: Wanted, now: datetime) -> int:
        """How many devices a list has in all."""
        conditions = _conditions(wanted, now)
        if not conditions:
            return self._total()
        with reading(self._engine) as connection:
            return _number(connection, select(func.count()).select_from(devices).where(*conditions))

    def page(self, wanted: Wanted, now: datetime, *, after: str = "", limit: int = 50) -> list[DeviceLine]:
        """Devices by id, from the one after `after` on: one row for each, with all that a list shows."""
        # chosen before anything else of them is looked up, which else is done for each that is only sorted
        some = select(devices.c.id).where(devices.c.id > after, *_conditions(wanted, now))
        found = (
            select(devices.c.id, devices.c.online, devices.c.channel, devices.c.last_seen, _INSTALLED)
            .select_from(devices)
            .add_columns(events.c.package, events.c.version, events.c.phase, desired.c.payload)
            .outerjoin(events, events.c.id == _LAST_EVENT)
            .outerjoin(desired, desired.c.device == devices.c.id)
            .where(devices.c.id.in_(select(some.order_by(devices.c.id).limit(limit).subquery().c.id)))
            .order_by(devices.c.id)
        )
        with reading(self._engine) as connection:
            return [_line(row) for row in connection.execute(found)]

    def _total(self) -> int:
        with reading(self._engine) as connection:
            return _number(connection, select(func.count()).select_from(devices))


_BETWEEN: Final = "\x1f"
"""Stands between what one column holds of several packages."""
_INSTALLED: Final = (
    select(func.aggregate_strings(_there.package + " " + _there.version, _BETWEEN))
    .where(_there.device == devices.c.id)
    .scalar_subquery()
)
_later: Final = events.alias("later")
_LAST_EVENT: Final = (
    select(_later.c.id)
    .where(_later.c.device == devices.c.id, _later.c.life == devices.c.life)
    .order_by(_later.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)


def _line(row: Any) -> DeviceLine:
    device, online, channel, last_seen, installed, package, version, phase, told = row
    apart = apart_of(told)
    pairs = [one.partition(" ") for one in installed.split(_BETWEEN)] if installed else []
    return DeviceLine(
        id=device,
        online=online,
        channel=channel,
        last_seen=from_db(last_seen),
        packages=dict(sorted((name, of) for name, _, of in pairs)),
        update=None if package is None else (package, version, Phase(phase)),
        pins=apart.pins or {},
        hold=bool(apart.hold),
    )


def _versions(connection: Connection) -> dict[str, list[VersionCount]]:
    found = select(_there.package, _there.version, _there.phase, func.count())
    grouped = found.group_by(_there.package, _there.version, _there.phase)
    phases: dict[tuple[str, str], dict[Phase, int]] = {}
    for package, version, phase, number in connection.execute(grouped):
        phases.setdefault((package, version), {})[Phase(phase)] = number
    versions: dict[str, list[VersionCount]] = {}
    for (package, version), counts in phases.items():
        made = VersionCount(version=version, devices=sum(counts.values()), phases=counts)
        versions.setdefault(package, []).append(made)
    for counted in versions.values():
        counted.sort(key=lambda one: (-one.devices, one.version))
    return dict(sorted(versions.items()))


def _bad_words() -> Any:
    """Bad last words in rollouts that are announced.

    In one that was reverted a device that has gone back by itself, or took nothing, is where it is wanted.
    """
    where_wanted = and_(
        rollouts.c.state == RolloutState.REVERTED.value,
        _word.verdict.in_([Verdict.ROLLED_BACK.value, Verdict.REJECTED.value]),
    )
    return (
        select(_word.device, _word.rollout, _word.verdict, _word.error_code, _word.at, rollouts.c.package)
        .add_columns(rollouts.c.version)
        .join(rollouts, rollouts.c.id == _word.rollout)
        .where(_OPEN, _word.verdict.in_([verdict.value for verdict in BAD]), not_(where_wanted))
        .subquery()
    )


def _troubles(connection: Connection) -> list[Trouble]:
    bad = _bad_words()
    found = select(bad).order_by(bad.c.at.desc(), bad.c.device).limit(SHOWN)
    return [
        Trouble(
            device=row["device"],
            rollout=row["rollout"],
            package=row["package"],
            version=row["version"],
            verdict=Verdict(row["verdict"]),
            code=row["error_code"],
            at=None if row["at"] is None else from_db(row["at"]),
        )
        for row in connection.execute(found).mappings()
    ]


def _away(now: datetime) -> ColumnElement[bool]:
    return and_(OFFLINE, devices.c.last_seen < to_db(now - AWAY))


def _conditions(wanted: Wanted, now: datetime) -> list[ColumnElement[bool]]:
    """All of which must hold of a device."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.q:
        conditions.append(devices.c.id.contains(wanted.q.lower(), autoescape=True))
    if wanted.channel:
        conditions.append(devices.c.channel == wanted.channel)
    if wanted.online is not None:
        conditions.append(devices.c.online == wanted.online)
    if wanted.package:
        has = select(_there.device).where(_there.package == wanted.package)
        conditions.append(devices.c.id.in_(has.where(_there.version == wanted.version) if wanted.version else has))
    if wanted.needs == "attention":
        # two sets that have an index each, where an OR would have every device looked at
        bad = select(_bad_words().c.device)
        conditions.append(devices.c.id.in_(union(bad, select(devices.c.id).where(_away(now)))))
    elif wanted.needs == "told":
        conditions.append(devices.c.id.in_(select(desired.c.device)))
    return conditions


def _number(connection: Connection, question: Select[Any]) -> int:
    return connection.scalar(question) or 0


class RolloutLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line in a list of rollouts.

    Attributes:
        before: `halted` or `reverted`, where it was when another took its place or it was withdrawn.
        awaits_approval: whether a person has to say go before it goes on.
        verdicts: counts devices; the empty one those just heard of.
    """

    id: str
    package: str
    version: str
    channel: str
    state: RolloutState
    before: RolloutState | None
    awaits_approval: bool
    created_at: datetime
    changed_at: datetime
    verdicts: Mapping[str, int]

    @property
    def meant(self) -> int:
        """How many devices it concerns."""
        return sum(self.verdicts.values())


def rollout_lines(
    engine: Engine,
    *,
    states: tuple[RolloutState, ...] = (),
    package: str = "",
    version: str = "",
    before: str = "",
    limit: int = 20,
) -> list[RolloutLine]:
    """Rollouts, the newest first, each with counts by verdict; blocks."""
    row = rollouts.c
    found = select(row.id, row.package, row.version, row.channel, row.state, row.created_at, row.changed_at)
    # what a plan and its progress say is only asked of those that go on
    active = row.state == RolloutState.ACTIVE.value
    going_on = (case((active, column)).label(column.name) for column in (row.plan, row.progress))
    found = found.add_columns(row.stopped, *going_on)
    found = found.order_by(row.id.desc()).limit(limit)
    if states:
        found = found.where(rollouts.c.state.in_([state.value for state in states]))
    if package:
        found = found.where(rollouts.c.package == package)
    if version:
        found = found.where(rollouts.c.version == version)
    if before:
        found = found.where(rollouts.c.id < before)
    with reading(engine) as connection:
        rows = connection.execute(found).mappings().all()
        # by the bare columns of the index, so that it alone answers
        counted = select(_word.rollout, _word.verdict, func.count()).where(
            _word.rollout.in_([row["id"] for row in rows])
        )
        verdicts: dict[str, dict[str, int]] = {}
        for rollout, verdict, number in connection.execute(counted.group_by(_word.rollout, _word.verdict)):
            verdicts.setdefault(rollout, {})[verdict or ""] = number
    return [
        RolloutLine(
            id=row["id"],
            package=row["package"],
            version=row["version"],
            channel=row["channel"],
            state=RolloutState(row["state"]),
            before=stopped_before(RolloutState(row["state"]), row["stopped"] or ""),
            awaits_approval=awaits_approval(row),
            created_at=from_db(row["created_at"]),
            changed_at=from_db(row["changed_at"]),
            verdicts=verdicts.get(row["id"], {}),
        )
        for row in rows
    ]
