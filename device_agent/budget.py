"""What an update may still fetch where the owner pays for bytes: counted over all of its attempts."""

import threading

from device_agent.updates import Update
from schemas.errors import DeviceError


class Spending:
    """Bytes that an attempt takes, added to from any thread, on top of what earlier ones took.

    Args:
        update: as last journaled.
        max_bytes: the owner's `policy.max_bytes`.
        free: whether the way costs nothing, e.g. an exported file.
    """

    def __init__(self, update: Update, max_bytes: int | None, *, free: bool) -> None:
        self._update = update
        self._limit = None if free or update.request.any_size else max_bytes
        self._before = update.fetched_bytes
        self._mutex = threading.Lock()
        self.plain = 0
        self.wire = 0

    @property
    def is_limited(self) -> bool:
        """Whether bytes count at all."""
        return self._limit is not None

    @property
    def total(self) -> int:
        """Bytes of all attempts."""
        return self._before + self.wire

    @property
    def left(self) -> int | None:
        """Bytes that may still come; None: as many as it takes."""
        return None if self._limit is None else max(0, self._limit - self.total)

    def add(self, plain: int, wire: int) -> None:
        """See `OnBytes`."""
        with self._mutex:
            self.plain += plain
            self.wire += wire

    def settle(self, wire: int) -> None:
        """Say what finding out about the release has taken, for sources that do not tell as it comes."""
        with self._mutex:
            self.wire = max(self.wire, wire)

    def check(self, cost: int) -> None:
        """Raise `DeviceError` (`fetch.metered`) where what is still to come would be too much."""
        if self._limit is None or self.total + cost <= self._limit:
            return
        package, version = self._update.package, self._update.version
        raise DeviceError(
            "fetch.metered",
            f"{package} {version} would take {self.total + cost} bytes, policy.max_bytes allows {self._limit}; "
            f"`flotilla ask DEVICE retry --package {package} --any-size` lets it through once",
        )
