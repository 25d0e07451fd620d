"""Keeps each device's latest word about each rollout, from its events."""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select, update

from controller.database import to_db
from controller.fleet.apart import apart_of
from controller.fleet.sql import Insert, bigint_of, chunks, execute_many, insert_of, int_of, text_of, time_of
from controller.fleet.tables import desired, events
from controller.fleet.views import wire_bytes
from controller.rollouts.plan import UNDER_WAY
from controller.rollouts.standing import Words
from controller.rollouts.tables import announcements, rollout_devices, rollouts
from schemas.messages import Phase, UpdateEvent

_KEY = ("rollout", "device")
_WORD = ("life", "seq", "update_id", "attempt", "from_version", "phase", "at", "error_code", "heard_at")
_BYTES = ("bytes_done", "bytes_total", "wire_bytes")
_COLUMNS = (*_KEY, *_WORD, *_BYTES)

Channels = Callable[[str], Collection[str]]

_Bytes = tuple[int | None, int | None, int | None]
_NO_BYTES: Final = (None, None, None)


def note_words(
    connection: Connection,
    events: Iterable[tuple[int, UpdateEvent]],
    now: datetime,
    *,
    out_of_order: Collection[str] = (),
    channels: Channels = lambda _device: (),
) -> dict[str, Words]:
    """Take in what events say about rollouts; an event that is older than the word kept changes nothing.

    Nor does the word of a device that the rollout never meant, as its channel is another one: that of a device which
    has moved since counts, as there is an earlier one.

    Args:
        connection: in a writing transaction.
        events: each with the life of the device's journal that it belongs to.
        now: the controller's clock.
        out_of_order: devices of which an event came that is not the next one: what it says may be known better already.
        channels: device to the channels that it may follow, as far as it has told; none for all.

    Returns:
        Ids of the rollouts that were spoken of, and what by which devices.
    """
    said: dict[tuple[str, str], list[tuple[int, UpdateEvent]]] = {}
    for one in events:
        event = one[1]
        if event.rollout is not None:
            said.setdefault((event.rollout, event.device), []).append(one)
    for stranger in _strangers(connection, said, channels):
        del said[stranger]
    spoken_of: dict[str, Words] = {}
    for (rollout, device), words in said.items():
        goes_on = device not in out_of_order and all(event.phase in UNDER_WAY for _, event in words)
        spoken_of.setdefault(rollout, {})[device] = words[-1][1].phase if goes_on else None
    heard_at = to_db(now)
    execute_many(connection, _write, _COLUMNS, [_latest(said[key], heard_at) for key in sorted(said)])
    return spoken_of


def _strangers(connection: Connection, said: Collection[tuple[str, str]], channels: Channels) -> set[tuple[str, str]]:
    """Of these rollouts and devices those of which the one never meant the other."""
    announced_on: dict[str, str] = {}
    for some in chunks(sorted({rollout for rollout, _ in said})):
        found = connection.execute(select(rollouts.c.id, rollouts.c.channel).where(rollouts.c.id.in_(some)))
        announced_on |= {rollout: channel for rollout, channel in found}  # noqa: C416  # rows are no tuples for the type checker
    elsewhere = {
        (rollout, device)
        for rollout, device in said
        if rollout in announced_on and (follows := channels(device)) and announced_on[rollout] not in follows
    }
    word = rollout_devices.c
    for some in chunks(sorted({device for _, device in elsewhere})):
        # by the whole key: there is no index by device alone
        which = (word.rollout.in_(sorted({rollout for rollout, _ in elsewhere})), word.device.in_(some))
        known = connection.execute(select(word.rollout, word.device).where(*which)).all()
        elsewhere.difference_update((rollout, device) for rollout, device in known)
        told = connection.execute(select(desired.c.device, desired.c.payload).where(desired.c.device.in_(some)))
        moving = {device: apart_of(payload).channel for device, payload in told}
        elsewhere = {one for one in elsewhere if moving.get(one[1]) != announced_on[one[0]]}
    return elsewhere


