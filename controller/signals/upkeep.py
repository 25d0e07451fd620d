"""What is too slow to find out at every scrape: how large the repository is, and when its signatures end."""

import asyncio
import contextlib
import logging
from datetime import datetime
from typing import Final

from controller.logs import told
from controller.repository.package_repository import PackageRepository
from controller.repository.records import Statistics
from schemas.errors import FlotillaError, one_line

LOOK_EVERY_S: Final = 900.0
"""With 100 000 objects a look at each file's size takes about a second of a thread."""

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

    def look(self) -> None:
        """Look now; blocks. Raises what the repository raises."""
        self.expiries = dict(self._repository.expiries())
        self.statistics = self._repository.statistics()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at once and every quarter of an hour until `stop` is set."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self.look)
            except FlotillaError as error:
                log.error("cannot look at the repository: %s", one_line(error), extra=told("upkeep", error))  # noqa: TRY400 - the line says it all
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
