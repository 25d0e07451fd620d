"""Takes a batch of incoming messages into the database, in one transaction.

Whatever is committed here may be acknowledged; whatever is not comes again, and then changes nothing twice.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, func, select

from controller.database import to_db, writing
from controller.fleet.device_rows import DeviceRow, load_rows, save_rows
from controller.fleet.forgetting import only_left
from controller.fleet.hours import hour_number
from controller.fleet.incoming import ClearedIn, EventIn, Incoming, PresenceIn, ReportedIn
from controller.fleet.lives import StoredEvents, place
from controller.fleet.orders import ask_to_report
from controller.fleet.packages import forget_packages, write_packages
from controller.fleet.progress import SeqTrack
from controller.fleet.sql import Insert, execute_many, insert_of, text_of, time_of
from controller.fleet.tables import events
from controller.rollouts.asks import review
from controller.rollouts.standing import Words
from controller.rollouts.tables import rollouts
from controller.rollouts.words import Channels, begin_anew, heard_before, note_words, set_right
from schemas.codec import encode
from schemas.messages import Presence, Reported, UpdateEvent

ASK_FOR: Final = timedelta(minutes=10)
MAX_DETAIL_BYTES: Final = 8 * 1024
"""Of an event's detail, which may be anything: it is kept for as long as the event is."""

_NO_CHANNELS: Final[frozenset[str]] = frozenset()
_HIGHEST: Final = select(func.coalesce(func.max(events.c.id), 0))


class StoredEvent(msgspec.Struct, frozen=True):
    """An event that was new: its place in the order of intake, the life of its journal, and the event."""

    id: int
    life: int
    event: UpdateEvent


@dataclass(slots=True)
class Outcome:
    """What a batch changed.

    Attributes:
        stored: events that were new, in the order of intake.
        repeated: events that were here already.
        presences: those that changed something; kept and live ones, in the order they came.
        reports: the latest of each device that sent some.
        new_lives: device to the number of the life that its journal began with this batch.
        tracks: device to what is known of its numbers, for every device that was heard of.
        journal_fell: devices whose report is behind an earlier one, so that their journal began again.
        rollouts: ids of rollouts that devices spoke of, and what which devices said.
        to_send: commands that are to be sent again.
        channels: channels of which devices changed in a way that a rollout may look at, and which devices.
    """

    stored: list[StoredEvent] = field(default_factory=list)
    repeated: int = 0
    presences: list[Presence] = field(default_factory=list)
    reports: list[Reported] = field(default_factory=list)
    new_lives: dict[str, int] = field(default_factory=dict)
    tracks: dict[str, SeqTrack] = field(default_factory=dict)
    journal_fell: set[str] = field(default_factory=set)
    rollouts: dict[str, Words] = field(default_factory=dict)
    channels: dict[str, set[str]] = field(default_factory=dict)
    to_send: int = 0

    def changed(self, device: str, *channels: str | None) -> None:
        """Note that a device of these channels changed."""
        for channel in channels:
            if channel:
                self.channels.setdefault(channel, set()).add(device)


