"""Work that a signal must not cut in two, such as starting a process and noting that it runs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What this program would do about a signal is done at the end of the block; to be short.

    A `KeyboardInterrupt` out of the middle of `subprocess.Popen` would leave a process of which nobody knows. A signal
    that has the system end this program at once does so here too, and threads but the main one get none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handled: dict[signal.Signals, signal.Handlers | Callable[..., object]] = {}
    try:
        # one that comes in the middle of this is heeded at once, and the others are put back
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                handled[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
