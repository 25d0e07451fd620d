"""What the live page of a rollout shows: the database makes one string of all devices, so that few rows are moved."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, and_, func, select

from controller.database import from_db, reading, to_db
from controller.fleet.apart import apart_of
from controller.fleet.tables import desired, devices, events
from controller.fleet.views import Deferral, deferral_of, kept_event
from controller.rollouts.excluding import left_out_by_name
from controller.rollouts.explaining import WHY_LEFT_OUT, reason
from controller.rollouts.holding import is_owners
from controller.rollouts.keeping import plan_of
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import Standing, in_newer, unknown_rollout
from controller.rollouts.tables import rollout_asks, rollout_devices, rollouts
from controller.web.pace import Pace, Tally, bucket_s, pace
from controller.web.phases import LEFT_OUT, PHASES, Kind, Look, code_column, kinds, letters_of, look_of, with_code
from schemas.messages import Phase, Verb

_word: Final = rollout_devices.c
_LAST: Final = (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED, Phase.REJECTED)
NO_WAVE: Final = 1_000_000
"""Sorts behind every wave."""
_in_wave: Final = func.coalesce(_word.wave, NO_WAVE)
_MOVING: Final = frozenset({RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED})


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout at one moment.

    Attributes:
        cells: one letter for each device, by wave and id; see `controller.web.phases`.
        letters: how many cells have each letter; `counts` how many are of each kind.
        waves: wave and number of its devices, in order; `NO_WAVE` for those that are in none yet.
        order: changes whenever the devices themselves do, so that a place in `cells` means another one.
        tallies: devices that finished, by stretches of `width_s` seconds from the beginning on.
    """

    rollout: str
    package: str
    version: str
    channel: str
    state: RolloutState
    revision: int
    created_at: datetime
    changed_at: datetime
    read_at: datetime
    cells: str
    letters: dict[str, int]
    counts: dict[Kind, int]
    waves: list[tuple[int, int]]
    order: str
    width_s: int
    tallies: list[Tally]
    pace: Pace

    @property
    def done(self) -> int:
        """Devices of which nothing more is expected."""
        return self.counts["good"] + self.counts["bad"] + self.counts["aside"]

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return self.done / len(self.cells) if self.cells else 0.0


def read_board(engine: Engine, rollout: str, now: datetime) -> Board:
    """A rollout as it is now; blocks. Raises `OperatorError` (`rollout.unknown`)."""
    with reading(engine) as connection:
        row = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().first()
        if row is None:
            raise unknown_rollout(rollout)
        cells, waves, order = _cells(connection, rollout)
        begun = from_db(row["created_at"])
        state = RolloutState(row["state"])
        until = now if state in _MOVING else from_db(row["changed_at"])
        width_s = bucket_s(begun, until)
        tallies = _tallies(connection, rollout, begun, until, width_s)
    letters = letters_of(cells)
    counted = kinds(letters)
    return Board(
        rollout=rollout,
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        state=state,
        revision=row["revision"],
        created_at=begun,
        changed_at=from_db(row["changed_at"]),
        read_at=now,
        cells=cells,
        letters=letters,
        counts=counted,
        waves=waves,
        order=order,
        width_s=width_s,
        tallies=tallies,
        pace=pace(tallies, width_s, rest=_rest(row, letters, counted), now=until)
        if state is RolloutState.ACTIVE
        else Pace(),
    )


def _rest(row: Any, letters: Mapping[str, int], counted: Mapping[Kind, int]) -> int | None:
    """How many devices are still to finish, where all of them may; else None."""
    if any(one.started_at is None for one in plan_of(row).progress) or letters.get(PHASES[Phase.DEFERRED].code):
        return None
    return counted["waiting"] + counted["working"]


