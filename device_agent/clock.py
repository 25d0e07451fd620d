"""Time, passed in, so that tests decide how it goes."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for what people read and agree on, monotonic time for how long something took."""

    def now(self) -> datetime:
        """The time of day, UTC. It may jump: boards without a clock battery learn it late."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow while this process lives; no meaning beyond differences."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for this long."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """See `Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)
