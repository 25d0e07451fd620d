"""Bounds what is kept of one device, whatever it says: beyond that its oldest events go, last words too.

A device that is broken or in wrong hands may begin updates without end, each with a last word of its own, and name a
rollout that never was in each of its events.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, bindparam, delete, exists, func, or_, select, update

from controller.database import reading, writing
from controller.fleet.intake_store import Outcome
from controller.fleet.observers import Observer
from controller.fleet.sql import bigint_of, chunks, int_of
from controller.fleet.tables import events
from controller.rollouts.plan import ENDED
from controller.rollouts.tables import announcements, rollout_devices, rollouts
from schemas.codec import encode
from schemas.messages import UpdateEvent

MOST_EVENTS: Final = 20_000
"""Of one device. It can send again what its outbox holds, which is half of that, and whatever comes again has to be
known here. One that takes five releases a day has said as much after ten years: steps are forgotten anyway."""
MOST_CHARACTERS: Final = 32 * 1024 * 1024
"""Of one device's events as they came: twice what so many of them have. One with a log's end is much longer. Those
before are shortened and not removed: its outbox may hold them yet, and what is not known here begins another life."""
SHORT: Final = 2048
"""An event without its log's end has less."""
_MESSAGE: Final = 200
_DETAIL: Final = 512
LOOK_AFTER: Final = 1000
"""New events of a device, after which it is looked at whether they are too many."""
BATCH: Final = 1000
"""Rows that are removed in one transaction: intake waits for no more than that."""

_said = events.c
_word = rollout_devices.c
_UNKNOWN: Final = ~exists().where(rollouts.c.id == _said.rollout)
_COUNTS: Final = or_(
    _said.rollout.in_(select(rollouts.c.id).where(rollouts.c.state.not_in([state.value for state in ENDED]))),
    _said.rollout.in_(select(announcements.c.rollout)),
)


class Surplus:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def devices(self) -> list[str]:
        """Those of which more events are kept than may be."""
        many = select(_said.device).group_by(_said.device).having(func.count() > MOST_EVENTS).order_by(_said.device)
        with reading(self._engine) as connection:
            return list(connection.scalars(many))

    def remove(self, device: str) -> int:
        """Remove a device's oldest events where there are too many, and shorten long ones; returns how many that were.

        What it has said last of each rollout that goes on, or is announced, stays: that is evidence.
        """
        with reading(self._engine) as connection:
            gone, short = self._too_much(connection, device)
            if not gone and not short:
                return 0
            evidence = _evidence(connection, device, max(gone, short))
        return self._remove(device, gone, evidence) + self._shorten(device, short, evidence)

    def _remove(self, device: str, last: int, evidence: Collection[int]) -> int:
        removed = after = 0
        some = select(_said.id).where(_said.device == device, _said.id <= last).order_by(_said.id).limit(BATCH)
        while True:
            with writing(self._engine) as connection:
                ids = list(connection.scalars(some.where(_said.id > after)))
                if not ids:
                    return removed
                after = ids[-1]
                ids = [number for number in ids if number not in evidence]
                removed += sum(remove_events(connection, _said.id.in_(part)) for part in chunks(ids))

    def _shorten(self, device: str, last: int, evidence: Collection[int]) -> int:
        shortened = after = 0
        which = (_said.device == device, _said.id <= last, func.length(_said.payload) > SHORT)
        some = select(_said.id, _said.payload).where(*which).order_by(_said.id).limit(BATCH)
        cut = update(events).where(_said.id == bindparam("of")).values(payload=bindparam("short"))
        while True:
            with writing(self._engine) as connection:
                rows = connection.execute(some.where(_said.id > after)).all()
                if not rows:
                    return shortened
                after = rows[-1].id
                values = [{"of": row.id, "short": _short(row.payload)} for row in rows if row.id not in evidence]
                if values:
                    connection.execute(cut, values)
                shortened += len(values)

    def _too_much(self, connection: Connection, device: str) -> tuple[int, int]:
        """The newest event that is to go, and the newest that is to be short; 0 where there is none."""
        newest = select(_said.id, func.length(_said.payload)).where(_said.device == device).order_by(_said.id.desc())
        characters = short = 0
        for number, (event, length) in enumerate(connection.execute(newest.limit(MOST_EVENTS + 1)), start=1):
            characters += length
            if not short and characters > MOST_CHARACTERS:
                short = int(event)
            if number > MOST_EVENTS:
                return int(event), short
        return 0, short


