"""What is too slow to find out at every scrape: how large the repository is, and when its signatures end."""

import asyncio
import contextlib
import logging
import math
import time
from datetime import datetime
from typing import Final

from controller.logs import told
from controller.repository.package_repository import PackageRepository
from controller.repository.records import Statistics
from schemas.errors import FlotillaError, one_line

LEAST_S: Final = 15.0
"""Whether anything was pushed since is looked up so often."""
LONGEST_S: Final = 900.0
"""After this time it is looked at whether anything was or not."""
SHARE: Final = 900
"""With 100 000 objects a look at each file's size takes about a second of a thread: so many times what a look took
goes by until the next one, so that it costs a thousandth of a processor at most."""

log = logging.getLogger(__name__)


class Upkeep:
    """The last look at the repository.

    Attributes:
        statistics: how much there is; None before the first look.
        expiries: when the signature of each role ends; empty before the first look.
    """

    def __init__(self, repository: PackageRepository) -> None:
        self._repository = repository
        self.statistics: Statistics | None = None
        self.expiries: dict[str, datetime] = {}
        self._stamp: object = None
        self._ended = -math.inf
        self._took_s = 0.0

    def look(self) -> None:
        """Look now; blocks. Raises what the repository raises."""
        self.expiries = dict(self._repository.expiries())
        self.statistics = self._repository.statistics()

    def look_again(self, now: float) -> bool:
        """Look if something was pushed since the last time, or that is long ago; returns whether it did.

        Raises as `look`.

        Args:
            now: seconds of `time.monotonic`.
        """
        stamp, since = self._repository.stamp(), now - self._ended
        if since < LONGEST_S and (stamp == self._stamp or since < pause_s(self._took_s)):
            return False
        began = time.monotonic()
        try:
            self.look()
        finally:
            self._took_s = time.monotonic() - began
            self._ended = now + self._took_s
        self._stamp = stamp
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Look at once and again and again until `stop` is set, the more seldom the longer it takes."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self.look_again, time.monotonic())
            except FlotillaError as error:
                log.error("cannot look at the repository: %s", one_line(error), extra=told("upkeep", error))  # noqa: TRY400 - the line says it all
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LEAST_S)


def pause_s(took_s: float) -> float:
    """How long to wait at least after a look that took so long."""
    return min(max(SHARE * took_s, LEAST_S), LONGEST_S)
