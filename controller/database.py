"""The controller's database: one engine for all stores, upgraded when it is opened.

SQLite is the default (WAL, every commit on the disk before it is reported); any other database that
SQLAlchemy and Alembic know works by URL, PostgreSQL is the one meant. Tables are declared on `metadata`
beside the code that uses them and created by the revisions in `controller/migrations/`.

Use `reading` and `writing` rather than the engine itself: on SQLite a transaction that means to write has
to say so when it begins, because one that finds out later fails at once instead of waiting its turn.
"""

import contextlib
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import URL, BigInteger, Connection, Engine, Integer, MetaData, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from controller.collation import wrong_collation
from schemas.errors import OperatorError, one_line
from schemas.without_modules import without_modules

# Alembic loads Mako to write new revisions, and that loads what would colour its errors: a fifth of what all this takes
with without_modules("pygments"):
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

__all__ = [
    "RowId",
    "from_db",
    "metadata",
    "open_database",
    "reading",
    "searching",
    "sqlite_url",
    "to_db",
    "utc_now",
    "writing",
]

CACHE_KIB: Final = 16 * 1024
"""Of the connection that writes, in place of SQLite's own 2 MiB, which those that read are left with."""

MAPPED_BYTES: Final = 1 << 30
"""Of the file, what connections that search map. Reading one page after the other took half of a search's time."""

BUSY_TIMEOUT_S: Final = 30
"""How long a transaction waits for others of its process, and then again for another process's, before it gives up."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UPGRADE_LOCK_KEY: Final = 0x666C6F74  # any number that other users of the same PostgreSQL do not take
_READ_ONLY: Final = "flotilla_read_only"

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables of the controller. Constraint names are fixed, so that later revisions can name them."""

RowId: Final = BigInteger().with_variant(Integer(), "sqlite")
"""Type of a primary key that the database numbers; only an INTEGER key numbers itself in SQLite."""

# The connection that was used last is used next: as many caches are filled as there are at work at once.
_SQLITE: Final[dict[str, Any]] = {
    "pool_use_lifo": True,
    "connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
}
_readers: Final[WeakKeyDictionary[Engine, Engine]] = WeakKeyDictionary()
_searching: Final[WeakKeyDictionary[Engine, Engine]] = WeakKeyDictionary()
_turns: Final[WeakKeyDictionary[Engine, threading.Lock]] = WeakKeyDictionary()
_making: Final = threading.Lock()
_upgrading: Final = threading.Lock()  # Alembic keeps the connection at work in module globals


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string(hide_password=False)


def utc_now() -> datetime:
    """The present moment, with its time zone."""
    return datetime.now(UTC)


def to_db(moment: datetime) -> int:
    """Microseconds since 1970 UTC: the same in every database, and sorted as the moments are."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds  # a third of what dividing takes


def from_db(value: int) -> datetime:
    """The moment that `to_db` wrote, in UTC."""
    return _EPOCH + value * _MICROSECOND


def open_database(url: str) -> Engine:
    """Open the database, making it or upgrading it to this version's tables first.

    Several processes may do this at once: one upgrades, the others wait for it.

    Args:
        url: a SQLAlchemy URL, see `sqlite_url`. SQLite must be a file, as every thread has a connection of its own.

    Raises:
        OperatorError: `config.bad` for a URL that cannot be used, `config.missing` for a driver that is not
            installed, `data.bad` for a database that cannot be opened, was written by a newer version or, on
            PostgreSQL, sorts text by a language's rules, see `controller.collation`.
    """
    engine = _make_engine(url)
    shown = _shown(engine.url)
    try:
        with _upgrading, writing(engine) as connection:
            if connection.dialect.name == "postgresql":
                _refuse_wrong_order(connection, shown)
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK_KEY})
            _upgrade(connection)
    except OperatorError:
        engine.dispose()
        raise
    except CommandError as error:
        engine.dispose()
        raise OperatorError(
            "data.bad", f"database {shown}: {one_line(error)}; it was written by a newer Flotilla, update this one"
        ) from error
    except (DBAPIError, sqlite3.Error) as error:
        engine.dispose()
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise OperatorError("data.bad", f"database {shown} cannot be opened: {one_line(reason)}") from error
    return engine


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write; committed at the end of the block, rolled back by an exception.

    On SQLite it is the only one of its kind from the beginning of the block on, so keep it short.

    Raises:
        OperatorError: `data.bad` or `disk.full`, where the database itself fails (locked for too long, disk
            full, connection lost). What a statement does wrong stays SQLAlchemy's error.
    """
    with _failures(engine), _turn(engine), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: it sees one state of the database and waits for nobody. Raises as `writing`."""
    readers = _readers.get(engine, engine)
    with _failures(engine), readers.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


def searching(engine: Engine) -> Engine:
    """For `reading`, where a few rows are picked out of very many: the same database, mapped into memory.

    Pages that were looked at count as memory of this process while the system has nothing better to do with it. Only
    for searches: where a disk fails under a mapping, the process is killed instead of being told.
    """
    if engine not in _turns:
        return engine
    twin = _searching.get(engine)
    if twin is not None:
        return twin
    with _making:
        twin = _searching.get(engine)
        if twin is None:
            twin = _searching[engine] = _twin(engine, _on_searching_connect)
    return twin


def _twin(engine: Engine, on_connect: Callable[[DBAPIConnection, ConnectionPoolEntry], None]) -> Engine:
    """Other connections to the same SQLite file, which end with the engine's."""
    twin = create_engine(engine.url, **_SQLITE)
    event.listen(twin, "connect", on_connect)
    event.listen(twin, "begin", _on_sqlite_begin)
    event.listen(engine, "engine_disposed", lambda _engine: twin.dispose())
    return twin


