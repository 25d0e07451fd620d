"""Counts what comes over a link that costs money, and says no before it is too much."""

import threading
from collections.abc import Callable
from typing import Final

from device_agent.fetcher import HttpFetcher, Sink
from schemas.errors import DeviceError, NetworkError

UNLIMITED: Final = 1 << 62


class Meter:
    """What may still be fetched; used by any number of threads.

    Args:
        limit: bytes; None: as many as it takes.
        on_wire: told of all that comes.
    """

    def __init__(self, limit: int | None, on_wire: Callable[[int], None] | None = None) -> None:
        self._limit = limit
        self._on_wire = on_wire
        self._lock = threading.Lock()
        self.spent = 0

    @property
    def left(self) -> int:
        """Bytes that may still come."""
        return UNLIMITED if self._limit is None else max(0, self._limit - self.spent)

    def spend(self, count: int) -> None:
        """Count bytes that have come.

        Raises:
            DeviceError: `fetch.limit`: they are more than may come.
        """
        with self._lock:
            self.spent += count
            over = self._limit is not None and self.spent > self._limit
        if self._on_wire is not None:
            self._on_wire(count)
        if over:
            raise self.refusal("the server sent more")

    def check(self, count: int, what: str) -> None:
        """Raise `DeviceError` (`fetch.metered`) where `count` bytes of `what`, signed for, would be too many."""
        if count > self.left:
            raise DeviceError("fetch.metered", self._text(f"{what} has {count}"))

    def refusal(self, why: str) -> DeviceError:
        """What to raise."""
        return DeviceError("fetch.limit", self._text(why))

    def _text(self, why: str) -> str:
        return (
            f"policy.max_bytes leaves {self._limit} bytes for this, {self.spent} have come, and {why}; "
            "`flotilla ask DEVICE retry --package NAME --any-size` lets it through once"
        )


def get_metered(http: HttpFetcher, base: str, path: str, sink: Sink, *, limit: int, meter: Meter) -> None:
    """As `HttpFetcher.get_from`, within what the meter leaves; what would be too much is not even begun.

    Raises:
        DeviceError: `fetch.limit`: the meter's refusal. It is final, whatever other repositories would say.
    """
    bound = min(limit, sink.offset + meter.left)
    try:
        http.get_from(base, path, MeteredSink(sink, meter), limit=bound)
    except NetworkError as error:
        if error.code == "fetch.limit" and bound < limit:
            raise meter.refusal(f"{path} has more") from error
        raise


class MeteredSink:
    """Passes a file on and counts it."""

    def __init__(self, sink: Sink, meter: Meter) -> None:
        self._sink = sink
        self._meter = meter

    @property
    def offset(self) -> int:
        """See `Sink`."""
        return self._sink.offset

    @offset.setter
    def offset(self, value: int) -> None:
        self._sink.offset = value

    def take(self, packed: bytes) -> None:
        """See `Sink`. Raises `DeviceError` (`fetch.limit`) too."""
        self._meter.spend(len(packed))
        self._sink.take(packed)

    def restart(self) -> None:
        """See `Sink`."""
        self._sink.restart()

    def finish(self) -> None:
        """See `Sink`."""
        self._sink.finish()
