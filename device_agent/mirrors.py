"""Several repositories that are to have the same: which is asked next, when again, and when to give up."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from device_agent.fetch_errors import BusyError, StoppedError, may_pass, weight
from schemas.errors import DeviceError, FlotillaError, NetworkError, PublisherError, TrustError

_WORTH_GOING_ON: Final = 64 * 1024
"""A round that brought so many bytes does not count as a failed attempt."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what; seconds unless said otherwise.

    Attributes:
        connect_s: for a connection, and for the TLS handshake on it.
        answer_s: for the head of an answer as a whole.
        read_s: for the next bytes of an answer.
        slow_window_s: in each of these times at least `slow_bytes` must come.
        attempts: rounds over all repositories in which nothing came.
        first_delay_s: bound of the random pause after the first; it doubles up to `max_delay_s`.
        max_retry_after_s: a `Retry-After` is heeded up to this.
    """

    connect_s: float = 10.0
    answer_s: float = 30.0
    read_s: float = 20.0
    slow_window_s: float = 30.0
    slow_bytes: int = 4096
    attempts: int = 5
    first_delay_s: float = 0.5
    max_delay_s: float = 15.0
    max_retry_after_s: float = 120.0


class Mirrors:
    """Base URLs in the order in which to try them. Any number of threads may use it.

    Args:
        uniform: gives random numbers from 0 to 1.
        now: a clock that only goes forward, seconds.
    """

    def __init__(
        self,
        bases: Sequence[str],
        patience: Patience,
        stopped: threading.Event,
        *,
        uniform: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bases = list(dict.fromkeys(base.rstrip("/") for base in bases if _is_address(base)))
        self._patience = patience
        self._stopped = stopped
        self._uniform = uniform
        self._now = now
        self._not_before: dict[str, float] = {}

    @property
    def bases(self) -> tuple[str, ...]:
        """The base URLs, the one that worked last first."""
        return tuple(self._bases)

    def try_each(self, action: Callable[[str], T], *, progress: Callable[[], int]) -> T:
        """Do something with the first repository with which it works; again after a pause where that may help.

        One whose answer asking again will not change (a 404, wrong content) is not asked again for this, one that
        says when to come again is not asked before.

        Args:
            action: gets a base URL.
            progress: bytes that have come so far; while more come than ever before the attempts begin anew.

        Raises:
            FlotillaError: of the repository whose failure says most.
            StoppedError: it was stopped.
        """
        if not self._bases:
            raise NetworkError("fetch.unreachable", "there is no repository address; set repositories in agent.toml")
        failures: dict[str, FlotillaError] = {}
        open_to = list(self._bases)
        failed, most = 0, progress()
        while True:
            self._await_one(open_to)
            for base in [base for base in open_to if self._wait_for(base) <= 0]:
                try:
                    result = action(base)
                except (NetworkError, TrustError, PublisherError, DeviceError) as error:
                    if isinstance(error, DeviceError) and not error.code.startswith("verify."):
                        raise
                    failures[base] = error
                    self._note(base, error)
                else:
                    self._prefer(base)
                    return result
            open_to = [base for base in open_to if base not in failures or may_pass(failures[base])]
            # counted from the most that ever came: one that sends the same again and again gets nowhere
            failed = 1 if progress() - most >= _WORTH_GOING_ON else failed + 1
            most = max(most, progress())
            if failed >= self._patience.attempts or not open_to:
                raise min(failures.values(), key=weight)
            self._pause(min(self._patience.max_delay_s, self._patience.first_delay_s * 2.0 ** (failed - 1)))

    def pause(self, seconds: float) -> None:
        """Wait, unless it is stopped. Raises `StoppedError`."""
        self._stopped.wait(seconds)
        if self._stopped.is_set():
            raise StoppedError

    def _pause(self, at_most_s: float) -> None:
        """Full jitter: many devices that failed together do not come back together."""
        self.pause(self._uniform() * at_most_s)

    def _note(self, base: str, error: FlotillaError) -> None:
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            self._not_before[base] = self._now() + min(error.retry_after_s, self._patience.max_retry_after_s)

    def _wait_for(self, base: str) -> float:
        return self._not_before.get(base, 0.0) - self._now()

    def _await_one(self, bases: Sequence[str]) -> None:
        """Wait until one of them may be asked."""
        while (seconds := min(map(self._wait_for, bases))) > 0:
            self.pause(seconds)

    def _prefer(self, base: str) -> None:
        """What worked is asked first from now on, so that a repository that is down costs its timeout once."""
        if self._bases[0] != base:
            self._bases = [base, *(other for other in self._bases if other != base)]


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False
