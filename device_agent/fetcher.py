"""Gets files over HTTP from the first of several repositories that has them: bounded, patient, resumable.

Only what is verified afterwards is fetched here, so a server can waste time and bytes up to the limits, and no more.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from device_agent.bandwidth import Bandwidth
from device_agent.fetch_errors import BusyError, FinalRefusalError, StoppedError, retry_after_s, translated
from device_agent.guarded_http import FRAMING_BYTES, MAX_HEAD_BYTES, Guard, guarded_pools
from device_agent.mirrors import Mirrors, Patience
from device_agent.version import VERSION
from schemas.errors import DeviceError, NetworkError, one_line

__all__ = ["HttpFetcher", "MemorySink", "Patience", "Sink", "StoppedError"]

_CHUNK: Final = 256 * 1024
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MISSING: Final = frozenset({404, 410})
_PASSING: Final = frozenset({408, 425, 429})
_WORTH_DRAINING: Final = 16 * 1024
"""The body of a refusal up to this is read, so that the connection can be used again."""

T = TypeVar("T")


class Sink(Protocol):
    """Where a file goes. `offset` is how much of it is there already; `finish` may find that it is wrong."""

    offset: int

    def take(self, packed: bytes) -> None:
        """The next bytes."""
        ...

    def restart(self) -> None:
        """What has come is of no use."""
        ...

    def finish(self) -> None:
        """That was all. Raises `DeviceError` (`verify.*`) where it is not right."""
        ...


class MemorySink:
    """Keeps a small file in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.offset = 0

    def take(self, packed: bytes) -> None:
        """See `Sink`."""
        self.data += packed
        self.offset = len(self.data)

    def restart(self) -> None:
        """See `Sink`."""
        self.data.clear()
        self.offset = 0

    def finish(self) -> None:
        """See `Sink`; whoever asked for the file checks it."""


