"""Work in a thread that ends early when its caller is cancelled.

A thread cannot be stopped from outside; what takes long there asks `check_interrupted` between its pieces (a file, a
part of one), so that nobody has to wait for the whole, and nobody clears up under a thread that still writes.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.05


class InterruptedWorkError(Exception):
    """Nobody wants the result any more. Seen by the thread alone: its caller was cancelled."""


class _Work:
    def __init__(self) -> None:
        self.unwanted = threading.Event()
        self.harmless = threading.Event()


_current: ContextVar[_Work | None] = ContextVar("work", default=None)


def check_interrupted() -> None:
    """Raise `InterruptedWorkError` where this thread's work is not wanted any more."""
    work = _current.get()
    if work is not None and work.unwanted.is_set():
        raise InterruptedWorkError


@contextmanager
def harmless() -> Iterator[None]:
    """Inside, the thread changes nothing (it flushes, for example), so a cancelled caller need not wait for it.

    Leaving it asks `check_interrupted`.
    """
    work = _current.get()
    if work is None:
        yield
        return
    work.harmless.set()
    try:
        yield
    finally:
        work.harmless.clear()
        check_interrupted()


async def in_interruptible_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `threads.in_thread`, for work that asks `check_interrupted`."""
    work = _Work()
    context = contextvars.copy_context()
    context.run(_current.set, work)
    loop = asyncio.get_running_loop()
    running = loop.run_in_executor(None, partial(context.run, function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        work.unwanted.set()
        running.add_done_callback(_look_at)
        while not running.done() and not work.harmless.is_set():
            await asyncio.wait([running], timeout=_LOOK_EVERY_S)
        raise


def _look_at(future: "asyncio.Future[T]") -> None:
    """So that asyncio does not complain of an exception that nobody took."""
    if not future.cancelled():
        future.exception()
