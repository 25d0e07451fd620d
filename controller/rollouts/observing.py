"""Observations for the engine out of the database, and the verdicts back into it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    null,
    or_,
    select,
)

from controller.database import from_db
from controller.fleet.apart import apart_of
from controller.fleet.sql import Insert, among, chunks, execute_many, insert_of, listed, map_of
from controller.fleet.tables import desired, device_packages, devices
from controller.rollouts.plan import ENDED, FINAL, Mark, Observation, Plan, Verdict
from controller.rollouts.tables import rollout_asks, rollout_devices
from schemas.messages import Phase, Verb

_word = rollout_devices.c
_JUDGED: Final = (_word.verdict, _word.wave, _word.forgiven)


_Kept = tuple[str | None, int | None, bool | None]


@dataclass(frozen=True, slots=True)
class Observed:
    """Observations, and what each device that has a row has there so far: verdict, wave and whether it is forgiven."""

    observations: list[Observation]
    before: Mapping[str, _Kept]


def observe(
    connection: Connection,
    plan: Plan,
    *,
    channel: str,
    package: str,
    only: Collection[str] | None = None,
    unsettled: bool = False,
) -> Observed:
    """What is known of every device that the rollout may concern, or of those in `only` that it may.

    Those are the devices of its channel and whoever said something about it. Once the channel announces
    something else, it concerns only those whom it concerned till then; with `unsettled`, those of them whose verdict is
    not their last word already.
    """
    over = plan.state in ENDED
    dialect = connection.dialect.name
    found = _question(dialect, with_facts=_asks_for_facts(plan), over=over, only=only is not None, unsettled=unsettled)
    values = {"rollout": plan.rollout, "package": package}
    if only is not None:
        values |= listed(dialect, only)
    elif not over:
        values["channel"] = channel
    rows = list(map(_Row._make, connection.execute(found, values).all()))
    concerned = [row for row in rows if (row.concerned if over else row.channel == channel or row.phase)]
    return Observed(
        observations=[_observation(row, package, channel) for row in concerned],
        before={row.id: (row.verdict, row.wave, row.forgiven) for row in rows if row.concerned},
    )


class _Row(NamedTuple):
    """What the question asks for, in its order."""

    id: str
    last_seen: int
    channel: str | None
    online: bool
    hours: str | None
    life_now: int
    reported_seq: int | None
    concerned: str | None
    phase: str | None
    verdict: str | None
    wave: int | None
    forgiven: bool | None
    heard_at: int | None
    error_code: str | None
    life: int | None
    seq: int | None
    installed: str | None
    installed_phase: str | None
    told: str | None
    asked: str | None
    tags: str | None
    facts: str | None


@cache
def _question(dialect: str, *, with_facts: bool, over: bool, only: bool, unsettled: bool) -> Select[Any]:
    """As `_Row`, of `rollout` and `package`: of the devices that are listed, of those that `channel` has, or of all.

    Made once: to put it together anew takes as long as a small fleet's answer.
    """
    rollout: BindParameter[str] = bindparam("rollout")
    package: BindParameter[str] = bindparam("package")
    there, told, asked = device_packages.c, desired.c, rollout_asks.c
    joined = (
        devices.outerjoin(rollout_devices, and_(_word.rollout == rollout, _word.device == devices.c.id))
        .outerjoin(device_packages, and_(there.package == package, there.device == devices.c.id))
        .outerjoin(desired, told.device == devices.c.id)
        .outerjoin(rollout_asks, and_(asked.rollout == rollout, asked.device == devices.c.id))
    )
    own = (devices.c.id, devices.c.last_seen, devices.c.channel, devices.c.online, devices.c.hours)
    report = (devices.c.life.label("life_now"), devices.c.reported_seq)
    word = (_word.phase, *_JUDGED, _word.heard_at, _word.error_code, _word.life, _word.seq)
    found = select(
        *own,
        *report,
        _word.device.label("concerned"),
        *word,
        there.version.label("installed"),
        there.phase.label("installed_phase"),
        told.payload.label("told"),
        asked.verb.label("asked"),
        *([devices.c.tags, devices.c.facts] if with_facts else [null(), null()]),
    ).select_from(joined)
    if only:
        return found.where(among(dialect, devices.c.id))
    spoke: ColumnElement[bool] = _word.device.is_not(None)
    if unsettled:
        spoke = and_(
            spoke, or_(_word.phase.is_(None), _word.phase.not_in(_LAST), _word.verdict.is_distinct_from(_word.phase))
        )
    return found.where(spoke if over else or_(devices.c.channel == bindparam("channel"), spoke))


def _asks_for_facts(plan: Plan) -> bool:
    return bool(plan.base.where) or any(one.where or one.concurrency_per for one in plan.waves)


_LAST: Final = sorted(str(phase) for phase in FINAL)
_PHASES: Final = {phase.value: phase for phase in Phase}


def _observation(row: _Row, package: str, channel: str) -> Observation:
    apart = apart_of(row.told)
    return Observation(
        device=row.id,
        phase=_PHASES[row.phase] if row.phase else None,
        heard_at=None if row.heard_at is None else from_db(row.heard_at),
        error_code=row.error_code,
        installed=row.installed,
        installed_phase=_PHASES[row.installed_phase] if row.installed_phase else None,
        reported_since=_reported_since(row),
        pinned=apart.pinned(package),
        hold=bool(apart.hold),
        forgiven=bool(row.forgiven),
        taken_back=row.asked == Verb.CANCEL,
        moved=row.channel not in (None, channel),
        online=row.online,
        last_seen=from_db(row.last_seen),
        hours=row.hours,
        tags=map_of(row.tags),
        facts=map_of(row.facts),
    )


def _reported_since(row: _Row) -> bool:
    """Whether the device's report counts the event that its word is, or comes from a journal that is newer still."""
    if row.phase is None or row.reported_seq is None or row.life is None or row.seq is None:
        return False
    return row.life_now > row.life or (row.life_now == row.life and row.reported_seq >= row.seq)