@contextlib.contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """Of this process's transactions that write, let one in after the other.

    SQLite has whoever finds it locked look again after longer and longer waits, up to 100 ms, and does not care who
    came first; here the next one goes on at once. Other processes still wait in SQLite's way.
    """
    lock = _turns.get(engine)
    if lock is None:
        yield
    elif lock.acquire(timeout=BUSY_TIMEOUT_S):
        try:
            yield
        finally:
            lock.release()
    else:
        why = sqlite3.OperationalError(f"database is locked: no turn to write came within {BUSY_TIMEOUT_S:g} s")
        raise OperationalError("BEGIN IMMEDIATE", None, why)


@contextlib.contextmanager
def _failures(engine: Engine) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        reason = one_line(error.orig)
        code = "disk.full" if "disk is full" in reason else "data.bad"
        raise OperatorError(code, f"database {_shown(engine.url)}: {reason}") from error


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
        if not parsed.database or parsed.database == ":memory:":
            raise OperatorError("config.bad", f"database URL {_shown(parsed)} names no file")
        _keep_private(Path(parsed.database))
        engine = create_engine(parsed, **_SQLITE)
    except (ArgumentError, NoSuchModuleError) as error:
        raise OperatorError("config.bad", f"database URL cannot be used: {one_line(error)}") from error
    except ModuleNotFoundError as error:
        raise OperatorError(
            "config.missing", f"the database needs the Python module {error.name!r}; install it beside Flotilla"
        ) from error
    event.listen(engine, "connect", _on_writing_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    _turns[engine] = threading.Lock()
    # Whoever writes through another connection makes SQLite forget what this one's cache holds. As transactions that
    # write take turns, one connection is enough for all of them, and its cache stays good.
    _readers[engine] = _twin(engine, _on_reading_connect)
    return engine


def _keep_private(file: Path) -> None:
    """Keep other users of this machine from SQLite's files, which hold password hashes; where it can't, leave them.

    Never by opening a file that is there: closing it again would end the locks of all this process's connections.
    """
    if str(file).startswith("file:"):
        return  # a URI of SQLite's own
    with contextlib.suppress(OSError):
        # SQLite gives its other files the mode of this one
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in ("", "-wal", "-shm"):
        path = Path(f"{file}{suffix}")
        with contextlib.suppress(OSError):
            status = path.stat()
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
                path.chmod(0o600)


def _refuse_wrong_order(connection: Connection, shown: str) -> None:
    row = text("SELECT row_to_json(d)::text FROM pg_database d WHERE datname = current_database()")
    wrong = wrong_collation(json.loads(connection.scalar(row) or "{}"))
    if wrong is not None:
        raise OperatorError("data.bad", f"database {shown}: {wrong}")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _on_writing_connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _set_up(dbapi_connection, f"cache_size=-{CACHE_KIB}")


def _on_reading_connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _set_up(dbapi_connection, "query_only=ON")


def _on_searching_connect(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _set_up(dbapi_connection, "query_only=ON", f"mmap_size={MAPPED_BYTES}")


def _set_up(dbapi_connection: DBAPIConnection, *pragmas: str) -> None:
    # None: the driver begins no transactions of its own, `_on_sqlite_begin` does.
    sqlite: Any = dbapi_connection
    sqlite.isolation_level = None
    cursor = sqlite.cursor()
    try:
        _set_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _set_wal(cursor: sqlite3.Cursor) -> None:
    """Switch to write-ahead logging; of two processes that do so at once, SQLite lets one fail without waiting."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _on_sqlite_begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _shown(url: URL) -> str:
    return one_line(url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True))
