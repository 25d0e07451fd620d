"""A device's row while a batch is taken in: read once, changed in memory by the rules below, written once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, Update, bindparam, select, update

from controller.database import to_db
from controller.fleet.hours import marked
from controller.fleet.progress import SeqTrack
from controller.fleet.sql import Insert, among, execute_many, insert_of, listed, map_of, text_of, time_of
from controller.fleet.tables import devices
from schemas.messages import FactValue, Presence, Reported

_DRIFTING: Final = frozenset({"disk_free", "memory_free", "boot_id", "clock_behind_s", "temperature_c"})
"""Facts that change by themselves all the time; no rollout is decided by them anew for that."""

_JUMP_US: Final = 60_000_000
"""Clocks of several controllers differ by less than this minute."""

_OFTEN: Final = ("last_seen", "highest", "missing", "hours", "heard_hour")
"""Columns that every event changes. None is in an index, but for devices that are not there: writing these alone
takes less than half of what the whole row takes, which would be put into its indexes anew."""

_OFTEN_AND_OF: Final = (*(f"new_{name}" for name in _OFTEN), "of")
_COLUMNS: Final = tuple(column.name for column in devices.columns)
_SELDOM: Final = [(name, place) for place, name in enumerate(_COLUMNS) if name not in {*_OFTEN, "life"}]
_ID, _LAST_SEEN, _LIFE, _HIGHEST, _MISSING, _HOURS, _HEARD_HOUR, _CHANNEL = map(
    _COLUMNS.index, ("id", "last_seen", "life", "highest", "missing", "hours", "heard_hour", "channel")
)


@dataclass(frozen=True, slots=True)
class Told:
    """What a report brought. `matters`: something a rollout may look at. `journal_fell`: see `take_report`."""

    matters: bool
    journal_fell: bool


class DeviceRow:
    """One device, as its row has it and as it is to be written.

    Attributes:
        id: the device's.
        life: see `lives`; `life_began` tells that it began just now.
        track: stands for the columns `highest` and `missing`.
    """

    __slots__ = ("_heard_hour", "_hours", "_last_seen", "_rest", "_stored", "id", "life", "life_began", "track")

    def __init__(self, stored: Sequence[Any], *, is_new: bool = False) -> None:
        """
        Args:
            stored: the row, in the order of the table's columns.
            is_new: whether the database has no such row yet.
        """
        self._stored = None if is_new else stored
        self._rest: dict[str, Any] | None = dict(zip(_COLUMNS, stored, strict=True)) if is_new else None
        self._last_seen: int = stored[_LAST_SEEN]
        self._hours: str | None = stored[_HOURS]
        self._heard_hour: int | None = stored[_HEARD_HOUR]
        self.id: str = stored[_ID]
        self.life: int = stored[_LIFE]
        self.life_began = False
        self.track = SeqTrack.read(stored[_HIGHEST], stored[_MISSING])

    @classmethod
    def new(cls, device: str, now: datetime) -> "DeviceRow":
        """A device that was never heard of before."""
        moment = to_db(now)
        values: dict[str, Any] = dict.fromkeys(_COLUMNS)
        values |= {"id": device, "first_seen": moment, "last_seen": moment}
        values |= {"online": False, "session": 0, "life": 1, "highest": 0}
        return cls(tuple(values.values()), is_new=True)

    @property
    def _values(self) -> dict[str, Any]:
        """The columns that reports and presence change, by name: most messages are events, and need none of them."""
        if self._rest is None:
            self._rest = dict(zip(_COLUMNS, self._stored or (), strict=True))
        return self._rest

    @property
    def is_new(self) -> bool:
        """Whether the database has no such row yet."""
        return self._stored is None

    @property
    def channel(self) -> str | None:
        """The channel that the device reported."""
        # most messages are events, which ask for this and nothing else of what a report says
        as_stored = self._stored if self._rest is None else None
        channel: str | None = self._values["channel"] if as_stored is None else as_stored[_CHANNEL]
        return channel

    def is_ahead(self, moment: int) -> bool:
        """Whether it was heard of at a time that is still to come: the controller's clock has been put back since."""
        return self._last_seen > moment + _JUMP_US

    def awaits(self, seq: int) -> bool:
        """Whether an event is the next one of a journal that never began again, as nearly all are."""
        return self.life == 1 and seq == self.track.highest + 1

    def may_have(self, seq: int) -> bool:
        """Whether the event with this number may be here, for all that the row knows."""
        if self.life > 1:
            return True
        return seq <= self.track.highest and not self.track.lacks(seq)

    def often(self) -> tuple[Any, ...] | None:
        """As `_OFTEN_AND_OF`, where nothing but that has changed; None where the whole row is to be written."""
        stored = self._stored
        if stored is None or self.life != stored[_LIFE]:
            return None
        rest = self._rest
        if rest is not None and any(rest[name] != stored[place] for name, place in _SELDOM):
            return None
        track = self.track
        return self._last_seen, track.highest, track.gaps_text(), self._hours, self._heard_hour, self.id

    def whole(self) -> tuple[Any, ...]:
        """As `_COLUMNS`: the row as it is to be written."""
        row = self._values | {
            "life": self.life,
            "last_seen": self._last_seen,
            "highest": self.track.highest,
            "missing": self.track.gaps_text(),
            "hours": self._hours,
            "heard_hour": self._heard_hour,
        }
        return tuple(row.values())

    def heard(self, moment: int, hour: int) -> None:
        """The device is alive: something came from it just now.

        Args:
            moment: as `to_db` has it.
            hour: its `hour_number`.
        """
        self._last_seen = moment
        if self._heard_hour != hour:
            self._heard_hour, self._hours = hour, marked(self._hours, hour)

    def begin_life(self) -> int:
        """The device's journal began again; returns the number of its new life."""
        self.life += 1
        self.life_began = True
        self.track = SeqTrack()
        return self.life

    def take_presence(self, presence: Presence) -> bool:
        """Take in a presence; returns whether it changed anything.

        An `online: false` of an older session is ignored. A word of being online is always believed: messages
        of one device come in order, and after its disk was replaced its sessions begin again at 1.
        """
        values = self._values
        if not presence.online and presence.session < values["session"]:
            return False
        told = {
            "online": presence.online,
            "session": presence.session,
            "presence_at": time_of(presence.at),
            "boot_id": text_of(presence.boot_id),
            "agent_version": text_of(presence.agent_version),
        }
        changed = any(values[name] != value for name, value in told.items())
        values |= told
        return changed

    def clear_presence(self) -> None:
        """The retained presence was cleared: nobody vouches for the device being there."""
        self._values.update(online=False, session=0)

    def take_report(self, reported: Reported) -> Told:
        """Take in a report.

        Its `seq` says how many events there are. One that is lower than an earlier report's means that the
        device's journal began again (`journal_fell`): reports of one device come in order.
        """
        before = self._values
        earlier = before["reported_seq"]
        facts, tags = _json(reported.facts), _json(reported.tags)
        matters = (before["channel"], before["tags"]) != (reported.channel, tags) or (
            before["facts"] != facts and _steady(before["facts"]) != _steady(facts)
        )
        journal_fell = earlier is not None and reported.seq < earlier
        track = self.track.forget_beyond(reported.seq) if journal_fell else self.track
        self.track = track.expect(reported.seq)
        self._rest = before | {
            "reported_at": time_of(reported.at),
            "reported_seq": reported.seq,
            "channel": reported.channel,
            "tags": tags,
            "facts": facts,
        }
        return Told(matters=matters, journal_fell=journal_fell)

    def clear_report(self) -> None:
        """The retained report was cleared: the device belongs to no channel any more."""
        self._values.update(dict.fromkeys(("reported_at", "reported_seq", "channel", "tags", "facts")))


