"""A device's row while a batch is taken in: read once, changed in memory by the rules below, written once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Update, bindparam, select, update

from controller.database import to_db
from controller.fleet.hours import marked
from controller.fleet.progress import SeqTrack
from controller.fleet.sql import Insert, chunks, execute_many, insert_of, map_of, text_of, time_of
from controller.fleet.tables import devices
from schemas.messages import FactValue, Presence, Reported

_DRIFTING: Final = frozenset({"disk_free", "memory_free", "boot_id", "clock_behind_s", "temperature_c"})
"""Facts that change by themselves all the time; no rollout is decided by them anew for that."""

_JUMP_US: Final = 60_000_000
"""Clocks of several controllers differ by less than this minute."""

_OFTEN: Final = ("last_seen", "highest", "missing", "hours", "heard_hour")
"""Columns that every event changes. None is in an index, but for devices that are not there: writing these alone
takes less than half of what the whole row takes, which would be put into its indexes anew."""

_COLUMNS: Final = [column.name for column in devices.columns]
_SELDOM: Final = [name for name in _COLUMNS if name not in _OFTEN]


@dataclass(frozen=True, slots=True)
class Told:
    """What a report brought. `matters`: something a rollout may look at. `journal_fell`: see `take_report`."""

    matters: bool
    journal_fell: bool


class DeviceRow:
    """One device. The attributes are the columns of `devices`; `track` stands for `highest` and `missing`."""

    def __init__(self, values: Mapping[str, Any], *, is_new: bool = False) -> None:
        self._values = dict(values)
        self._stored = None if is_new else values
        self.id: str = self._values["id"]
        self.life: int = self._values["life"]
        self.life_began = False
        self.track = SeqTrack.read(self._values["highest"], self._values["missing"])

    @classmethod
    def new(cls, device: str, now: datetime) -> "DeviceRow":
        """A device that was never heard of before."""
        nothing: dict[str, Any] = dict.fromkeys(_COLUMNS)
        moment = to_db(now)
        return cls(
            nothing
            | {"id": device, "first_seen": moment, "last_seen": moment}
            | {"online": False, "session": 0, "life": 1, "highest": 0},
            is_new=True,
        )

    @property
    def channel(self) -> str | None:
        """The channel that the device reported."""
        channel: str | None = self._values["channel"]
        return channel

    def is_ahead(self, moment: int) -> bool:
        """Whether it was heard of at a time that is still to come: the controller's clock has been put back since."""
        return int(self._values["last_seen"]) > moment + _JUMP_US

    def values(self) -> dict[str, Any]:
        """The row as it is to be written."""
        return self._values | {
            "life": self.life,
            "highest": self.track.highest,
            "missing": self.track.gaps_text(),
        }

    def differs(self, values: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Whether these columns of what is to be written are other than stored; so are all of a new device."""
        stored = self._stored
        return stored is None or any(values[name] != stored[name] for name in names)

    def heard(self, moment: int, hour: int) -> None:
        """The device is alive: something came from it just now.

        Args:
            moment: as `to_db` has it.
            hour: its `hour_number`.
        """
        self._values["last_seen"] = moment
        if self._values["heard_hour"] != hour:
            self._values |= {"heard_hour": hour, "hours": marked(self._values["hours"], hour)}

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
        if not presence.online and presence.session < self._values["session"]:
            return False
        told = {
            "online": presence.online,
            "session": presence.session,
            "presence_at": time_of(presence.at),
            "boot_id": text_of(presence.boot_id),
            "agent_version": text_of(presence.agent_version),
        }
        changed = any(self._values[name] != value for name, value in told.items())
        self._values |= told
        return changed

    def clear_presence(self) -> None:
        """The retained presence was cleared: nobody vouches for the device being there."""
        self._values |= {"online": False, "session": 0}

    def take_report(self, reported: Reported) -> Told:
        """Take in a report.

        Its `seq` says how many events there are. One that is lower than an earlier report's means that the
        device's journal began again (`journal_fell`): reports of one device come in order.
        """
        before = self._values
        earlier = before["reported_seq"]
        facts, tags = _json(reported.facts), _json(reported.tags)
        matters = (before["channel"], before["tags"]) != (reported.channel, tags) or _steady(
            before["facts"]
        ) != _steady(facts)
        journal_fell = earlier is not None and reported.seq < earlier
        track = self.track.forget_beyond(reported.seq) if journal_fell else self.track
        self.track = track.expect(reported.seq)
        self._values = before | {
            "reported_at": time_of(reported.at),
            "reported_seq": reported.seq,
            "channel": reported.channel,
            "tags": tags,
            "facts": facts,
        }
        return Told(matters=matters, journal_fell=journal_fell)

    def clear_report(self) -> None:
        """The retained report was cleared: the device belongs to no channel any more."""
        self._values |= dict.fromkeys(("reported_at", "reported_seq", "channel", "tags", "facts"))


def load_rows(connection: Connection, ids: set[str], now: datetime) -> dict[str, DeviceRow]:
    """The rows of these devices, locked against other writers; new ones for those never heard of."""
    rows: dict[str, DeviceRow] = {}
    for some in chunks(sorted(ids)):
        found = select(devices).where(devices.c.id.in_(some)).order_by(devices.c.id).with_for_update()
        for row in connection.execute(found):
            values = dict(zip(_COLUMNS, row, strict=True))
            rows[values["id"]] = DeviceRow(values)
    for device in ids - rows.keys():
        rows[device] = DeviceRow.new(device, now)
    return rows


def save_rows(connection: Connection, rows: Iterable[DeviceRow]) -> None:
    """Write the rows back."""
    often, whole = [], []
    # in the order of their ids, so that two writers never wait for each other
    for row in sorted(rows, key=lambda row: row.id):
        values = row.values()
        if row.differs(values, _SELDOM):
            whole.append(values)
        else:
            often.append({"of": row.id} | {f"new_{name}": values[name] for name in _OFTEN})
    execute_many(connection, _update_often, often)
    execute_many(connection, _upsert, whole)


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
