"""The one way in which the agent runs what blocks (disk, database) beside its event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a worker thread and give what it gives.

    A thread cannot be stopped. When the caller is cancelled this waits until the function has ended, so
    that nobody cleans up under a thread that still writes.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # whatever it gives or raises, the cancellation is what counts
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
