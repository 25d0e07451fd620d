"""What deflating again may cost in time: a bundle must not keep a device busy without end."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

from schemas.varints import FormatError

FREE_S: Final = 30.0
BYTES_PER_S: Final = 128 * 1024
"""The slowest that is borne with, in plain bytes. Usual settings go thirty times as fast on a Pi Zero; there are inputs
for which zlib's highest levels take a hundred times as long as for others."""


class Effort:
    """Counts the time of all threads that deflate.

    Args:
        plain: bytes that are deflated in all, which the index has bounded by the signed manifest.
    """

    def __init__(self, plain: int) -> None:
        self._left = FREE_S + plain / BYTES_PER_S
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def spent(self) -> Iterator[None]:
        """Count what is done inside. Raises `FormatError` after it where that was too much."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._left -= time.monotonic() - began
        if self._left < 0:
            raise FormatError("deflating it again takes too long")
