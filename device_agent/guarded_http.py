"""Connections on which a server can neither talk for ever nor hold up whoever wants to stop.

urllib3's limits are for one `recv` each: a server that sends a byte of its headers (or of a chunk's length, of
trailers) every few seconds passes them all. Here the head of an answer has a limit of bytes
and of time as a whole, each further read has both too, and waiting ends soon after `stop`.
"""

import http.client
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from device_agent.fetch_errors import StoppedError
from schemas.errors import NetworkError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of an answer's status line and headers, and of every `100 Continue` before it."""
FRAMING_BYTES: Final = 2 * 64 * 1024
"""What a chunk's length line and trailers may take beside a piece of the body."""

_LOOK_EVERY_S: Final = 0.2

_current = threading.local()

# it logs, with a traceback, whatever a server sends that is odd; what matters of it is raised
logging.getLogger("urllib3").setLevel(logging.CRITICAL)


class Guard:
    """Limits on what comes in answer to one request; used by the thread that made it.

    Args:
        url: for messages.
        stopped: ends waiting with `StoppedError`.
        idle_s: longest time in which nothing comes.
    """

    def __init__(
        self, url: str, stopped: threading.Event, *, idle_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._stopped = stopped
        self._idle_s = idle_s
        self._now = now
        self._left = 0
        self._until = 0.0

    def allow(self, count: int, seconds: float) -> None:
        """From now on so many bytes may come within so many seconds."""
        self._left = count
        self._until = self._now() + seconds

    @contextmanager
    def on_watch(self) -> Iterator[None]:
        """Answers to requests that this thread makes meanwhile come through this guard."""
        _current.guard = self
        try:
            yield
        finally:
            _current.guard = None

    def receive_into(self, sock: socket.socket, buffer: memoryview) -> int:
        """As `socket.recv_into`.

        Raises:
            TimeoutError: too slow.
            NetworkError: `fetch.limit`: too much.
            StoppedError: nobody wants it any more.
        """
        if self._left <= 0:
            raise NetworkError("fetch.limit", f"{self._url}: headers or framing of the answer do not end")
        until = min(self._until, self._now() + self._idle_s)
        while True:
            if self._stopped.is_set():
                raise StoppedError
            rest = until - self._now()
            if rest <= 0:
                raise TimeoutError("no answer in time")
            sock.settimeout(min(rest, _LOOK_EVERY_S))
            try:
                count = sock.recv_into(buffer[: self._left])
            except TimeoutError:
                continue
            self._left -= count
            return count


class _GuardedReader(io.RawIOBase):
    """What a response reads from."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, guard: Guard) -> None:
        self._raw = raw
        self._sock = sock
        self._guard = guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._guard.receive_into(self._sock, memoryview(buffer).cast("B"))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _GuardedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        guard = getattr(_current, "guard", None)
        if guard is not None:
            self.fp = io.BufferedReader(_GuardedReader(self.fp.detach(), sock, guard))


class _GuardedConnection(HTTPConnection):
    response_class = _GuardedResponse


class _GuardedSecureConnection(HTTPSConnection):
    # its handshake has one deadline as a whole already, from Python
    response_class = _GuardedResponse


class _GuardedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _GuardedConnection


class _GuardedSecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedSecureConnection


def guarded_pools(**options: Any) -> urllib3.PoolManager:
    """A `urllib3.PoolManager` whose answers come through the `Guard` that is on watch."""
    pools = urllib3.PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _GuardedPool, "https": _GuardedSecurePool}
    return pools
