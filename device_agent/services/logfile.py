"""A service's output on the disk, bounded in size."""

import contextlib
import os
from pathlib import Path
from typing import Final

MAX_LOG_BYTES: Final = 1024 * 1024
"""Of the file and of the one before it each, so a service takes twice this at most."""


class LogFile:
    """Appends to a file and starts a new one when it is full; the one before is kept as `….1`.

    A disk that refuses must not stop a service, so errors end the writing until `reopen`, and no more.
    """

    def __init__(self, path: Path, limit: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._descriptor: int | None = None
        self._size = 0

    def reopen(self) -> None:
        """Begin, or begin again after an error."""
        self.close()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._open()

    def write(self, data: bytes) -> None:
        """Append."""
        if self._descriptor is None:
            return
        try:
            if self._size and self._size + len(data) > self._limit:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            data = data[-self._limit :]
            os.write(self._descriptor, data)
            self._size += len(data)
        except OSError:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._descriptor).st_size
