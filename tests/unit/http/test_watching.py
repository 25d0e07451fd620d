"""The live view as a stream of frames."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controller.fleet.feed import (
    ChangeFeed,
    ConnectionChanged,
    DeviceForgotten,
    EventTaken,
    PresenceChanged,
    ReportTaken,
)
from controller.fleet.views import TakenEvent
from controller.http import watching
from controller.http.watching import as_server_sent, server_sent_events
from schemas.errors import OperatorError
from schemas.messages import UpdateEvent
from tests.unit.fleet.builders import event, presence, reported

BOUND_S = 10.0


def none_missed(after: int) -> list[TakenEvent]:
    raise AssertionError(f"nobody asked for what came after {after}")


async def frames(stream: AsyncIterator[bytes], count: int) -> list[bytes]:
    async with asyncio.timeout(BOUND_S):
        return [await anext(stream) for _ in range(count)]


def numbers(sent: list[bytes]) -> list[int]:
    """The sequence numbers of the events in frames."""
    datas = [frame.split(b"data: ", 1)[1] for frame in sent]
    return [msgspec.json.decode(data, type=UpdateEvent).seq for data in datas]


def test_each_change_is_one_frame() -> None:
    frame = as_server_sent(EventTaken(7, event(seq=3)))
    assert frame.startswith(b"id: 7\nevent: update\ndata: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 4
    assert as_server_sent(PresenceChanged(presence())).startswith(b"event: presence\ndata: {")
    assert as_server_sent(ReportTaken(reported())).startswith(b"event: reported\ndata: {")
    assert as_server_sent(DeviceForgotten("pi-1")) == b'event: forgotten\ndata: {"device":"pi-1"}\n\n'
    gone = b'event: connection\ndata: {"connected":false,"error":"refused"}\n\n'
    assert as_server_sent(ConnectionChanged("refused")) == gone
    assert as_server_sent(ConnectionChanged(None)) == gone.replace(b'false,"error":"refused"', b'true,"error":null')


def test_a_line_break_in_a_text_does_not_break_the_frame() -> None:
    frame = as_server_sent(EventTaken(1, event(detail={"output": "a\n\nevent: forged\r\n"})))
    assert frame.count(b"\n") == 4


async def test_changes_are_sent_as_they_come_and_nothing_before() -> None:
    feed = ChangeFeed()
    feed.publish(EventTaken(1, event(seq=1)))
    stream = server_sent_events(feed, none_missed, asyncio.Event())
    assert await frames(stream, 1) == [b": watching\n\n"]
    assert feed.watchers == 1
    for seq in (2, 3):
        feed.publish(EventTaken(seq, event(seq=seq)))
    assert numbers(await frames(stream, 2)) == [2, 3]
    await stream.aclose()  # type: ignore[attr-defined]  # it is an asynchronous generator
    assert feed.watchers == 0


async def test_what_was_missed_comes_first_and_nothing_twice() -> None:
    feed = ChangeFeed()
    stored = [
        TakenEvent(id=number, life=1, received_at=datetime.now(UTC), event=event(seq=number)) for number in range(1, 8)
    ]

    def events_since(after: int) -> list[TakenEvent]:
        return [one for one in stored if one.id > after][:2]

    stream = server_sent_events(feed, events_since, asyncio.Event(), after=2)
    await frames(stream, 1)
    # 6 and 7 are in the database and come through the feed too
    for number in (6, 7, 8):
        feed.publish(EventTaken(number, event(seq=number)))
    assert numbers(await frames(stream, 6)) == [3, 4, 5, 6, 7, 8]


async def test_a_database_that_was_put_back_does_not_silence_who_has_seen_later_ids() -> None:
    feed = ChangeFeed()
    stream = server_sent_events(feed, lambda _after: [], asyncio.Event(), after=5000)
    await frames(stream, 1)
    for number in (4001, 4002):
        feed.publish(EventTaken(number, event(seq=number)))
    assert numbers(await frames(stream, 2)) == [4001, 4002]


async def test_silence_is_broken_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_S", 0.01)
    feed = ChangeFeed()
    stream = server_sent_events(feed, none_missed, asyncio.Event())
    assert (await frames(stream, 3))[1:] == [b": still here\n\n"] * 2
    feed.publish(EventTaken(1, event(seq=1)))
    async with asyncio.timeout(BOUND_S):
        while not (await anext(stream)).startswith(b"id: 1\n"):
            pass


async def test_who_does_not_keep_up_is_told_so_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = ChangeFeed()
    stream = server_sent_events(feed, none_missed, asyncio.Event())
    await frames(stream, 1)
    for number in range(3000):
        feed.publish(EventTaken(number, event(seq=number + 1)))
    async with asyncio.timeout(BOUND_S):
        sent = [frame async for frame in stream]
    assert sent[-1] == b"event: too-slow\ndata: {}\n\n"
    assert len(sent) < 3000


async def test_the_stream_ends_when_the_controller_does() -> None:
    feed, stop = ChangeFeed(), asyncio.Event()
    stream = server_sent_events(feed, none_missed, stop)
    await frames(stream, 1)
    waiting = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    async with asyncio.timeout(BOUND_S):
        assert await waiting is None
    assert feed.watchers == 0


@pytest.mark.parametrize("error", [OperatorError("data.bad", "no database"), PoolTimeout("no database")])
async def test_events_that_cannot_be_read_end_the_stream_in_one_line(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(_: int) -> list[TakenEvent]:
        raise error

    feed = ChangeFeed()
    stream = server_sent_events(feed, gone, asyncio.Event(), after=3)
    async with asyncio.timeout(BOUND_S):
        assert [frame async for frame in stream] == [b": watching\n\n"]
    assert feed.watchers == 0
    assert [record.getMessage() for record in caplog.records] == ["a live view ends: no database"]
