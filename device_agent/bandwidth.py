"""A limit on how fast content is fetched, shared by all threads that fetch."""

import threading
import time
from collections.abc import Callable
from typing import Final

BURST_S: Final = 0.25
"""After a pause so many seconds' worth may come at once."""


class Bandwidth:
    """A token bucket that lets debts be made: what has come is paid for by waiting afterwards.

    Args:
        bytes_per_s: over all threads together.
        now: a clock that only goes forward, seconds.
    """

    def __init__(self, bytes_per_s: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._now = now
        self._lock = threading.Lock()
        self._paid_until = now() - BURST_S

    def piece(self, most: int) -> int:
        """How many bytes to read at once, so that a slow line is used evenly."""
        return max(1, min(most, int(self._rate * BURST_S)))

    def spend(self, count: int) -> float:
        """So many bytes have come; gives the seconds to wait before more are read."""
        with self._lock:
            now = self._now()
            self._paid_until = max(self._paid_until, now - BURST_S) + count / self._rate
            return max(0.0, self._paid_until - now)