def write_marks(connection: Connection, rollout: str, observed: Observed, marks: Mapping[str, Mark]) -> int:
    """Keep verdicts and waves, touching only rows that differ; returns how many did.

    A device that is not meant, and has said nothing, has no row.
    """
    wanted = {device: mark for device, mark in marks.items() if mark.verdict is not Verdict.NOT_MEANT}
    changed = list(_differing(rollout, wanted, observed.before))
    execute_many(connection, _keep_mark, _MARK, changed)
    gone = sorted(observed.before.keys() - wanted.keys())
    for some in chunks(gone):
        connection.execute(
            delete(rollout_devices).where(_word.rollout == rollout, _word.device.in_(some), _word.phase.is_(None))
        )
    return len(changed) + len(gone)


_MARK: Final = ("rollout", "device", "life", "seq", "verdict", "wave", "forgiven")


def drop_unknown(connection: Connection, rollout: str, some: Collection[str]) -> None:
    """Remove rows of devices that are known no more: a rollout may have begun while one was being forgotten."""
    known = exists().where(devices.c.id == _word.device)
    for chunk in chunks(sorted(some)):
        connection.execute(delete(rollout_devices).where(_word.rollout == rollout, _word.device.in_(chunk), ~known))


def _keep_mark(dialect: str) -> Insert:
    statement = insert_of(dialect, rollout_devices, _MARK)
    return statement.on_conflict_do_update(
        index_elements=[_word.rollout, _word.device],
        set_={one.name: statement.excluded[one.name] for one in _JUDGED},
    )


def _differing(rollout: str, wanted: Mapping[str, Mark], before: Mapping[str, _Kept]) -> Iterator[tuple[Any, ...]]:
    """As `_MARK`; for those that have no row yet, with no word."""
    for device, mark in sorted(wanted.items()):
        verdict = str(mark.verdict)
        if before.get(device) != (verdict, mark.wave, mark.forgiven):
            yield rollout, device, 0, 0, verdict, mark.wave, mark.forgiven