class HttpFetcher:
    """Any number of threads may use it. Connections are kept alive; proxies of the environment are not used.

    Args:
        bases: URLs of repositories in the order in which to try them.
        connections: how many each host is asked to keep open.
        bandwidth: what all fetching together may take; no limit where it is None.
        uniform: gives random numbers from 0 to 1.
        now: a clock that only goes forward, seconds.
    """

    def __init__(
        self,
        bases: Sequence[str],
        *,
        patience: Patience | None = None,
        connections: int = 4,
        bandwidth: Bandwidth | None = None,
        uniform: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience or Patience()
        self._connections = connections
        self._bandwidth = bandwidth
        self._uniform = uniform
        self._now = now
        self._closed = False
        self._stopped = threading.Event()
        self._mirrors = Mirrors(bases, self._patience, self._stopped, uniform=uniform, now=now)
        self._pool = guarded_pools(
            num_pools=max(4, len(self._mirrors.bases)),
            maxsize=connections,
            headers={"User-Agent": f"flotilla-agent/{VERSION}", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=self._patience.connect_s, read=self._patience.read_s),
            retries=False,
        )

    def stop(self) -> None:
        """Have every thread that uses this end with `StoppedError` at its next step."""
        self._stopped.set()

    def close(self) -> None:
        """Stop for good, and close connections that are not in use."""
        self._closed = True
        self.stop()
        self._pool.clear()

    def usable(self) -> "HttpFetcher":
        """This one, or one like it where this was stopped (but not closed)."""
        if self._closed or not self._stopped.is_set():
            return self
        return HttpFetcher(
            self._mirrors.bases,
            patience=self._patience,
            connections=self._connections,
            bandwidth=self._bandwidth,
            uniform=self._uniform,
            now=self._now,
        )

    def get(self, path: str, sink: Sink, *, limit: int) -> None:
        """Fetch `path` below whichever repository has it; what one has begun another may end.

        Args:
            path: below the base URL; characters that need it are escaped here.
            limit: most bytes that the file may have.

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: as the sink does.
        """
        self.try_each(lambda base: self.get_from(base, path, sink, limit=limit), progress=lambda: sink.offset)

    def try_each(self, action: Callable[[str], T], *, progress: Callable[[], int] = lambda: 0) -> T:
        """See `Mirrors.try_each`."""
        return self._mirrors.try_each(action, progress=progress)

    def get_from(self, base: str, path: str, sink: Sink, *, limit: int) -> None:
        """One try with one repository, going on where `sink` is. Raises as `get` does."""
        url = f"{base}/{quote(path, safe='/@')}"
        while True:
            resumed, knew_its_end = sink.offset > 0, True
            try:
                knew_its_end = self._receive(url, sink, limit)
                sink.finish()
            except DeviceError as error:
                if not error.code.startswith("verify."):
                    raise
                sink.restart()
                if resumed:
                    continue  # perhaps only the part from before was bad; once more, from the start
                if error.code == "verify.size" and not knew_its_end:
                    raise NetworkError("fetch.unreachable", f"{url}: the connection broke off") from error
                raise
            else:
                return

    def _receive(self, url: str, sink: Sink, limit: int) -> bool:
        """One answer into the sink; whether the server had said where it ends."""
        guard = Guard(url, self._stopped, idle_s=self._patience.read_s)
        try:
            with guard.on_watch(), closing(self._ask(url, sink.offset, guard)) as response:
                self._check_answer(url, response, sink)
                length = response.headers.get("Content-Length", "")
                knew_its_end = bool(length) or response.headers.get("Transfer-Encoding", "") != ""
                if length.isdecimal() and sink.offset + int(length) > limit:
                    raise NetworkError("fetch.limit", f"{url}: {length} bytes are over the limit of {limit}")
                self._take_body(url, response, guard, sink, limit)
                response.release_conn()
                return knew_its_end
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._check_stopped()
            raise translated(error, url) from error

    def _ask(self, url: str, offset: int, guard: Guard) -> urllib3.BaseHTTPResponse:
        headers = {**self._pool.headers, "Cache-Control": "no-cache"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        asked = url
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_stopped()
            guard.allow(MAX_HEAD_BYTES, self._patience.answer_s)
            response = self._pool.request(
                "GET", asked, headers=headers, preload_content=False, decode_content=False, redirect=False
            )
            self._check_stopped()
            if response.status not in _REDIRECTS:
                if response.status not in (200, 206):
                    self._drain(response, guard)
                return response
            target = urljoin(asked, response.headers.get("Location", ""))
            self._drain(response, guard)
            if not self._may_lead(asked, target):
                raise FinalRefusalError("fetch.refused", f"{url}: leads to another host, {one_line(target, 120)}")
            asked = target
        raise FinalRefusalError("fetch.refused", f"{url}: leads from place to place without end")

    def _may_lead(self, asked: str, target: str) -> bool:
        """To the same place, to the same host by TLS, or to another of the repositories; never from TLS to none."""
        here, there = _origin(asked), _origin(target)
        if here == there:
            return True
        if here[0] == "https" and there[0] != "https":
            return False
        return (here[1] == there[1] and there[0] == "https") or there in map(_origin, self._mirrors.bases)

    def _drain(self, response: urllib3.BaseHTTPResponse, guard: Guard) -> None:
        """Let a refusal's connection be used again where its body is short and its length known; else close it."""
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= _WORTH_DRAINING:
            guard.allow(_WORTH_DRAINING, self._patience.read_s)
            while response.read1(_WORTH_DRAINING):
                pass
            response.release_conn()
        else:
            response.close()

    def _check_answer(self, url: str, response: urllib3.BaseHTTPResponse, sink: Sink) -> None:
        status = response.status
        if status == 200:
            if sink.offset:
                sink.restart()
            return
        if status == 206 and sink.offset:
            if response.headers.get("Content-Range", "").startswith(f"bytes {sink.offset}-"):
                return
            sink.restart()
            raise NetworkError("fetch.refused", f"{url}: sent another part than was asked for")
        if status == 416 and sink.offset:
            sink.restart()
            raise NetworkError("fetch.refused", f"{url}: is shorter than what had come of it")
        if status in _MISSING:
            raise NetworkError("fetch.not_found", f"{url}: not found (HTTP {status})")
        text = f"{url}: the repository answered with HTTP {status}"
        if status >= 500 or status in _PASSING:
            raise BusyError(text, retry_after_s(response.headers))
        raise FinalRefusalError("fetch.refused", text)

    def _take_body(self, url: str, response: urllib3.BaseHTTPResponse, guard: Guard, sink: Sink, limit: int) -> None:
        piece = self._bandwidth.piece(_CHUNK) if self._bandwidth else _CHUNK
        window_end, in_window = time.monotonic() + self._patience.slow_window_s, 0
        while True:
            guard.allow(piece + FRAMING_BYTES, self._patience.slow_window_s)
            chunk = response.read1(piece)
            if not chunk:
                return
            self._check_stopped()
            if sink.offset + len(chunk) > limit:
                raise NetworkError("fetch.limit", f"{url}: sends more than the limit of {limit} bytes")
            sink.take(chunk)
            in_window += len(chunk)
            if time.monotonic() > window_end:
                if in_window < self._patience.slow_bytes:
                    raise NetworkError(
                        "fetch.timeout", f"{url}: fewer than {self._patience.slow_bytes} bytes came in time"
                    )
                window_end, in_window = time.monotonic() + self._patience.slow_window_s, 0
            # waiting by choice does not count as slowness of the server
            window_end += self._keep_to_bandwidth(len(chunk))

    def _keep_to_bandwidth(self, count: int) -> float:
        """Pay for what has come; gives the seconds that it cost."""
        seconds = self._bandwidth.spend(count) if self._bandwidth else 0.0
        if seconds > 0:
            self._mirrors.pause(seconds)
        return seconds

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
