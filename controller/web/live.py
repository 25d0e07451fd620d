"""Pages that stay up to date: parts of them as server-sent events, at most once a second, and only what changed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from litestar.response import Stream

from controller.web.rendering import HEADERS
from schemas.errors import FlotillaError

log = logging.getLogger("flotilla.web")

PAUSE_S: Final = 1.0
HEARTBEAT_S: Final = 15.0

Parts = Callable[[], Awaitable[tuple[int, dict[str, str]]]]
"""The parts of a page by name as they are now, and the generation that they were read in."""


def live(parts: Parts, generation: Callable[[], int], stop: asyncio.Event) -> Stream:
    """An answer that goes on until the reader goes or the controller stops."""
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    return Stream(changes(parts, generation, stop), media_type="text/event-stream", headers=headers)


async def changes(
    parts: Parts,
    generation: Callable[[], int],
    stop: asyncio.Event,
    *,
    pause_s: float = PAUSE_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncIterator[bytes]:
    """All parts at once, then those that changed.

    Args:
        parts: asked at most every `pause_s` seconds, and only where something was heard of or for a while was not.
        generation: grows whenever something is heard of.
        stop: ends the stream.
        pause_s: updates that come within it are sent as one.
        heartbeat_s: the longest silence.
    """
    clock = asyncio.get_running_loop().time
    shown: dict[str, str] = {}
    looked_at, seen = -heartbeat_s, -1
    yield b": watching\n\n"
    while not stop.is_set():
        if generation() != seen or clock() - looked_at >= heartbeat_s:
            looked_at = clock()
            # what others have asked for a moment ago may be a little older; then the next round looks again
            try:
                seen, found = await parts()
            except FlotillaError as error:
                # the answer has begun, so nothing can be said in it; the page connects again and then hears what it is
                log.warning("a live page ends: %s", error)
                return
            for name, text in found.items():
                if shown.get(name) != text:
                    yield framed(name, text)
            shown = found
            yield b": still here\n\n"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)


def framed(name: str, text: str) -> bytes:
    """One event. Text of several lines is one field a line; a lone carriage return would end one too."""
    lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n".encode()
