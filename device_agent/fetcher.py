"""Gets files over HTTP from the first of several repositories that has them: bounded, patient, resumable.

Only what is verified afterwards is fetched here, so a server can waste time and bytes up to the limits, and no more.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from device_agent.version import VERSION
from schemas.errors import DeviceError, FlotillaError, NetworkError, PublisherError, TrustError, one_line

_CHUNK: Final = 256 * 1024
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MISSING: Final = frozenset({404, 410})
_PASSING: Final = frozenset({408, 425, 429})
_WORTH_GOING_ON: Final = 64 * 1024
"""A round that brought so many bytes does not count as a failed attempt."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what; seconds unless said otherwise.

    Attributes:
        connect_s: for a connection.
        read_s: for the next bytes of an answer.
        slow_window_s: in each of these times at least `slow_bytes` must come.
        attempts: rounds over all repositories in which nothing came.
        first_delay_s: bound of the random pause after the first; it doubles up to `max_delay_s`.
    """

    connect_s: float = 10.0
    read_s: float = 20.0
    slow_window_s: float = 30.0
    slow_bytes: int = 4096
    attempts: int = 5
    first_delay_s: float = 0.5
    max_delay_s: float = 15.0


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


class StoppedError(Exception):
    """`HttpFetcher.stop` was called."""


class _FinalRefusalError(NetworkError):
    """An answer that asking again will not change."""


class HttpFetcher:
    """Any number of threads may use it. Connections are kept alive; proxies of the environment are not used.

    Args:
        bases: URLs of repositories in the order in which to try them.
        connections: how many each host is asked to keep open.
        uniform: gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        bases: Sequence[str],
        *,
        patience: Patience | None = None,
        connections: int = 4,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._bases = list(dict.fromkeys(base.rstrip("/") for base in bases if _is_address(base)))
        self._patience = patience or Patience()
        self._connections = connections
        self._uniform = uniform
        self._closed = False
        self._stopped = threading.Event()
        self._pool = urllib3.PoolManager(
            num_pools=max(4, len(self._bases)),
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
        return HttpFetcher(self._bases, patience=self._patience, connections=self._connections, uniform=self._uniform)

    def get(self, path: str, sink: Sink, *, limit: int) -> None:
        """Fetch `path` below whichever repository has it.

        Args:
            path: below the base URL; characters that need it are escaped here.
            limit: most bytes that the file may have.

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: as the sink does.
        """
        self.try_each(lambda base: self.get_from(base, path, sink, limit=limit), progress=lambda: sink.offset)

    def try_each(self, action: Callable[[str], T], *, progress: Callable[[], int] = lambda: 0) -> T:
        """Do something with the first repository with which it works; again after a pause where that may help.

        Args:
            action: gets a base URL.
            progress: bytes that have come so far; while it grows the attempts begin anew.

        Raises:
            FlotillaError: of the repository whose failure says most.
        """
        if not self._bases:
            raise NetworkError("fetch.unreachable", "there is no repository address; set repositories in agent.toml")
        failed = 0
        while True:
            before = progress()
            failures: list[FlotillaError] = []
            for base in list(self._bases):
                try:
                    result = action(base)
                except (NetworkError, TrustError, PublisherError) as error:
                    failures.append(error)
                except DeviceError as error:
                    if not error.code.startswith("verify."):
                        raise
                    failures.append(error)
                else:
                    self._prefer(base)
                    return result
            failed = 1 if progress() - before >= _WORTH_GOING_ON else failed + 1
            if failed >= self._patience.attempts or not any(map(_may_pass, failures)):
                raise min(failures, key=_weight)
            self._pause(min(self._patience.max_delay_s, self._patience.first_delay_s * 2.0 ** (failed - 1)))

    def get_from(self, base: str, path: str, sink: Sink, *, limit: int) -> None:
        """One try with one repository, going on where `sink` is. Raises as `get` does."""
        url = f"{base}/{quote(path, safe='/@')}"
        while True:
            resumed = sink.offset > 0
            try:
                self._receive(url, sink, limit)
                sink.finish()
            except DeviceError as error:
                if not error.code.startswith("verify."):
                    raise
                sink.restart()
                if not resumed:
                    raise
                # Perhaps only the part from before was bad; once more, from the start.
            else:
                return

    def _receive(self, url: str, sink: Sink, limit: int) -> None:
        try:
            with closing(self._ask(url, sink.offset)) as response:
                self._check_answer(url, response, sink)
                length = response.headers.get("Content-Length", "")
                if length.isdecimal() and sink.offset + int(length) > limit:
                    raise NetworkError("fetch.limit", f"{url}: {length} bytes are over the limit of {limit}")
                self._take_body(url, response, sink, limit)
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._check_stopped()
            raise _translated(error, url) from error

    def _ask(self, url: str, offset: int) -> urllib3.BaseHTTPResponse:
        headers = {**self._pool.headers, "Cache-Control": "no-cache"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        asked = url
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_stopped()
            response = self._pool.request(
                "GET", asked, headers=headers, preload_content=False, decode_content=False, redirect=False
            )
            self._check_stopped()
            if response.status not in _REDIRECTS:
                return response
            target = urljoin(asked, response.headers.get("Location", ""))
            response.close()
            if _origin(target) != _origin(url):
                raise _FinalRefusalError("fetch.refused", f"{url}: leads to another host, {one_line(target, 120)}")
            asked = target
        raise _FinalRefusalError("fetch.refused", f"{url}: leads from place to place without end")

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
        kind = NetworkError if status >= 500 or status in _PASSING else _FinalRefusalError
        raise kind("fetch.refused", f"{url}: the repository answered with HTTP {status}")

    def _take_body(self, url: str, response: urllib3.BaseHTTPResponse, sink: Sink, limit: int) -> None:
        window_end, in_window = time.monotonic() + self._patience.slow_window_s, 0
        while chunk := response.read1(_CHUNK):
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

    def _prefer(self, base: str) -> None:
        """What worked is asked first from now on, so that a repository that is down costs its timeout once."""
        if self._bases[0] != base:
            self._bases = [base, *(other for other in self._bases if other != base)]

    def _pause(self, at_most_s: float) -> None:
        """Full jitter: many devices that failed together do not come back together."""
        self._stopped.wait(self._uniform() * at_most_s)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError


def _may_pass(error: FlotillaError) -> bool:
    return (
        isinstance(error, NetworkError)
        and not isinstance(error, _FinalRefusalError)
        and error.code not in ("fetch.not_found", "fetch.limit")
    )


def _weight(error: FlotillaError) -> int:
    """Lowest for the failure that says most: a lie before an outage, an outage before a gap."""
    kinds: tuple[type[FlotillaError], ...] = (TrustError, PublisherError, DeviceError)
    for weight, kind in enumerate(kinds):
        if isinstance(error, kind):
            return weight
    return 5 if error.code == "fetch.not_found" else 3 if _may_pass(error) else 4


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _translated(error: Exception, url: str) -> NetworkError:
    code, reason = "fetch.unreachable", one_line(error, 160)
    match error:
        case urllib3.exceptions.NameResolutionError():
            reason = "the host's name cannot be resolved"
        case urllib3.exceptions.NewConnectionError():  # counted among the timeouts by urllib3
            reason = "no connection"
        case urllib3.exceptions.TimeoutError():
            code, reason = "fetch.timeout", "no answer in time"
        case urllib3.exceptions.SSLError():
            reason = f"no secure connection: {reason}"
        case urllib3.exceptions.ProtocolError():
            reason = "the connection broke off"
    return NetworkError(code, f"{url}: {reason}")
