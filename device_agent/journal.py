"""agent.db: what the device has decided, done and not yet told. Written before acting, told after.

SQLite in WAL mode with `synchronous=FULL`: what a method has returned from survives a power cut. All
methods block (use `threads.in_thread`) and may be called from any thread; one process writes
(`conflict.busy` tells a second one), any number may read with `read_only=True`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from device_agent.lifecycle import Outcome
from device_agent.updates import Install, Update, UpdateRequest, Verdict
from schemas.messages import ErrorReport, InstalledPackage, Progress

DATABASE: Final = "agent.db"
MAX_EVENTS: Final = 10_000
"""Events kept for `replay`. Beyond it the oldest that the broker has confirmed go first; then, because a
disk is finite, the oldest at all. That is about a thousand updates without a controller ever answering."""
MAX_UPDATES: Final = 500
"""Ended updates kept; verdicts outlive them."""


class KeptEvent:
    """One event of the outbox: its `seq` and the payload exactly as it is to be published."""

    seq: int
    payload: bytes


class Journal:
    """Updates, installs, the outbox, counters and notes. See the module."""

    def __init__(self, root: Path, *, device: str, boot_id: str, read_only: bool = False) -> None:
        """Open or create `root/agent.db`.

        Raises:
            DeviceError: `conflict.busy` where another process has it open for writing, `disk.full`, `disk.io`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file and its lock."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # updates: a phase and the event that tells of it are one transaction

    def begin(
        self, request: UpdateRequest, outcome: Outcome, *, update: str, at: datetime, error: ErrorReport | None = None
    ) -> Update:
        """Write down a new update in its first phase, and the event."""
        raise NotImplementedError

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
        """Move an update by `outcome`, with its event, field changes and the installed release, all or nothing."""
        raise NotImplementedError

    def unfinished(self) -> list[Update]:
        """Updates without a last word, oldest first."""
        raise NotImplementedError

    def last_update(self, package: str) -> Update | None:
        """The package's newest update, whatever its phase."""
        raise NotImplementedError

    def history(self, package: str | None = None, limit: int = 50) -> list[Update]:
        """Updates, newest first."""
        raise NotImplementedError

    def verdict(self, package: str, rollout: str, version: str) -> Verdict | None:
        """How the rollout's release ended here before."""
        raise NotImplementedError

    # installs

    def installs(self) -> dict[str, Install]:
        """Every installed package."""
        raise NotImplementedError

    def installed(self) -> dict[str, InstalledPackage]:
        """The same as `Reported.packages` has it; `phase` is that of the package's latest update."""
        raise NotImplementedError

    # outbox

    def unsent(self, limit: int = 100) -> list[KeptEvent]:
        """The oldest events that the broker has not confirmed, by `seq`."""
        raise NotImplementedError

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has confirmed these with success. They stay for `events_after`."""
        raise NotImplementedError

    def events_after(self, seq: int, limit: int = 100) -> list[KeptEvent]:
        """Events above `seq`, confirmed or not, by `seq`; for `replay`."""
        raise NotImplementedError

    def forget_through(self, seq: int) -> None:
        """The controller has all up to `seq`: confirmed ones are dropped."""
        raise NotImplementedError

    def last_seq(self) -> int:
        """The last event's `seq`; 0 before the first. It never goes back, whatever is dropped."""
        raise NotImplementedError

    def on_event(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, from any thread, after each commit that added events."""
        raise NotImplementedError

    async def wait_for_events(self, after_seq: int, timeout_s: float) -> bool:
        """Wait until `last_seq()` is above `after_seq`; False when `timeout_s` have passed."""
        raise NotImplementedError

    # counters and notes

    def next_session(self) -> int:
        """The number of the next connection, for Presence; grows for ever."""
        raise NotImplementedError

    def get_note(self, key: str) -> str | None:
        """A small fact that must survive, e.g. the last revision seen of an announcement."""
        raise NotImplementedError

    def set_note(self, key: str, value: str | None) -> None:
        """Keep, replace or (None) drop a note, durably."""
        raise NotImplementedError

    def notes(self, prefix: str) -> dict[str, str]:
        """All notes whose key begins with `prefix`."""
        raise NotImplementedError
