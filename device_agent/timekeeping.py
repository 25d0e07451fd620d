"""Time on boards without a clock battery: never earlier than what this device has already seen.

After a power cut such a board wakes up in the past until the network tells it the time. Metadata would then
seem to be from the future and windows would open at the wrong hour, so the last time seen is kept as
the modification time of `{root}/clock` (systemd-timesyncd does the same with a file of its own).
"""

import asyncio
import os
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

CLOCK_FILE: Final = "clock"
KEEP_EVERY_S: Final = 600.0
EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""No agent ever ran before; a clock that says so is wrong."""
_LOCALTIME: Final = Path("/etc/localtime")


class KeptClock:
    """A `Clock` that does not go behind the last time seen."""

    def __init__(self, root: Path) -> None:
        self._file = root / CLOCK_FILE
        self._floor = max(EARLIEST, _seen(self._file))

    def now(self) -> datetime:
        """The later of the machine's time and the last time seen, UTC."""
        return max(datetime.now(UTC), self._floor)

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)

    @property
    def behind_s(self) -> float:
        """Seconds by which the machine's clock is behind what was seen; 0 while it is not."""
        return max(0.0, (self._floor - datetime.now(UTC)).total_seconds())

    def keep(self) -> None:
        """Note the time. A disk that is full or read-only is no reason to stop: the time of last year will do."""
        stamp = self.now().timestamp()
        try:
            self._file.touch(mode=0o644)
            os.utime(self._file, (stamp, stamp))
        except OSError:
            return


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
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return EARLIEST
