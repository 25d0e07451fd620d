"""A journal in memory, behind the same seams as `device_agent.journal`, and as small as can be."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

import msgspec

from device_agent.journal_rules import as_reported, event_of, first_detail, first_row, is_verdict, moved
from device_agent.lifecycle import Outcome
from device_agent.outbox import KeptEvent
from device_agent.updates import Install, Update, UpdateRequest, Verdict
from schemas.codec import encode
from schemas.messages import LAST_WORDS, ErrorReport, InstalledPackage, Phase, Progress, UpdateEvent

KEPT_EVENTS: Final = 200
"""Confirmed events kept for `replay`; those that are not confirmed are all kept."""
KEPT_UPDATES: Final = 10
"""Ended updates kept."""


class MemoryJournal:
    """See the module. For one event loop.

    Args:
        device: id that events carry.
        boot_id: of this boot, that events carry.
        on_begun: told of each update that begins.
        on_event: told of each event as it is written.
        on_confirmed: told how many events, and bytes of them, the broker has just confirmed for the first time.
    """

    __slots__ = (
        "_arrived",
        "_awaited",
        "_boot_id",
        "_device",
        "_events",
        "_installs",
        "_last_seq",
        "_notes",
        "_on_begun",
        "_on_confirmed",
        "_on_event",
        "_open",
        "_session",
        "_unsent",
        "_updates",
        "_verdicts",
    )

    def __init__(
        self,
        *,
        device: str,
        boot_id: str,
        on_begun: Callable[[], None],
        on_event: Callable[[UpdateEvent], None],
        on_confirmed: Callable[[int, int], None],
    ) -> None:
        self._device = device
        self._boot_id = boot_id
        self._on_begun = on_begun
        self._on_event = on_event
        self._on_confirmed = on_confirmed
        self._updates: dict[str, Update] = {}  # by id, oldest first
        self._open: dict[str, Update] = {}  # likewise, those without a last word
        self._installs: dict[str, Install] = {}
        self._verdicts: dict[tuple[str, str, str], Verdict] = {}
        self._events: deque[KeptEvent] = deque()
        self._unsent: dict[int, KeptEvent] = {}
        self._notes: dict[str, str] = {}
        self._last_seq = 0
        self._session = 0
        self._arrived = asyncio.Event()
        self._awaited = False

    def begin(
        self, request: UpdateRequest, outcome: Outcome, *, update: str, at: datetime, error: ErrorReport | None = None
    ) -> Update:
        """As `Journal.begin`."""
        before = self._installs.get(request.package)
        row = first_row(request, outcome, update=update, at=at, before=before, error=error)
        self._put(row)
        self._on_begun()
        self._tell(row, at, detail=first_detail(row))
        if outcome is not Outcome.CANCEL:
            self._note_verdict(row)
        while len(self._updates) - len(self._open) > KEPT_UPDATES:
            del self._updates[next(one.id for one in self._updates.values() if one.phase in LAST_WORDS)]
        return row

    def advance(
        self,
        update: str,
        outcome: Outcome,
        *,
        at: datetime,
        error: ErrorReport | None = None,
        detail: dict[str, Any] | None = None,
        progress: Progress | None = None,
        changes: dict[str, Any] | None = None,
        install: Install | None = None,
        uninstall: bool = False,
    ) -> Update:
        """As `Journal.advance`."""
        row = moved(self._updates[update], outcome, at=at, error=error, changes=changes)
        self._put(row)
        if install is not None:
            self._installs[row.package] = install
        elif uninstall:
            self._installs.pop(row.package, None)
        self._tell(row, at, detail=detail, progress=progress)
        self._note_verdict(row)
        return row

    def tell(self, update: str, *, at: datetime, progress: Progress) -> None:
        """As `Journal.tell`."""
        self._tell(self._updates[update], at, progress=progress)

    def change(self, update: str, **changes: Any) -> Update:
        """As `Journal.change`."""
        row = msgspec.structs.replace(self._updates[update], **changes)
        self._put(row)
        return row

    def unfinished(self) -> list[Update]:
        """Updates without a last word, oldest first."""
        return list(self._open.values())

    def get(self, update: str) -> Update | None:
        """One update by its id."""
        return self._updates.get(update)

    def history(self, package: str) -> list[Update]:
        """A package's updates, newest first."""
        return [row for row in reversed(self._updates.values()) if row.package == package]

    def verdict(self, package: str, rollout: str, version: str) -> Verdict | None:
        """How the rollout's release ended here before; None where it may be tried."""
        return self._verdicts.get((package, rollout, version))

    def forgive(self, package: str) -> None:
        """Forget what ended badly, so that it may be tried again."""
        bad = [key for key, one in self._verdicts.items() if key[0] == package and one.phase is not Phase.SUCCEEDED]
        for key in bad:
            del self._verdicts[key]

    def forget_verdicts(self, package: str | None = None) -> None:
        """Forget how rollouts ended here, well or badly: what the device is told has changed."""
        for key in [key for key in self._verdicts if package in (None, key[0])]:
            del self._verdicts[key]

    def installs(self) -> dict[str, Install]:
        """Every installed package, by name."""
        return dict(self._installs)

    def installed(self) -> dict[str, InstalledPackage]:
        """The same as `Reported.packages` has it."""
        return {name: as_reported(install, self.history(name)) for name, install in self._installs.items()}

    def next_session(self) -> int:
        """The number of the next connection, for Presence."""
        self._session += 1
        return self._session

    def unsent(self, limit: int = 100) -> list[KeptEvent]:
        """The oldest events that the broker has not confirmed."""
        return list(islice(self._unsent.values(), limit))

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has confirmed these."""
        fresh = [event for seq in seqs if (event := self._unsent.pop(seq, None)) is not None]
        while len(self._events) > KEPT_EVENTS and self._events[0].seq not in self._unsent:
            self._events.popleft()
        if fresh:
            self._on_confirmed(len(fresh), sum(len(event.payload) for event in fresh))

    @property
    def is_open(self) -> bool:
        """Whether there is an update without a last word, or an event that the broker does not have."""
        return bool(self._open or self._unsent)

    def all_sent(self) -> bool:
        """Whether the broker has every event."""
        return not self._unsent

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        """Events above `seq`, confirmed or not."""
        return [event for event in self._events if event.seq > seq][:limit]

    def last_seq(self) -> int:
        """The last event's number."""
        return self._last_seq

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Wait until there is an event above `after_seq`."""
        if self._last_seq <= after_seq:
            self._arrived.clear()
            self._awaited = True
            # no `asyncio.timeout`: that costs more than what is waited for
            late = asyncio.get_running_loop().call_later(timeout_s, self._arrived.set)
            try:
                await self._arrived.wait()
            finally:
                self._awaited = False
                late.cancel()
        return self._last_seq > after_seq

    def get_note(self, key: str) -> str | None:
        """A note, or None."""
        return self._notes.get(key)

    def set_note(self, key: str, value: str | None) -> None:
        """Keep, replace or (None) drop a note."""
        if value is None:
            self._notes.pop(key, None)
        else:
            self._notes[key] = value

    def notes(self, prefix: str) -> dict[str, str]:
        """All notes whose key begins with `prefix`."""
        return {key: value for key, value in self._notes.items() if key.startswith(prefix)}

    def _put(self, row: Update) -> None:
        """In its place, or at the end."""
        self._updates[row.id] = row
        if row.phase in LAST_WORDS:
            self._open.pop(row.id, None)
        else:
            self._open[row.id] = row

    def _note_verdict(self, row: Update) -> None:
        if is_verdict(row) and row.phase is not None and row.rollout is not None:
            code = row.error.code if row.error else None
            self._verdicts[row.package, row.rollout, row.version] = Verdict(phase=row.phase, code=code)

    def _tell(
        self, row: Update, at: datetime, *, detail: dict[str, Any] | None = None, progress: Progress | None = None
    ) -> None:
        assert row.phase is not None, "nobody else writes this journal"  # noqa: S101  # for the type checker
        self._last_seq += 1
        event = event_of(
            row,
            row.phase,
            device=self._device,
            boot_id=self._boot_id,
            seq=self._last_seq,
            at=at,
            detail=detail,
            progress=progress,
        )
        kept = self._unsent[event.seq] = KeptEvent(event.seq, encode(event))
        self._events.append(kept)
        if self._awaited:
            # a turn of the loop later: what is written by then goes with it
            self._awaited = False
            asyncio.get_running_loop().call_soon(self._arrived.set)
        self._on_event(event)
