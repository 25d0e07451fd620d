"""Keeps each device's latest word about each rollout, from its events."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, update

from controller.database import to_db
from controller.fleet.sql import Insert, bigint_of, chunks, execute_many, insert_of, int_of, text_of, time_of
from controller.fleet.views import wire_bytes
from controller.rollouts.tables import rollout_devices
from schemas.messages import UpdateEvent

_WORD = ("life", "seq", "update_id", "attempt", "from_version", "phase", "at", "error_code", "heard_at")
_BYTES = ("bytes_done", "bytes_total", "wire_bytes")


def note_words(connection: Connection, events: Iterable[tuple[int, UpdateEvent]], now: datetime) -> dict[str, set[str]]:
    """Take in what events say about rollouts; an event that is older than the word kept changes nothing.

    Args:
        connection: in a writing transaction.
        events: each with the life of the device's journal that it belongs to.
        now: the controller's clock.

    Returns:
        Ids of the rollouts that were spoken of, and by which devices.
    """
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for life, event in sorted(events, key=lambda one: (one[0], one[1].seq)):
        if event.rollout is None:
            continue
        key = (event.rollout, event.device)
        before = latest.get(key)
        word = _word(life, event) | {"heard_at": to_db(now)}
        if before is not None and before["update_id"] == event.update:
            word |= {name: before[name] for name in _BYTES if word[name] is None}
        latest[key] = word
    execute_many(connection, _write, [latest[key] for key in sorted(latest)])
    spoken_of: dict[str, set[str]] = {}
    for rollout, device in latest:
        spoken_of.setdefault(rollout, set()).add(device)
    return spoken_of


def set_right(connection: Connection, devices: Collection[str], now: datetime) -> None:
    """Have words that came in at a time that is still to come count from now on: the controller's clock was put back.

    Args:
        connection: in a writing transaction.
        devices: whose words.
        now: the controller's clock.
    """
    word = rollout_devices.c
    for some in chunks(sorted(devices)):
        late = update(rollout_devices).where(word.device.in_(some), word.heard_at > to_db(now))
        connection.execute(late.values(heard_at=to_db(now)))


def _word(life: int, event: UpdateEvent) -> dict[str, Any]:
    return {
        "rollout": event.rollout,
        "device": event.device,
        "life": life,
        "seq": event.seq,
        "update_id": event.update,
        "attempt": int_of(event.attempt),
        "from_version": text_of(event.from_version) if event.from_version else None,
        "phase": event.phase.value,
        "at": time_of(event.at),
        "error_code": event.error.code if event.error else None,
        "bytes_done": bigint_of(event.progress.bytes_done) if event.progress else None,
        "bytes_total": bigint_of(event.progress.bytes_total) if event.progress else None,
        "wire_bytes": wire_bytes(event),
    }


def _write(dialect: str) -> Insert:
    kept = rollout_devices.c
    statement = insert_of(dialect, rollout_devices, ("rollout", "device", *_WORD, *_BYTES))
    new = statement.excluded
    # The bytes of an update are said while it fetches, and are worth knowing to its end.
    same = new.update_id == kept.update_id
    counts = {name: case((same, func.coalesce(new[name], kept[name])), else_=new[name]) for name in _BYTES}
    return statement.on_conflict_do_update(
        index_elements=[kept.rollout, kept.device],
        set_={name: new[name] for name in _WORD} | counts,
        where=or_(new.life > kept.life, and_(new.life == kept.life, new.seq > kept.seq)),
    )
