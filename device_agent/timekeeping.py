"""Time on boards without a clock battery: never earlier than what was proven on this device.

After a power cut such a board wakes up in the past until the network tells it the time. The time to go by
is that of the last valid signature (see `trust.py`, which notes it): unlike a clock, that was never wrong
about the past, and never far in the future.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from schemas.layout import METADATA

LAST_SEEN: Final = "last-seen"
"""In the metadata folder. The same as `trust.LAST_SEEN` (a test compares them): importing that would cost the memory
of a TUF client."""
EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""No agent ever ran before; a clock that says so is wrong."""
LOOK_EVERY_S: Final = 10.0
_LOCALTIME: Final = Path("/etc/localtime")


class KeptClock:
    """A `Clock` that does not go behind the last time that was proven, before this process or while it runs.

    From there it goes on, by whole seconds, also where nobody ever tells the machine the time: what is to be done
    later would else never be due.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / METADATA / LAST_SEEN
        self._proven = max(EARLIEST, _seen(self._file))
        self._proven_at = self._looked_at = time.monotonic()

    def now(self) -> datetime:
        """The later of the machine's time and the last time that was proven with what has passed since, UTC."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            # the process that fetches notes it; a few bytes, and asked for now and then
            self._looked_at = time.monotonic()
            seen = _seen(self._file)
            if seen > self._floor:
                self._proven, self._proven_at = seen, self._looked_at
        return max(datetime.now(UTC), self._floor)

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)

    @property
    def behind_s(self) -> float:
        """Seconds by which the machine's clock is behind what was proven; 0 while it is not."""
        return max(0.0, (self._floor - datetime.now(UTC)).total_seconds())

    @property
    def _floor(self) -> datetime:
        return self._proven + timedelta(seconds=int(time.monotonic() - self._proven_at))


def local_zone(environment_zone: str | None = None, file: Path = _LOCALTIME) -> tzinfo:
    """The device's own time zone; UTC where none is set.

    Args:
        environment_zone: the variable TZ.
        file: what the system's zone is.
    """
    try:
        if environment_zone:
            return ZoneInfo(environment_zone.removeprefix(":"))
        with file.open("rb") as stream:
            return ZoneInfo.from_file(stream, key="localtime")
    except (OSError, ValueError, KeyError):
        return UTC


def _seen(file: Path) -> datetime:
    try:
        seen = datetime.fromisoformat(file.read_text())
    except (OSError, ValueError):
        return EARLIEST
    return seen if seen.tzinfo is not None else EARLIEST