def device_at(engine: Engine, rollout: str, place: int) -> str | None:
    """The device that a place in a board's cells stands for; None where there are not so many. Blocks."""
    found = select(_word.device).where(_word.rollout == rollout).order_by(_in_wave, _word.device).offset(place).limit(1)
    with reading(engine) as connection:
        return connection.scalar(found)


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout, as a list shows it.

    Attributes:
        reason: why it is held or left out, or that it is away; empty for any other.
        newer: the rollout that took this one's place before the device had begun, and means it; None otherwise.
        newer_look: how it stands there.
        waits: why it is deferred, and until when; None for any other.
    """

    device: str
    look: Look
    online: bool
    from_version: str | None
    at: datetime | None
    code: str | None
    bytes_done: int | None
    bytes_total: int | None
    wire_bytes: int | None
    reason: str = ""
    newer: str | None = None
    newer_look: Look | None = None
    waits: Deferral | None = None


def device_rows(
    engine: Engine, rollout: str, *, code: str = "", only: str | None = None, after: str = "", limit: int = 50
) -> list[DeviceRow]:
    """Devices of a rollout, and those that it leaves out by name, by id; blocks.

    Args:
        code: only those that are shown by this letter; all for an empty one.
        only: this one device.
        after: the last id of the page before.
        limit: at most this many.
    """
    found = (
        select(rollout_devices, devices.c.online, desired.c.payload.label("told"), rollouts.c.package, rollouts.c.state)
        .join(rollouts, rollouts.c.id == _word.rollout)
        .add_columns(rollout_asks.c.verb.label("asked"))
        .outerjoin(devices, devices.c.id == _word.device)
        .outerjoin(desired, desired.c.device == _word.device)
        .outerjoin(rollout_asks, and_(rollout_asks.c.rollout == _word.rollout, rollout_asks.c.device == _word.device))
        .where(_word.rollout == rollout, _word.device > after)
    )
    if code:
        found = found.where(with_code(code))
    if only is not None:
        found = found.where(_word.device == only)
    with reading(engine) as connection:
        rows = connection.execute(found.order_by(_word.device).limit(limit)).mappings().all()
        not_begun = [row["device"] for row in rows if row["verdict"] == Verdict.ENDED.value]
        newer = in_newer(connection, rollout, not_begun)
        waits = _waits(connection, rollout, [row["device"] for row in rows if row["phase"] == Phase.DEFERRED.value])
        # they have no cell, and so no letter that they are shown by
        out = {} if code or only is not None else left_out_by_name(connection, rollout)
    listed = [_row(row, newer.get(row["device"]), waits.get(row["device"])) for row in rows]
    listed += [_left_out(device, online=online) for device, online in out.items() if device > after]
    return sorted(listed, key=lambda one: one.device)[:limit]


def _waits(connection: Connection, rollout: str, some: list[str]) -> dict[str, Deferral]:
    """Why devices are deferred, by their last words: read only for those that are shown."""
    if not some:
        return {}
    latest = and_(events.c.device == _word.device, events.c.life == _word.life, events.c.seq == _word.seq)
    said = select(events.c.payload).select_from(rollout_devices).join(events, latest)
    found = map(kept_event, connection.scalars(said.where(_word.rollout == rollout, _word.device.in_(some))))
    return {event.device: waits for event in found if (waits := deferral_of(event)) is not None}


def _row(row: Any, newer: Standing | None, waits: Deferral | None) -> DeviceRow:
    apart, look = apart_of(row["told"]), look_of(row["verdict"], row["phase"])
    verdict = Verdict(row["verdict"]) if row["verdict"] else None
    return DeviceRow(
        device=row["device"],
        look=look,
        online=bool(row["online"]),
        from_version=row["from_version"],
        at=None if row["at"] is None else from_db(row["at"]),
        code=row["error_code"],
        bytes_done=row["bytes_done"],
        bytes_total=row["bytes_total"],
        wire_bytes=row["wire_bytes"],
        reason=reason(
            verdict,
            RolloutState(row["state"]),
            pinned=apart.pinned(row["package"]),
            hold=bool(apart.hold),
            leaves=row["asked"] == Verb.CANCEL,
            online=bool(row["online"]),
            waits=waits,
        ),
        newer=newer.rollout if newer else None,
        newer_look=look_of(newer.verdict, newer.phase) if newer else None,
        waits=waits if look is PHASES[Phase.DEFERRED] and not is_owners(verdict, waits) else None,
    )


def _left_out(device: str, *, online: bool) -> DeviceRow:
    return DeviceRow(
        device=device,
        look=LEFT_OUT,
        online=online,
        from_version=None,
        at=None,
        code=None,
        bytes_done=None,
        bytes_total=None,
        wire_bytes=None,
        reason=WHY_LEFT_OUT,
    )


def _cells(connection: Connection, rollout: str) -> tuple[str, list[tuple[int, int]], str]:
    """One row out of as many as there are devices: the database joins them, which costs a thousandth of moving them."""
    each = (
        select(code_column().label("code"), _word.device)
        .where(_word.rollout == rollout)
        .order_by(_in_wave, _word.device)
        .subquery()
    )
    joined = select(func.aggregate_strings(each.c.code, ""), func.min(each.c.device), func.max(each.c.device))
    cells, first, last = connection.execute(joined).one()
    counted = select(_in_wave, func.count()).where(_word.rollout == rollout).group_by(_in_wave).order_by(_in_wave)
    waves = [(number, count) for number, count in connection.execute(counted)]
    order = " ".join(f"{number}:{count}" for number, count in waves)
    return cells or "", waves, f"{order} {first or ''} {last or ''}"


def _tallies(connection: Connection, rollout: str, begun: datetime, until: datetime, width_s: int) -> list[Tally]:
    """By the devices' own clocks, which may be wrong: what would lie before or after counts at the ends."""
    start, width = to_db(begun), timedelta(seconds=width_s) // timedelta(microseconds=1)
    bucket = ((_word.at - start) // width).label("bucket")
    found = (
        select(bucket, _word.phase, func.count())
        .where(_word.rollout == rollout, _word.phase.in_([phase.value for phase in _LAST]))
        .group_by(bucket, _word.phase)
    )
    points = max(0, int((until - begun).total_seconds())) // width_s + 1
    good, bad = [0] * points, [0] * points
    for number, phase, count in connection.execute(found):
        place = min(max(_int(number), 0), points - 1)
        (good if phase == Phase.SUCCEEDED else bad)[place] += count
    return [Tally(good=good[place], bad=bad[place]) for place in range(points)]


def _int(value: Any) -> int:
    return int(value) if value is not None else 0