def load_rows(connection: Connection, ids: set[str], now: datetime) -> dict[str, DeviceRow]:
    """The rows of these devices, locked against other writers; new ones for those never heard of."""
    dialect = connection.dialect.name
    rows = {row[_ID]: DeviceRow(row) for row in connection.execute(_of(dialect), listed(dialect, ids)).all()}
    for device in ids - rows.keys():
        rows[device] = DeviceRow.new(device, now)
    return rows


@cache
def _of(dialect: str) -> Select[Any]:
    return select(devices).where(among(dialect, devices.c.id)).order_by(devices.c.id).with_for_update()


def save_rows(connection: Connection, rows: Iterable[DeviceRow]) -> None:
    """Write the rows back."""
    often, whole = [], []
    # in the order of their ids, so that two writers never wait for each other
    for row in sorted(rows, key=attrgetter("id")):
        changing = row.often()
        if changing is None:
            whole.append(row.whole())
        else:
            often.append(changing)
    execute_many(connection, _update_often, _OFTEN_AND_OF, often)
    execute_many(connection, _upsert, _COLUMNS, whole)


def _upsert(dialect: str) -> Insert:
    statement = insert_of(dialect, devices, _COLUMNS)
    changed = {name: statement.excluded[name] for name in _COLUMNS if name not in {"id", "first_seen"}}
    return statement.on_conflict_do_update(index_elements=[devices.c.id], set_=changed)


def _update_often(_dialect: str) -> Update:
    c = devices.c
    values = {name: bindparam(f"new_{name}", type_=c[name].type) for name in _OFTEN}
    return update(devices).where(c.id == bindparam("of", type_=c.id.type)).values(values)


def _json(value: Mapping[str, FactValue]) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _steady(facts: str | None) -> dict[str, Any]:
    return {name: value for name, value in map_of(facts).items() if name not in _DRIFTING}
