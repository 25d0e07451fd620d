"""Changes as server-sent events, for `flotilla watch` and pages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from controller.fleet.feed import (
    ChangeFeed,
    ConnectionChanged,
    DeviceForgotten,
    EventTaken,
    Item,
    PresenceChanged,
    ReportTaken,
    RolloutChanged,
)
from controller.fleet.patience import reason
from controller.fleet.views import TakenEvent
from schemas.errors import FlotillaError

log = logging.getLogger("flotilla.http")

HEARTBEAT_S: Final = 15.0


async def server_sent_events(
    feed: ChangeFeed, events_since: Callable[[int], list[TakenEvent]], stop: asyncio.Event, *, after: int | None = None
) -> AsyncIterator[bytes]:
    """Every change from now on, until the watcher goes or does not keep up, or the controller stops.

    A comment goes out at once, so that the watcher knows that it is connected, and then at least every
    15 s, so that a dead connection is noticed on both sides.

    Args:
        feed: where changes come from.
        events_since: a page of the events taken in after the one with this id, in order; blocks.
        stop: ends the stream.
        after: send the events taken in after the one with this id first; each is sent once.
    """
    with feed.watch() as watcher:
        yield b": watching\n\n"
        # not `after`: a database that was put back from a backup gives out ids that a watcher may have seen before
        sent = -1
        while after is not None and not stop.is_set():
            try:
                missed = await to_thread.run_sync(events_since, max(after, sent))
            except (FlotillaError, SQLAlchemyError) as error:
                # the answer has begun, so nothing can be said in it; whoever connects again hears what it is
                log.warning("a live view ends: %s", reason(error))
                return
            if not missed:
                break
            for taken in missed:
                yield as_server_sent(EventTaken(taken.id, taken.event))
            sent = missed[-1].id
        changes = aiter(watcher)
        async for item in _until(stop, lambda: anext(changes)):
            if item is None:
                yield b": still here\n\n"
            elif not (isinstance(item, EventTaken) and item.id <= sent):
                yield as_server_sent(item)


async def _until(stop: asyncio.Event, following: Callable[[], Any]) -> AsyncIterator[Item | None]:
    """What comes until `stop` is set or nothing can come any more; None whenever nothing came for a while."""
    stopping = asyncio.ensure_future(stop.wait())
    upcoming: asyncio.Future[Item] | None = None
    try:
        while not stop.is_set():
            upcoming = upcoming or asyncio.ensure_future(following())
            waiting = {upcoming, stopping}
            done, _ = await asyncio.wait(waiting, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if upcoming in done:
                try:
                    item = upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming = None
                yield item
            elif not done:
                yield None
    finally:
        left = [task for task in (upcoming, stopping) if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def as_server_sent(item: Item) -> bytes:
    """One change as `event:`, `data:` and, for events of devices, the `id:` to go on after."""
    number: int | None = None
    data: object
    match item:
        case EventTaken(id=number, event=data):
            kind = "update"
        case PresenceChanged(presence=data):
            kind = "presence"
        case ReportTaken(reported=data):
            kind = "reported"
        case DeviceForgotten(device=device):
            kind, data = "forgotten", {"device": device}
        case RolloutChanged(rollout=data):
            kind = "rollout"
        case ConnectionChanged(away=away):
            kind, data = "connection", {"connected": away is None, "error": away}
        case _:
            kind, data = "too-slow", {}
    head = f"id: {number}\n".encode() if number is not None else b""
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), msgspec.json.encode(data))
