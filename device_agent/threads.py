"""The one way in which the agent runs what blocks (disk, database) beside its event loop."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_nothing_blocks: ContextVar[bool] = ContextVar("nothing_blocks", default=False)


def nothing_blocks() -> None:
    """From here on, in this task and those that it starts, `in_thread` calls right away: all is kept in memory."""
    _nothing_blocks.set(True)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a worker thread and give what it gives.

    A thread cannot be stopped. When the caller is cancelled this waits until the function has ended, so
    that nobody cleans up under a thread that still writes.
    """
    if _nothing_blocks.get():
        return function(*args, **kwargs)
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # whatever it gives or raises, the cancellation is what counts
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
