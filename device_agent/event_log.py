"""Writes each event to the log, whether or not a broker is there to be told."""

from collections.abc import Callable
from typing import Final

import msgspec

from device_agent.local_work import Journal
from device_agent.logs import line, logger
from device_agent.threads import in_thread
from schemas.messages import LAST_WORDS, Phase, UpdateEvent

_WAIT_S: Final = 86_400.0
_BATCH: Final = 100
_BAD: Final = frozenset({Phase.REJECTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})


class EventLog:
    """Follows the journal from where it is when this is made."""

    def __init__(self, journal: Journal, *, on_last_word: Callable[[], None]) -> None:
        """
        Args:
            on_last_word: told when an update has ended, because what is installed may have changed.
        """
        self._journal = journal
        self._on_last_word = on_last_word
        self._after = journal.last_seq()

    async def serve(self) -> None:
        """Write until cancelled."""
        while True:
            for kept in await in_thread(self._journal.events_after, self._after, _BATCH):
                self._after = kept.seq
                self._write(msgspec.json.decode(kept.payload, type=UpdateEvent))
            await self._journal.wait_for_events(self._after, _WAIT_S)

    def _write(self, event: UpdateEvent) -> None:
        progress, error = event.progress, event.error
        on_the_way = event.phase is Phase.FETCHING and progress is not None
        tell = logger().debug if on_the_way else logger().warning if event.phase in _BAD else logger().info
        tell(
            line(
                event.phase.value,
                error.message if error else "",
                package=event.package,
                version=event.version,
                from_version=event.from_version,
                code=error.code if error else None,
                bytes=f"{progress.bytes_done}/{progress.bytes_total}" if progress else None,
                attempt=event.attempt if event.attempt > 1 else None,
                update=event.update,
                seq=event.seq,
            )
        )
        if event.phase in LAST_WORDS:
            self._on_last_word()
