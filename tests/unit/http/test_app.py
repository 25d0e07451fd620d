"""Parts of the controller's wiring that need no process."""

import asyncio
import logging
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller import app, housekeeping, listening
from controller.repository.records import Expiry, Refreshed
from controller.settings import HttpAddress
from schemas.errors import OperatorError

BOUND_S = 10.0


class Repository:
    """Signs again with these results, one after the other, and then asks for the end."""

    def __init__(self, stop: asyncio.Event, *results: Refreshed | Exception) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._results = list(results)
        self.calls = 0

    def refresh_metadata(self) -> Refreshed:
        self.calls += 1
        result = self._results.pop(0)
        if not self._results:
            self._loop.call_soon_threadsafe(self._stop.set)
        if isinstance(result, Exception):
            raise result
        return result


async def keep_fresh(repository: Repository, stop: asyncio.Event) -> None:
    async with asyncio.timeout(BOUND_S):
        await housekeeping.keep_signed(repository, stop)  # type: ignore[arg-type]  # all that it calls is there


async def test_a_failure_to_sign_again_is_logged_and_tried_again_soon(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "RETRY_S", 0.01)
    stop = asyncio.Event()
    expiry = Expiry(role="targets", expires=datetime(2030, 1, 1, tzinfo=UTC), key="keys/offline/targets")
    done = Refreshed(signed=["timestamp"], overdue=[expiry])
    repository = Repository(stop, OperatorError("disk.full", "no room"), done)
    with caplog.at_level(logging.INFO, "flotilla.controller"):
        await keep_fresh(repository, stop)
    assert repository.calls == 2
    assert [record.getMessage() for record in caplog.records] == [
        "signing again failed: no room",
        "signed again: timestamp",
        "the signature of targets ends on 2030-01-01 00:00:00+00:00 and keys/offline/targets is not there",
    ]


async def test_what_nobody_foresaw_is_not_hidden() -> None:
    stop = asyncio.Event()
    with pytest.raises(ZeroDivisionError):
        await keep_fresh(Repository(stop, ZeroDivisionError()), stop)


async def test_when_one_part_ends_the_others_do_too_and_its_error_is_told() -> None:
    ended: list[str] = []
    stop = asyncio.Event()

    class Server:
        should_exit = False

    async def fails() -> None:
        raise OperatorError("config.bad", "no such broker")

    async def lasts() -> None:
        await stop.wait()
        ended.append("lasts")

    server = Server()
    with pytest.raises(OperatorError, match="no such broker"):
        async with asyncio.timeout(BOUND_S):
            await app._run_all({"fails": fails, "lasts": lasts}, server, stop)  # type: ignore[arg-type]  # the one flag
    assert ended == ["lasts"]
    assert server.should_exit


async def test_a_part_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "GRACE_S", 0.05)
    stop = asyncio.Event()
    stop.set()
    cancelled = asyncio.Event()

    class Server:
        should_exit = False

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(BOUND_S):
        await app._run_all({"stubborn": stubborn}, Server(), stop)  # type: ignore[arg-type]  # the one flag
    assert cancelled.is_set()


def test_it_listens_at_every_address_of_a_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listening.listening(HttpAddress(host="localhost", port=port)) as listeners:
        assert "127.0.0.1" in {listener.getsockname()[0] for listener in listeners}
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    assert all(listener.fileno() == -1 for listener in listeners)


def test_a_data_folder_is_made_for_its_owner_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o711)  # as where a web server serves the repository in it
    for name, mode in (("new", 0o700), ("old", 0o711)):
        with listening.only_one(tmp_path / name):
            assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_data_folder_is_let_go_after_use(tmp_path: Path) -> None:
    with listening.only_one(tmp_path), pytest.raises(OperatorError, match="in use"), listening.only_one(tmp_path):
        raise AssertionError("two at once")
    with listening.only_one(tmp_path):
        pass


def test_an_error_within_is_not_taken_for_a_folder_in_use(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), listening.only_one(tmp_path):
        raise BlockingIOError
