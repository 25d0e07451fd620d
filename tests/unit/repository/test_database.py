"""The database: made and upgraded at opening, by several processes at once, and how transactions behave."""

import multiprocessing
import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from controller.database import from_db, metadata, open_database, reading, searching, sqlite_url, to_db, writing
from controller.fleet.patience import passes
from controller.repository.tables import channel_history, channels, release_tags, releases
from schemas.errors import OperatorError

OWN_TABLES = {t.name for t in (releases, release_tags, channels, channel_history)}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(sqlite_url(tmp_path / "flotilla.db"))


def test_the_revisions_make_exactly_the_declared_tables(engine: Engine) -> None:
    def is_ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        return kind != "table" or name in OWN_TABLES

    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_ours, "compare_type": True})
        assert compare_metadata(context, metadata) == []
        present = set(connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")))
    assert present >= OWN_TABLES


def test_sqlite_is_durable_checks_references_and_lets_readers_in(engine: Engine) -> None:
    with reading(engine) as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(insert(release_tags).values(release_id=99, tag="x"))


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_nobody_but_its_owner_reads_a_sqlite_database(tmp_path: Path) -> None:
    """Password hashes are in there. What an earlier version made readable is closed."""
    names = ["flotilla.db", "flotilla.db-shm", "flotilla.db-wal"]
    before = os.umask(0o022)
    try:
        engine = open_database(sqlite_url(tmp_path / "flotilla.db"))
        with writing(engine) as connection:
            connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
        assert modes(tmp_path) == dict.fromkeys(names, 0o600)
        for name in names:
            (tmp_path / name).chmod(0o644)
        again = open_database(sqlite_url(tmp_path / "flotilla.db"))
        assert modes(tmp_path) == dict.fromkeys(names, 0o600)
        again.dispose()
        engine.dispose()
    finally:
        os.umask(before)


def test_a_reader_sees_one_state_while_a_writer_commits(engine: Engine) -> None:
    row = {"package": "tacho", "channel": "stable", "version": "1.0.0", "set_at": 1}
    count = select(func.count()).select_from(channels)
    with reading(engine) as reader:
        assert reader.scalar(count) == 0
        with writing(engine) as writer:
            writer.execute(insert(channels).values(**row))
        assert reader.scalar(count) == 0
    with reading(engine) as reader:
        assert reader.scalar(count) == 1


def test_an_exception_takes_everything_in_the_block_back(engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as connection:
        connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
        raise RuntimeError
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(channels)) == 0


def test_a_writing_transaction_holds_the_lock_from_its_beginning(engine: Engine, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "flotilla.db", timeout=0, isolation_level=None)
    with writing(engine), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    with reading(engine) as connection:
        connection.scalar(select(func.count()).select_from(channels))
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_transactions_that_write_take_turns_instead_of_asking_sqlite_again_and_again(engine: Engine) -> None:
    begun: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: begun.append(args[2]))
    over = threading.Event()

    def write() -> None:
        with writing(engine) as connection:
            connection.execute(insert(channels).values(package="b", channel="b", version="1.0.0", set_at=1))
        over.set()

    with writing(engine) as connection:
        connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
        other = threading.Thread(target=write)
        other.start()
        assert not over.wait(0.2)
        assert begun.count("BEGIN IMMEDIATE") == 1
    other.join(30)
    assert begun.count("BEGIN IMMEDIATE") == 2
    with reading(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(channels)) == 2


def test_whoever_writes_uses_the_connection_that_wrote_before_and_readers_have_others(engine: Engine) -> None:
    def writer() -> object:
        with writing(engine) as connection:
            connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
            connection.rollback()
            return connection.connection.dbapi_connection

    first = writer()
    with reading(engine) as one, reading(engine) as another:
        pages = {connection.connection.dbapi_connection for connection in (one, another)}
        assert first not in pages
        assert writer() is first
    assert writer() is first
    with pytest.raises(OperatorError, match="readonly"), reading(engine) as connection:
        connection.execute(insert(channels).values(package="b", channel="b", version="1.0.0", set_at=1))
    with reading(engine) as connection:
        there = connection.connection.dbapi_connection
    engine.dispose()
    with reading(engine) as connection:
        assert connection.connection.dbapi_connection is not there


def test_searches_map_the_same_database_and_cannot_write(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
    looking = searching(engine)
    assert searching(engine) is looking is not engine
    with reading(looking) as connection:
        assert connection.scalar(select(channels.c.version)) == "1.0.0"
        assert connection.scalar(text("PRAGMA mmap_size")) > 0
    with pytest.raises(OperatorError, match="readonly"), writing(looking) as connection:
        connection.execute(insert(channels).values(package="b", channel="b", version="1.0.0", set_at=1))
    with looking.connect() as connection:
        there = connection.connection.dbapi_connection
    engine.dispose()
    with looking.connect() as connection:
        assert connection.connection.dbapi_connection is not there


def test_a_turn_that_never_comes_is_one_clear_line(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.database.BUSY_TIMEOUT_S", 0.1)
    with writing(engine), pytest.raises(OperatorError, match="is locked: no turn to write came") as caught:
        writing(engine).__enter__()
    assert caught.value.code == "data.bad"
    assert passes(caught.value)  # so that it is tried again


def _open(url: str, start: "multiprocessing.synchronize.Barrier") -> None:
    start.wait(30)
    with reading(open_database(url)) as connection:
        connection.scalar(select(func.count()).select_from(releases))


def test_several_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    url, barrier = sqlite_url(tmp_path / "new.db"), context.Barrier(4)
    processes = [context.Process(target=_open, args=(url, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0, 0, 0]


def test_opening_again_keeps_what_is_there(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        connection.execute(insert(channels).values(package="a", channel="b", version="1.0.0", set_at=1))
    engine.dispose()
    with reading(open_database(sqlite_url(tmp_path / "flotilla.db"))) as connection:
        assert connection.scalar(select(channels.c.version)) == "1.0.0"


def test_a_database_of_a_newer_version_is_refused(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperatorError, match="newer Flotilla") as caught:
        open_database(sqlite_url(tmp_path / "flotilla.db"))
    assert caught.value.code == "data.bad"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("sqlite://", "config.bad"),
        ("sqlite:///:memory:", "config.bad"),
        ("no url at all", "config.bad"),
        ("nosuchdatabase://host/name", "config.bad"),
        ("sqlite:////no/such/folder/flotilla.db", "data.bad"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_clear_line(url: str, code: str) -> None:
    with pytest.raises(OperatorError) as caught:
        open_database(url)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "flotilla.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(OperatorError) as caught:
        open_database(sqlite_url(path))
    assert caught.value.code == "data.bad"
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_path_with_odd_characters_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a b%20?c#d.db"
    open_database(sqlite_url(path)).dispose()
    assert path.exists()


def test_moments_survive_the_database_to_the_microsecond() -> None:
    moment = datetime(2031, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert from_db(to_db(moment)) == moment
    assert to_db(moment.astimezone(timezone(timedelta(hours=5)))) == to_db(moment)
    assert to_db(moment + timedelta(microseconds=1)) == to_db(moment) + 1
    with pytest.raises(ValueError, match="time zone"):
        to_db(datetime(2031, 1, 1))  # noqa: DTZ001 - the point of the test
