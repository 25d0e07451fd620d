"""A rollout at one moment, for the page and the API: the database makes one string of all its devices."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, func, select

from controller.database import from_db, reading, to_db
from controller.rollouts.keeping import plan_of
from controller.rollouts.pace import Pace, Tally, bucket_s, pace
from controller.rollouts.phases import PHASES, Kind, code_column, kinds, letters_of
from controller.rollouts.plan import RolloutState
from controller.rollouts.reader import unknown_rollout
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.messages import Phase

_word: Final = rollout_devices.c
_LAST: Final = (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED, Phase.REJECTED)
NO_WAVE: Final = 1_000_000
"""Sorts behind every wave."""
_in_wave: Final = func.coalesce(_word.wave, NO_WAVE)
_MOVING: Final = frozenset({RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED})


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout at one moment.

    Attributes:
        cells: one letter for each device, by wave and id; see `controller.rollouts.phases`.
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
