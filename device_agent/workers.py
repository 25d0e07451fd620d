"""Threads that an update needs for a while, awaited without letting a cancelled caller wait for them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

STOP_S: Final = 0.5
"""How long a cancelled caller waits for its threads to end. They must do no harm if they take longer."""


async def run_in_threads(functions: Sequence[Callable[[], T]], *, name: str, stop: Callable[[], None]) -> list[T]:
    """Run each function in a thread of its own and give what they give.

    Args:
        stop: makes them end soon; called when one fails or the caller is cancelled.

    Raises:
        Whatever the first that fails raises.
    """
    futures = [_in_thread(function, f"{name} {number}") for number, function in enumerate(functions, start=1)]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        first_failed = next((f for f in futures if f.done() and f.exception() is not None), None)
        if first_failed is not None:
            stop()
            await asyncio.wait(futures, timeout=STOP_S)
            first_failed.result()
        return [future.result() for future in futures]
    except asyncio.CancelledError:
        stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(futures, timeout=STOP_S)
        raise
    finally:
        for future in futures:
            future.cancel()
            if not future.cancelled():
                future.exception()  # looked at, so that asyncio does not complain of it


def _in_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may itself be None

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # raised again where the future is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    # A daemon, because a thread that waits for a silent server must not hold up the end of the agent.
    threading.Thread(target=work, name=name, daemon=True).start()
    return future