class IntakeStore:
    """The database side of intake; synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def take_in(self, batch: Sequence[Incoming], now: datetime) -> Outcome:
        """Take in a batch, all of it or nothing.

        Args:
            batch: in the order in which it came.
            now: the controller's clock.
        """
        outcome = Outcome()
        with writing(self._engine) as connection:
            said = [one for one in batch if isinstance(one, EventIn)]
            others = [one for one in batch if not isinstance(one, EventIn)]
            alive = {one.event.device for one in said}
            rows = load_rows(connection, alive.union(one.device for one in others), now)
            left = only_left(connection, [row.id for row in rows.values() if row.is_new], batch)
            if left.gone:
                others = [one for one in others if one.device not in left.gone]
                for device in left.gone:
                    del rows[device]
            moment = to_db(now)
            set_right(connection, [row.id for row in rows.values() if row.is_ahead(moment)], now)
            _take_events(connection, said, rows, now, outcome, channels=_channels(rows, others))
            _take_state(connection, others, rows, now, outcome)
            hour = hour_number(moment)
            for device in alive.union(one.device for one in others if one.live):
                rows[device].heard(moment, hour)
            save_rows(connection, rows.values())
            reported = {one.device for one in outcome.reports}
            outcome.to_send = review(connection, rows.keys(), reported, now)
            if unreported := left.back - reported:
                # what the broker keeps of its report may have come before it was known to be back
                outcome.to_send += ask_to_report(connection, unreported, expires_in=ASK_FOR, now=now)
        outcome.tracks = {row.id: row.track for row in rows.values()}
        return outcome


def _channels(rows: Mapping[str, DeviceRow], others: Sequence[Incoming]) -> Channels:
    """Device to the channels that it follows by its last report, and by those that come with its events."""
    reports: dict[str, set[str]] = {}
    for one in others:
        if isinstance(one, ReportedIn):
            reports.setdefault(one.device, set()).add(one.reported.channel)

    def channels(device: str) -> Collection[str]:
        before, now = rows[device].channel, reports.get(device, _NO_CHANNELS)
        return now if before is None else now | {before}

    return channels


def _take_events(
    connection: Connection,
    batch: Sequence[EventIn],
    rows: dict[str, DeviceRow],
    now: datetime,
    outcome: Outcome,
    *,
    channels: Channels,
) -> None:
    if not batch:
        return
    # In a first life an event that is not here for all that is known is new without asking; the others are looked up.
    known = StoredEvents(connection)
    events_in = [one.event for one in batch]
    known.load([(event.device, event.seq) for event in events_in if rows[event.device].may_have(event.seq)])
    values: list[tuple[Any, ...]] = []
    received_at = to_db(now)
    for one in batch:
        event = one.event
        life = place(event, rows[event.device], known)
        if life is None:
            outcome.repeated += 1
            continue
        known.placed.append((life, event))
        values.append(_event_values(one, life, received_at))
    outcome.new_lives = {row.id: row.life for row in rows.values() if row.life_began}
    if values:
        outcome.stored = _insert_events(connection, values, known.placed)
        outcome.rollouts = note_words(connection, known.placed, now, out_of_order=known.out_of_order, channels=channels)


_COLUMNS: Final = tuple(column.name for column in events.columns if column.name != "id")


def _event_values(one: EventIn, life: int, received_at: int) -> tuple[Any, ...]:
    """As `_COLUMNS`."""
    event = one.event
    return (
        event.device,
        life,
        event.seq,
        event.update,
        event.rollout,
        event.package,
        text_of(event.version),
        str(event.phase),
        time_of(event.at),
        received_at,
        event.error.code if event.error else None,
        _kept(one).decode(),
    )


def _kept(one: EventIn) -> bytes:
    """The event as it came, but for a detail that is longer than any that there is a use for: its length stays."""
    if len(one.payload) <= MAX_DETAIL_BYTES:
        return one.payload
    length = len(msgspec.json.encode(one.event.detail))
    if length <= MAX_DETAIL_BYTES:
        return one.payload
    return encode(msgspec.structs.replace(one.event, detail={"cut_bytes": length}))


def _insert_events(
    connection: Connection, values: list[tuple[Any, ...]], placed: list[tuple[int, UpdateEvent]]
) -> list[StoredEvent]:
    """Insert many at once; one that another controller has just taken in is left as it is.

    Args:
        values: as `_COLUMNS`.
        placed: the life and the event that each of them is of.
    """
    if connection.dialect.name == "sqlite":
        added = execute_many(connection, _insert, _COLUMNS, values)
        # nobody else writes: SQLite has numbered them one after the other
        before = (connection.scalar(_HIGHEST) or 0) - added
        if added == len(values):
            return [StoredEvent(number, life, event) for number, (life, event) in enumerate(placed, before + 1)]
    else:
        before = connection.scalar(_HIGHEST) or 0
        execute_many(connection, _insert, _COLUMNS, values)
    fresh = select(events.c.id, events.c.device, events.c.life, events.c.seq).where(events.c.id > before)
    mine = {(event.device, life, event.seq): event for life, event in placed}
    return [
        StoredEvent(number, life, mine[device, life, seq])
        for number, device, life, seq in connection.execute(fresh.order_by(events.c.id))
        if (device, life, seq) in mine
    ]


def _insert(dialect: str) -> Insert:
    return insert_of(dialect, events, _COLUMNS).on_conflict_do_nothing()


def _take_state(
    connection: Connection,
    batch: Sequence[ReportedIn | PresenceIn | ClearedIn],
    rows: dict[str, DeviceRow],
    now: datetime,
    outcome: Outcome,
) -> None:
    reports: dict[str, ReportedIn] = {}
    cleared: set[str] = set()
    for one in batch:
        row = rows[one.device]
        match one:
            case PresenceIn():
                if row.take_presence(one.presence):
                    outcome.presences.append(one.presence)
            case ReportedIn():
                reports[row.id] = one
                cleared.discard(row.id)
            case ClearedIn(kind="reported"):
                reports.pop(row.id, None)
                cleared.add(row.id)
            case ClearedIn():
                row.clear_presence()
    _take_reports(connection, reports, rows, now, outcome)
    for device in sorted(cleared):
        channel = rows[device].channel
        outcome.changed(device, channel)
        rows[device].clear_report()
    forget_packages(connection, cleared)


def _take_reports(
    connection: Connection, reports: dict[str, ReportedIn], rows: dict[str, DeviceRow], now: datetime, outcome: Outcome
) -> None:
    changed = write_packages(connection, {device: one.reported.packages for device, one in reports.items()})
    moved: dict[str, set[str]] = {}
    for device, one in sorted(reports.items()):
        row = rows[device]
        channel = row.channel
        told = row.take_report(one.reported)
        if told.journal_fell:
            outcome.journal_fell.add(device)
        if channel is not None and channel != one.reported.channel:
            moved.setdefault(one.reported.channel, set()).add(device)
        if told.matters or device in changed:
            outcome.changed(device, channel, row.channel)
        outcome.reports.append(one.reported)
    for follows, some in moved.items():
        begin_anew(connection, some, rollouts.c.channel == follows)
        # a device says what it does about its new channel's release, and then that it follows that channel
        for rollout, words in note_words(connection, heard_before(connection, some, follows), now).items():
            outcome.rollouts.setdefault(rollout, {}).update(dict.fromkeys(words))
