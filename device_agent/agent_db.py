"""Opening agent.db: its tables, its lock, its transactions, and foreign errors translated."""

import contextlib
import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from device_agent.durability import disk_errors
from schemas.errors import DeviceError, OperatorError, one_line

DATABASE: Final = "agent.db"
LOCK: Final = "agent.lock"
RUNNING: Final = "agent.running"
"""There from the first start on until an end in order, after which nothing need be examined."""
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 10.0
_PRIVATE: Final = 0o600

_SCHEMA: Final = """
CREATE TABLE updates (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    package TEXT NOT NULL,
    phase   TEXT NOT NULL,
    body    TEXT NOT NULL
);
CREATE INDEX updates_of_package ON updates (package, number);
CREATE TABLE installs (package TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE verdicts (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    package TEXT NOT NULL,
    rollout TEXT NOT NULL,
    version TEXT NOT NULL,
    phase   TEXT NOT NULL,
    code    TEXT,
    UNIQUE (package, rollout, version)
);
CREATE TABLE events (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, sent INTEGER NOT NULL DEFAULT 0);
CREATE INDEX events_unsent ON events (seq) WHERE sent = 0;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_FULL: Final = sqlite3.SQLITE_FULL
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DamagedDatabaseError(DeviceError):
    """The file is there and can be read, but it is no whole database; see `rebuilding`."""


class AgentDatabase:
    """One connection, used by one thread at a time.

    Attributes:
        ended_in_order: whether whoever wrote before closed it, so that neither a power cut nor a kill came between.

    A writer holds a lock on the root folder for as long as it lives: two agents on one folder would each
    undo what the other does.

    Only its owner can read the file: events hold the last that hooks and services printed, which may be a secret.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """Open or create `root/agent.db`.

        Args:
            root: created where it is missing, unless `read_only`.
            read_only: for looking at what an agent does, beside it.

        Raises:
            DamagedDatabaseError: it is no whole database.
            DeviceError: `conflict.busy`, `disk.full`, `disk.io`.
            OperatorError: `data.bad`: nothing to read, not for this account to read, or a newer agent wrote it.
        """
        self._mutex = threading.RLock()
        self._lock: int | None = None
        path = root / DATABASE
        if read_only:
            _refuse_unreadable(path)
        with disk_errors(f"open {path}"):
            if not read_only:
                root.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(root)
            # SQLite removes its log when the last connection is closed; a run that came to nothing leaves the mark
            self._mark = root / RUNNING
            self.ended_in_order = not (self._mark.exists() or _is_there(path.with_name(f"{path.name}-wal")))
            self._settled = self.ended_in_order
            if not read_only:
                self._mark.touch(mode=0o600)
                _keep_private(path)
            try:
                self._connection = _connect(path, read_only, suspect=not self.ended_in_order)
            except BaseException:
                self._unlock()
                raise

    def close(self) -> None:
        """Let go of the file and the lock."""
        with self._mutex:
            try:
                self._connection.close()
                if self._settled and self._lock is not None:
                    with contextlib.suppress(OSError):  # then the next start looks closer than it would have to
                        self._mark.unlink(missing_ok=True)
            finally:
                self._unlock()

    def settle(self) -> None:
        """What an end that was not in order may have spoilt has been looked for."""
        self._settled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What other methods write inside, in this thread, is written as one: all of it or nothing."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when the block has been left, or the one around it."""
        with self._mutex, _database_errors():
            nested = self._connection.in_transaction
            if nested:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._mutex, _database_errors():
            return self._connection.execute(sql, values).fetchall()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def next_number(connection: sqlite3.Connection, name: str) -> int:
    """Count up inside a transaction. It never goes back, whatever rows are dropped elsewhere."""
    row = connection.execute(
        "INSERT INTO counters (name, value) VALUES (?, 1) "
        "ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
        (name,),
    ).fetchone()
    return int(row[0])


def _lock(root: Path) -> int:
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DeviceError("conflict.busy", f"another process works on {root}; stop that agent first") from error
    return descriptor


def _refuse_unreadable(path: Path) -> None:
    """Say so in one line where there is nothing to read, or not for this account. Nothing is opened for it: closing a
    database's file would let go of the locks that this process may have on it."""
    try:
        there = path.exists()
    except PermissionError:
        there = True  # as far as this account may know
    if not there:
        raise OperatorError("data.bad", f"{path.parent} holds no {DATABASE}: no agent has ever run there")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OperatorError("data.bad", f"{path} may not be read by this account; use sudo")


def _keep_private(path: Path) -> None:
    """Have the database be its owner's alone, and with it its log, which SQLite gives the same rights.

    Agents before this one left it, and what was put aside of it, open to all.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
    for part in path.parent.glob(f"{path.name}*"):
        # a log that is gone by now, or a file of somebody else's, who has to see to it: no reason not to run
        with contextlib.suppress(FileNotFoundError, PermissionError):
            mode = stat.S_IMODE(part.stat().st_mode)
            if mode & ~_PRIVATE:
                part.chmod(mode & _PRIVATE)


def _is_there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _connect(path: Path, read_only: bool, *, suspect: bool) -> sqlite3.Connection:
    if read_only and not os.access(path.parent, os.W_OK):
        # on a read-only disk SQLite cannot make the file through which readers and writers agree; nobody writes
        return _connect_to(path, "mode=ro&immutable=1", read_only=True, suspect=False)
    return _connect_to(path, f"mode={'ro' if read_only else 'rwc'}", read_only=read_only, suspect=suspect)


def _connect_to(path: Path, how: str, *, read_only: bool, suspect: bool) -> sqlite3.Connection:
    with _database_errors(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{how}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _prepare(connection, path, read_only)
            if suspect and not read_only:
                _check(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise OperatorError(
            "data.bad", f"{path} was written by a newer agent (schema {found}, this one knows {SCHEMA_VERSION})"
        )
    if read_only:
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if found == 0:
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Look at every page: a few milliseconds a megabyte, and only after a power cut or a kill."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise DamagedDatabaseError("disk.io", f"{path} is damaged: {one_line(found)}")


@contextmanager
def _database_errors(name: object = DATABASE) -> Iterator[None]:
    """SQLite's errors about the disk and the file as `DeviceError`; those about our own SQL stay what they are."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if code is not None else None
        if primary == _FULL:
            raise DeviceError("disk.full", f"{name} cannot grow: the disk is full") from error
        if primary in _DAMAGED:
            raise DamagedDatabaseError("disk.io", f"{name} is damaged: {one_line(error)}") from error
        raise DeviceError("disk.io", f"{name}: {one_line(error)}") from error
