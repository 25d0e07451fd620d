"""Changes as server-sent events, for `flotilla watch` and pages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from controller.fleet.feed import ChangeFeed, EventTaken, Item, PresenceChanged, ReportTaken, RolloutChanged

HEARTBEAT_S: Final = 15.0


async def server_sent_events(feed: ChangeFeed) -> AsyncIterator[bytes]:
    """Every change from now on, until the watcher goes or does not keep up.

    A comment goes out at once, so that the watcher knows that it is connected, and then at least every
    15 s, so that a dead connection is noticed on both sides.
    """
    with feed.watch() as watcher:
        yield b": watching\n\n"
        changes = aiter(watcher)
        upcoming: asyncio.Task[Item] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(changes))
                done, _ = await asyncio.wait([upcoming], timeout=HEARTBEAT_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                try:
                    item = upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming = None
                yield as_server_sent(item)
        finally:
            if upcoming is not None:
                upcoming.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                    await upcoming


def as_server_sent(item: Item) -> bytes:
    """One change as `event:`, `data:` and, for events of devices, the `id:` to go on after."""
    match item:
        case EventTaken(id=number, event=event):
            return _framed("update", event, number)
        case PresenceChanged(presence=presence):
            return _framed("presence", presence)
        case ReportTaken(reported=reported):
            return _framed("reported", reported)
        case RolloutChanged(rollout=rollout):
            return _framed("rollout", rollout)
        case _:
            return _framed("too-slow", {})


def _framed(kind: str, data: object, number: int | None = None) -> bytes:
    head = f"id: {number}\n".encode() if number is not None else b""
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), msgspec.json.encode(data))
