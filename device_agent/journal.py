"""agent.db: what the device has decided, done and not yet told. Written before acting, told after.

SQLite in WAL mode with `synchronous=FULL`: what a method has returned from survives a power cut. All
methods block (use `threads.in_thread`) and may be called from any thread; one process writes
(`conflict.busy` tells a second one), any number may read with `read_only=True`.
"""

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from device_agent import failed_releases, lifecycle
from device_agent.journal_rows import COLUMNS, decode_install, decode_update, encode_install, encode_update
from device_agent.journal_rules import as_reported, event_of, first_detail, first_row, is_verdict, moved
from device_agent.lifecycle import Outcome
from device_agent.outbox import KeptEvent, Outbox
from device_agent.updates import Install, Update, UpdateRequest, Verdict
from schemas.messages import LAST_WORDS, ErrorReport, InstalledPackage, Phase, Progress, UpdateEvent

__all__ = ["Journal", "KeptEvent"]

MAX_UPDATES: Final = 500
"""Ended updates kept; verdicts outlive them."""
MAX_VERDICTS: Final = 2000


class Journal(Outbox):
    """Updates, installs, verdicts, and with them the outbox. See the module."""

    def __init__(self, root: Path, *, device: str = "", boot_id: str = "", read_only: bool = False) -> None:
        """Open or create `root/agent.db`.

        Args:
            root: the agent's folder.
            device: id that events carry.
            boot_id: of this boot, that events carry.
            read_only: for looking only.

        Raises:
            DeviceError: `conflict.busy` where another process has it open for writing, `disk.full`, `disk.io`.
            OperatorError: `data.bad`.
        """
        super().__init__(root, read_only=read_only)
        self._listeners = []
        self._device = device
        self._boot_id = boot_id

    def speak_as(self, device: str) -> None:
        """Have events carry this id from now on."""
        self._device = device

    def begin(
        self,
        request: UpdateRequest,
        outcome: Outcome,
        *,
        update: str,
        at: datetime,
        error: ErrorReport | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Update:
        """Write down a new update in its first phase, and the event.

        Args:
            outcome: one of `lifecycle.ENTRIES`.
            update: its id, UUIDv7.
            error: why it is rejected or cancelled.
            detail: for the event, besides who wants it.
        """
        with self._transaction() as connection:
            before = _read_install(connection, request.package)
            row = first_row(request, outcome, update=update, at=at, before=before, error=error)
            connection.execute(
                "INSERT INTO updates (id, package, phase, body) VALUES (?, ?, ?, ?)",
                (row.id, row.package, _word(row), encode_update(row)),
            )
            self._tell(connection, row, at, detail=first_detail(row, detail))
            if outcome is not Outcome.CANCEL:  # what was never begun may be, should it be announced to the device again
                _note_verdict(connection, row)
            _prune(connection)
        self._tell_listeners(row.phase)
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
        """Move an update by `outcome`, with its event, all or nothing.

        Args:
            error: why, where it did not go well. A rollback keeps the error that caused it unless told otherwise.
            detail: for the event.
            progress: for the event.
            changes: fields of `Update` that change with the phase.
            install: what the package's row in `installs` is from now on.
            uninstall: whether that row goes away.

        Raises:
            IllegalMoveError: the table has no such move; nothing was changed.
        """
        with self._transaction() as connection:
            row = _read_update(connection, update)
            row = moved(row, outcome, at=at, error=error, changes=changes)
            _write_update(connection, row)
            if install is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO installs (package, body) VALUES (?, ?)",
                    (row.package, encode_install(install)),
                )
            elif uninstall:
                connection.execute("DELETE FROM installs WHERE package = ?", (row.package,))
            self._tell(connection, row, at, detail=detail, progress=progress)
            _note_verdict(connection, row)
            failed_releases.note_end(connection, row)
        self._tell_listeners(row.phase)
        return row

    def tell(self, update: str, *, at: datetime, progress: Progress, detail: dict[str, Any] | None = None) -> None:
        """An event about how far the current phase is; nothing else changes."""
        with self._transaction() as connection:
            row = _read_update(connection, update)
            if row.phase is not None and row.phase not in LAST_WORDS:
                self._tell(connection, row, at, detail=detail, progress=progress)
        self._tell_listeners(row.phase)

    def change(self, update: str, **changes: Any) -> Update:
        """Change fields of an update that no event tells of."""
        with self._transaction() as connection:
            row = msgspec.structs.replace(_read_update(connection, update), **changes)
            connection.execute("UPDATE updates SET body = ? WHERE id = ?", (encode_update(row), row.id))
        return row

    def unfinished(self) -> list[Update]:
        """Updates without a last word, oldest first."""
        ended = ", ".join(f"'{phase}'" for phase in sorted(LAST_WORDS))
        rows = self._rows(f"SELECT {COLUMNS} FROM updates WHERE phase NOT IN ({ended}) ORDER BY number")  # noqa: S608  # our own words
        return self._decoded(rows)

    def get(self, update: str) -> Update | None:
        """One update by its id."""
        rows = self._rows(f"SELECT {COLUMNS} FROM updates WHERE id = ?", update)  # noqa: S608  # our own words
        return self._decoded(rows)[0] if rows else None

    def last_update(self, package: str) -> Update | None:
        """The package's newest update, whatever its phase."""
        return next(iter(self.history(package, limit=1)), None)

    def history(self, package: str | None = None, limit: int = 50) -> list[Update]:
        """Updates, newest first."""
        rows = self._rows(
            f"SELECT {COLUMNS} FROM updates WHERE ? IS NULL OR package = ? ORDER BY number DESC LIMIT ?",  # noqa: S608  # our own words
            package,
            package,
            limit,
        )
        return self._decoded(rows)

    def verdict(self, package: str, rollout: str, version: str) -> Verdict | None:
        """How the rollout's release ended here before; None where it may be tried."""
        rows = self._rows(
            "SELECT phase, code FROM verdicts WHERE package = ? AND rollout = ? AND version = ?",
            package,
            rollout,
            version,
        )
        phase = lifecycle.read_phase(rows[0][0]) if rows else None
        return Verdict(phase=phase, code=rows[0][1]) if phase is not None else None

    def forgive(self, package: str) -> None:
        """Forget what ended badly, so that it may be tried again."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM verdicts WHERE package = ? AND phase <> ?", (package, Phase.SUCCEEDED.value)
            )
            failed_releases.forget(connection, package)

    def failed_before(self, package: str, manifest: str) -> failed_releases.Failed | None:
        """How exactly this release failed here before, whatever it was called then."""
        with self._transaction() as connection:
            return failed_releases.find(connection, package, manifest)

    def forget_verdicts(self, package: str | None = None) -> None:
        """Forget how rollouts ended here, well or badly: what the device is told has changed."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM verdicts WHERE ? IS NULL OR package = ?", (package, package))

    def installs(self) -> dict[str, Install]:
        """Every installed package, by name."""
        rows = self._rows("SELECT body FROM installs ORDER BY package")
        found = [decode_install(row[0]) for row in rows]
        return {install.package: install for install in found if install is not None}

    def installed(self) -> dict[str, InstalledPackage]:
        """The same as `Reported.packages` has it; `phase` is that of the release's own installation."""
        return {name: self._as_reported(install) for name, install in self.installs().items()}

    def _decoded(self, rows: list[tuple[Any, ...]]) -> list[Update]:
        with self._mutex:
            return [decode_update(row, lambda package: _read_install(self._connection, package)) for row in rows]

    def _as_reported(self, install: Install) -> InstalledPackage:
        return as_reported(install, self.history(install.package, limit=MAX_UPDATES))

    def _tell(
        self,
        connection: sqlite3.Connection,
        row: Update,
        at: datetime,
        *,
        detail: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        device, boot_id, phase = self._device, self._boot_id, Phase(_word(row))

        def make(seq: int) -> UpdateEvent:
            return event_of(
                row, phase, device=device, boot_id=boot_id, seq=seq, at=at, detail=detail, progress=progress
            )

        self._add_event(connection, make)


def _read_update(connection: sqlite3.Connection, update: str) -> Update:
    row = connection.execute(f"SELECT {COLUMNS} FROM updates WHERE id = ?", (update,)).fetchone()  # noqa: S608  # our own
    if row is None:
        raise KeyError(update)
    return decode_update(row, lambda package: _read_install(connection, package))


def _write_update(connection: sqlite3.Connection, row: Update) -> None:
    connection.execute("UPDATE updates SET phase = ?, body = ? WHERE id = ?", (_word(row), encode_update(row), row.id))


def _word(row: Update) -> str:
    assert row.phase is not None, "an unknown phase is never written"  # noqa: S101  # for the type checker
    return row.phase.value


def _read_install(connection: sqlite3.Connection, package: str) -> Install | None:
    row = connection.execute("SELECT body FROM installs WHERE package = ?", (package,)).fetchone()
    return decode_install(row[0]) if row else None


def _note_verdict(connection: sqlite3.Connection, row: Update) -> None:
    if not is_verdict(row):
        return
    connection.execute(
        "INSERT OR REPLACE INTO verdicts (package, rollout, version, phase, code) VALUES (?, ?, ?, ?, ?)",
        (row.package, row.rollout, row.version, _word(row), row.error.code if row.error else None),
    )
    connection.execute("DELETE FROM verdicts WHERE number <= (SELECT MAX(number) FROM verdicts) - ?", (MAX_VERDICTS,))


def _prune(connection: sqlite3.Connection) -> None:
    ended = tuple(sorted(LAST_WORDS))
    connection.execute(
        "DELETE FROM updates WHERE number <= (SELECT MAX(number) FROM updates) - ? AND phase IN (?, ?, ?, ?, ?)",
        (MAX_UPDATES, *ended),
    )
