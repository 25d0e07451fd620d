"""Pages that stay up to date: what is sent, how often, and how many times the database is asked."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.web.freshness import Fresh
from controller.web.live import changes, framed
from controller.web.statics import Statics
from schemas.errors import OperatorError


async def next_event(stream: AsyncIterator[bytes]) -> bytes:
    """The next one that is no comment."""
    async with asyncio.timeout(10):
        while True:
            found = await anext(stream)
            if not found.startswith(b":"):
                return found


def test_text_of_a_device_cannot_begin_an_event_of_its_own() -> None:
    for evil in ("a\r\nevent: cells\r\n\r\n", "a\revent: cells\r\r", "a\nevent: cells\n\n"):
        lines = framed("device", evil).decode().split("\n")
        assert lines[0] == "event: device"
        assert all(line.startswith("data: ") for line in lines[1:-2]), lines
        assert "\r" not in framed("device", evil).decode()


async def test_only_parts_that_changed_are_sent_and_none_when_nothing_did() -> None:
    state = {"one": "a", "two": "b"}
    generation, asked = 1, 0

    async def parts() -> tuple[int, dict[str, str]]:
        nonlocal asked
        asked += 1
        return generation, dict(state)

    stop = asyncio.Event()
    stream = changes(parts, lambda: generation, stop, pause_s=0.01, heartbeat_s=60)
    assert await next_event(stream) == b"event: one\ndata: a\n\n"
    assert await next_event(stream) == b"event: two\ndata: b\n\n"
    state["two"], generation = "c", 2
    assert await next_event(stream) == b"event: two\ndata: c\n\n"
    assert asked == 2
    stop.set()
    with pytest.raises(StopAsyncIteration):
        await next_event(stream)


async def test_what_was_read_just_before_a_change_is_read_again() -> None:
    """The answer may be one that somebody else asked for a moment ago."""
    answers = iter([(1, {"one": "old"}), (2, {"one": "new"})])

    async def parts() -> tuple[int, dict[str, str]]:
        return next(answers)

    stop = asyncio.Event()
    stream = changes(parts, lambda: 2, stop, pause_s=0.01, heartbeat_s=60)
    assert await next_event(stream) == b"event: one\ndata: old\n\n"
    assert await next_event(stream) == b"event: one\ndata: new\n\n"
    stop.set()


class Question:
    """Counts how often it is asked; answers as soon as it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self) -> int:
        self.asked += 1
        assert self.go.wait(10)
        return self.asked


async def test_however_many_ask_the_database_is_asked_once() -> None:
    fresh, question = Fresh(lambda: 1), Question()
    question.go.clear()
    waiting = [asyncio.create_task(fresh.get("fleet", question)) for _ in range(20)]
    await asyncio.sleep(0)
    question.go.set()
    assert {(await one).value for one in waiting} == {1}
    assert question.asked == 1


async def test_an_answer_is_read_again_after_a_pause_and_only_where_something_changed() -> None:
    generation, now = 1, 0.0
    fresh, question = Fresh(lambda: generation, pause_s=1, clock=lambda: now), Question()
    assert (await fresh.get("fleet", question)).generation == 1
    generation = 2
    assert (await fresh.get("fleet", question)).generation == 1
    for _ in range(3):
        await asyncio.to_thread(int)  # time for a thread that should not be there
    assert question.asked == 1, "at most once a second"
    now = 1.5
    question.go.clear()
    assert (await fresh.get("fleet", question)).generation == 1, "nobody waits for the next one"
    question.go.set()
    async with asyncio.timeout(10):
        while (await fresh.get("fleet", question)).generation != 2:
            await asyncio.to_thread(int)
    now = 20.0
    await fresh.get("fleet", question)
    assert question.asked == 2, "nothing has changed"
    now = 40.0
    await fresh.get("fleet", question)
    assert question.asked == 3, "time goes by"
    fresh.forget()
    await fresh.get("fleet", question)
    assert question.asked == 4


async def test_an_error_is_told_and_not_kept() -> None:
    fresh = Fresh(lambda: 1)

    def fail() -> int:
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        await fresh.get("fleet", fail)
    assert (await fresh.get("fleet", lambda: 7)).value == 7


async def test_whoever_goes_away_does_not_take_the_answer_from_others() -> None:
    fresh, question = Fresh(lambda: 1), Question()
    question.go.clear()
    impatient = asyncio.create_task(fresh.get("fleet", question))
    patient = asyncio.create_task(fresh.get("fleet", question))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    question.go.set()
    assert (await patient).value == 1


def test_an_address_of_a_static_file_changes_with_its_content(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "a.css").write_text("one")
    (folder / "secret.py").write_text("no")
    first = Statics(folder).url("a.css")
    (folder / "a.css").write_text("two")
    assert Statics(folder).url("a.css") != first
    with pytest.raises(KeyError):
        Statics(folder).url("secret.py")


async def test_a_page_whose_parts_cannot_be_read_any_more_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def parts() -> tuple[int, dict[str, str]]:
        raise OperatorError("data.bad", "database is locked")

    seen = [piece async for piece in changes(parts, lambda: 0, asyncio.Event())]
    assert seen == [b": watching\n\n"]
    assert [record.getMessage() for record in caplog.records] == ["a live page ends: database is locked"]
    assert caplog.records[0].exc_info is None