def _short(payload: str) -> str:
    """An event without a log's end and a long detail, with its message's beginning, and no absurd numbers."""
    said = msgspec.json.decode(payload, type=UpdateEvent)
    error, detail, progress = said.error, said.detail, said.progress
    if error is not None:
        error = msgspec.structs.replace(error, message=error.message[:_MESSAGE], log_tail="")
    if (length := len(msgspec.json.encode(detail))) > _DETAIL:
        detail = {"cut_bytes": length}
    if progress is not None:
        done, total = bigint_of(progress.bytes_done), bigint_of(progress.bytes_total)
        progress = msgspec.structs.replace(progress, bytes_done=done, bytes_total=total)
    attempt = int_of(said.attempt)
    cut = msgspec.structs.replace(said, error=error, detail=detail, progress=progress, attempt=attempt)
    return encode(cut).decode()


def _evidence(connection: Connection, device: str, last: int) -> Collection[int]:
    found = select(_said.id, _said.rollout, _said.life, _said.seq).where(
        _said.device == device, _said.id <= last, _COUNTS
    )
    latest: dict[str, tuple[int, int, int]] = {}
    for event, rollout, life, seq in connection.execute(found.execution_options(yield_per=BATCH)):
        latest[rollout] = max(latest.get(rollout, (0, 0, 0)), (life, seq, event))
    return {event for _life, _seq, event in latest.values()}


def remove_events(connection: Connection, within: ColumnElement[bool], *which: ColumnElement[bool]) -> int:
    """Remove events; a word that is kept of a rollout which is not known here goes with its event.

    Args:
        connection: in a writing transaction.
        within: a few of them, quickly found.
        which: conditions besides.

    Returns:
        How many that were.
    """
    strange = select(_said.device, _said.rollout).where(within, _said.rollout.is_not(None), _UNKNOWN).distinct()
    spoken_of: dict[str, list[str]] = {}
    for device, rollout in connection.execute(strange):
        spoken_of.setdefault(device, []).append(rollout)
    count = connection.execute(delete(events).where(within, *which)).rowcount
    still_said = exists().where(_said.device == _word.device, _said.life == _word.life, _said.seq == _word.seq)
    for device, unknown in spoken_of.items():
        for some in chunks(unknown):
            words = delete(rollout_devices).where(_word.rollout.in_(some), _word.device == device)
            connection.execute(words.where(~still_said))
    return count


class Talkative(Observer):
    """Notes which devices have said so much that it should be looked at. For one event loop.

    Attributes:
        any: set where there is one.
    """

    def __init__(self) -> None:
        self.any = asyncio.Event()
        self._new: dict[str, int] = {}
        self._to_look_at: set[str] = set()

    def taken_in(self, outcome: Outcome) -> None:
        """Count what is new."""
        new = self._new
        for device, number in Counter([one.event.device for one in outcome.stored]).items():
            new[device] = count = new.get(device, 0) + number
            if count >= LOOK_AFTER:
                self._to_look_at.add(device)
                self.any.set()

    def forgotten(self, device: str) -> None:
        """It is gone."""
        self._new.pop(device, None)

    def take(self) -> list[str]:
        """The devices to look at, whose count begins anew."""
        taken = sorted(self._to_look_at)
        self._to_look_at.clear()
        self.any.clear()
        for device in taken:
            self._new.pop(device, None)
        return taken