def heard_before(connection: Connection, some: Collection[str], channel: str) -> list[tuple[int, UpdateEvent]]:
    """What devices that follow a channel from now on have said of what it announces, before they said that they do.

    Each with the life of its journal; nothing of a device whose word about that rollout counts already.
    """
    word = rollout_devices.c
    told = select(announcements.c.rollout).where(announcements.c.channel == channel)
    counts = exists().where(word.rollout == events.c.rollout, word.device == events.c.device)
    found: list[tuple[int, UpdateEvent]] = []
    for chunk in chunks(sorted(some)):
        said = select(events.c.life, events.c.payload).where(
            events.c.device.in_(chunk), events.c.rollout.in_(told), ~counts
        )
        found += [(life, msgspec.json.decode(payload, type=UpdateEvent)) for life, payload in connection.execute(said)]
    return found


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


def begin_anew(connection: Connection, devices: Collection[str], *also: ColumnElement[bool]) -> None:
    """Have devices whose operator had them go elsewhere count as not begun where they had succeeded.

    They are on their way back to what is announced, and have not left it by themselves: no wave is to stop for that.

    Args:
        connection: in a writing transaction.
        devices: their ids.
        also: of which rollouts that are announced, as conditions on `rollouts`.
    """
    word = rollout_devices.c
    told = select(announcements.c.rollout).join(rollouts, rollouts.c.id == announcements.c.rollout)
    those = told.where(announcements.c.payload.is_not(None), *also)
    take_back(connection, devices, word.phase == Phase.SUCCEEDED.value, word.rollout.in_(those))


def take_back(connection: Connection, devices: Collection[str], *which: ColumnElement[bool]) -> None:
    """Have what devices said last count as if it had not been said, and what an operator went on in spite of, too.

    Args:
        connection: in a writing transaction.
        devices: their ids.
        which: of their words, as conditions on `rollout_devices`.
    """
    for some in chunks(sorted(devices)):
        words = update(rollout_devices).where(rollout_devices.c.device.in_(some), *which)
        # the number of the word stays, so that only a newer one counts
        connection.execute(words.values(phase=None, error_code=None, heard_at=None, forgiven=False))


def _latest(said: list[tuple[int, UpdateEvent]], heard_at: int) -> tuple[Any, ...]:
    """What one device said last about one rollout, with the bytes that it said earlier of the same update."""
    if len(said) > 1:
        said.sort(key=lambda one: (one[0], one[1].seq))
    life, event = said[-1]
    counts = _bytes(event)
    for _, before in reversed(said[:-1]):
        if before.update != event.update or None not in counts:
            break
        earlier = _bytes(before)
        if earlier is _NO_BYTES:
            continue
        counts = tuple(old if new is None else new for new, old in zip(counts, earlier, strict=True))  # type: ignore[assignment]
    return (
        event.rollout,
        event.device,
        life,
        event.seq,
        event.update,
        int_of(event.attempt),
        text_of(event.from_version) if event.from_version else None,
        str(event.phase),
        time_of(event.at),
        event.error.code if event.error else None,
        heard_at,
        *counts,
    )


def _bytes(event: UpdateEvent) -> _Bytes:
    progress = event.progress
    if progress is None and event.detail is None:
        return _NO_BYTES
    done = bigint_of(progress.bytes_done) if progress else None
    return done, bigint_of(progress.bytes_total) if progress else None, wire_bytes(event)


def _write(dialect: str) -> Insert:
    kept = rollout_devices.c
    statement = insert_of(dialect, rollout_devices, _COLUMNS)
    new = statement.excluded
    # The bytes of an update are said while it fetches, and are worth knowing to its end.
    same = new.update_id == kept.update_id
    counts = {name: case((same, func.coalesce(new[name], kept[name])), else_=new[name]) for name in _BYTES}
    return statement.on_conflict_do_update(
        index_elements=[kept.rollout, kept.device],
        set_={name: new[name] for name in _WORD} | counts,
        where=or_(new.life > kept.life, and_(new.life == kept.life, new.seq > kept.seq)),
    )
