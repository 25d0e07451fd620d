"""Intake's rules without a broker: what the database refuses, and how often a refusal is said."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from datetime import datetime
from typing import cast

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError, OperationalError

from controller.database import reading
from controller.fleet.incoming import EventIn, Incoming, Reader
from controller.fleet.intake import _TURN_S, MAX_BATCH, Intake, gather
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.orders import OrderStore
from controller.fleet.patience import passes, patiently
from controller.fleet.refusals import Refusals
from controller.fleet.tables import events
from schemas.codec import encode
from schemas.errors import ContractError, OperatorError
from schemas.messages import Verb
from schemas.topics import Topics
from tests.unit.fleet.builders import event
from tests.unit.fleet.serving import make_service
from transport import Link, LinkLost, Message


def message(device: str, seq: int) -> Message:
    return Message(
        topic=Topics().device(device, "events"),
        payload=encode(event(device, seq)),
        retain=False,
        qos=1,
        content_type=None,
        expiry_s=None,
        handle=(0, seq),
    )


class Picky(IntakeStore):
    """A database that refuses one event for good."""

    def take_in(self, batch: Sequence[Incoming], now: datetime) -> Outcome:
        if any(isinstance(one, EventIn) and one.event.seq == 2 for one in batch):
            raise IntegrityError("INSERT", {}, Exception("value out of range"))
        return super().take_in(batch, now)


async def test_a_message_that_the_database_refuses_holds_up_no_other(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Outcome] = []
    intake = Intake(Picky(engine), Reader(Topics()), outcomes.append)
    await intake.take_in([message("pi-1", seq) for seq in (1, 2, 3)])
    await asyncio.sleep(0)
    with reading(engine) as connection:
        assert sorted(connection.scalars(select(events.c.seq))) == [1, 3]
    assert intake.refusals.counts == {"internal.error": 1}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "device pi-1: event 2 can't be stored and is left out: value out of range"
    ]
    assert outcomes[-1].tracks["pi-1"].missing == ((2, 2),)


async def test_whatever_happens_to_the_caller_a_commit_is_told(engine: Engine) -> None:
    outcomes: list[Outcome] = []
    taking = asyncio.create_task(
        Intake(IntakeStore(engine), Reader(Topics()), outcomes.append).take_in([message("pi-1", 1)])
    )
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    async with asyncio.timeout(10):
        while not outcomes:  # noqa: ASYNC110 - the thread goes on by itself, and has nothing to wait for
            await asyncio.sleep(0.01)
    assert [one.event.seq for one in outcomes[0].stored] == [1]


async def test_only_what_passes_by_itself_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.fleet.patience._FIRST_WAIT_S", 0.001)
    attempts: list[str] = []

    def locked_twice() -> str:
        attempts.append("locked")
        if len(attempts) < 3:
            raise OperationalError("SELECT", {}, Exception("database is locked"))
        return "done"

    assert await patiently(locked_twice, doing="a test") == "done"
    assert len(attempts) == 3

    def wrong() -> None:
        attempts.append("wrong")
        raise IntegrityError("INSERT", {}, Exception("not unique"))

    with pytest.raises(IntegrityError):
        await patiently(wrong, doing="a test")
    assert attempts.count("wrong") == 1
    assert not passes(IntegrityError("INSERT", {}, Exception()))


async def test_a_database_that_another_process_keeps_locked_is_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("controller.fleet.patience._FIRST_WAIT_S", 0.001)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=1")  # the pool hands out this very connection again
    other = sqlite3.connect(engine.url.database or "", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    orders = OrderStore(engine)
    waiting = asyncio.create_task(patiently(orders.next_session, doing="a test"))
    async with asyncio.timeout(10):
        while "database is locked" not in caplog.text and not waiting.done():  # noqa: ASYNC110 - a log sets no event
            await asyncio.sleep(0.01)
        other.execute("ROLLBACK")
        assert await waiting == 1
    other.close()
    assert "a test has to wait for the database" in caplog.text


async def test_what_is_wrong_with_a_wish_is_not_tried_again(engine: Engine) -> None:
    orders = OrderStore(engine)
    async with asyncio.timeout(10):
        with pytest.raises(OperatorError, match="no device"):
            await patiently(lambda: orders.send_command("nobody", Verb.CHECK), doing="a test")


def test_a_flood_of_bad_messages_is_counted_and_said_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    bad = ContractError("message.json", "UpdateEvent: not JSON")
    for second in range(120):
        for _ in range(10):
            refusals.refuse("flotilla/v1/devices/pi-1/events", bad, float(second))
    for number in range(5000):
        refusals.refuse(f"flotilla/v1/devices/pi-{number}/status", bad, 130.0)
    lines = [record.getMessage() for record in caplog.records]
    assert refusals.counts == {"message.json": 6200}
    assert len(lines) == 2 + 100
    assert lines[0].endswith("[message.json]")
    assert lines[1].endswith("(599 more since the last such line)")


async def test_a_message_of_another_device_than_its_topics_is_refused(engine: Engine) -> None:
    intake = Intake(IntakeStore(engine), Reader(Topics()), lambda _: None)
    wrong = message("pi-1", 1)
    moved = wrong._replace(topic=Topics().device("pi-2", "events"))
    await intake.take_in([moved])
    assert intake.refusals.counts == {"message.topic": 1}
    with reading(engine) as connection:
        assert connection.execute(select(events)).all() == []


class Stream:
    """A link on which a message is there whenever it is looked at, and then no more."""

    def __init__(self, messages: int) -> None:
        self.left = [message("pi-1", seq) for seq in range(1, messages + 1)]
        self.acknowledged: list[int] = []

    async def batch(self, limit: int) -> list[Message]:
        if not self.left:
            await asyncio.Event().wait()
        return self.waiting(limit)

    async def acknowledge_all(self, messages: Sequence[Message]) -> None:
        self.acknowledged.append(len(messages))

    def waiting(self, limit: int) -> list[Message]:
        taken, self.left = self.left[: min(limit, 1)], self.left[min(limit, 1) :]
        return taken


async def test_messages_that_come_nearly_at_once_are_one_batch() -> None:
    async with asyncio.timeout(10):
        together, more = await gather(cast("Link", Stream(2)), [message("pi-1", 9)])
    assert [one.handle for one in together] == [(0, 9), (0, 1), (0, 2)]
    assert not more


async def test_what_comes_is_read_before_the_batch_is_closed() -> None:
    read: list[list[tuple[int, int]]] = []
    async with asyncio.timeout(10):
        together, _ = await gather(
            cast("Link", Stream(2)),
            [message("pi-1", 9)],
            lambda messages: read.append([one.handle for one in messages]),
        )
    assert read == [[(0, 9)], [(0, 1)], [(0, 2)]]
    assert len(together) == 3


async def test_a_batch_waits_from_the_last_message_on_and_not_from_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("controller.fleet.intake.LINGER_S", 5.0)
    monkeypatch.setattr("controller.fleet.intake.LONGEST_S", 600.0)
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("controller.fleet.intake.asyncio.sleep", wait)
    now = time.monotonic()
    old, young = (message("pi-1", seq)._replace(arrived=now - ago) for seq, ago in ((1, 60.0), (2, 1.0)))
    await gather(cast("Link", Stream(0)), [old])
    await gather(cast("Link", Stream(0)), [old, young])
    assert waits[0] == pytest.approx(_TURN_S)
    assert 3.0 < waits[1] <= 4.0


async def test_a_batch_is_bounded_though_messages_go_on_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.fleet.intake.LINGER_S", 0.0)
    monkeypatch.setattr("controller.fleet.intake.LONGEST_S", 600.0)
    stream = Stream(MAX_BATCH + 5)
    async with asyncio.timeout(30):
        messages, more = await gather(cast("Link", stream), stream.waiting(1))
    assert (len(messages), len(stream.left), more) == (MAX_BATCH, 5, True)


async def test_a_batch_does_not_wait_for_ever_though_messages_go_on_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.fleet.intake.LONGEST_S", 0.05)
    stream = Stream(MAX_BATCH)
    async with asyncio.timeout(10):
        messages, more = await gather(cast("Link", stream), stream.waiting(1))
    assert 1 < len(messages) < MAX_BATCH
    assert more


@pytest.mark.parametrize(("messages", "batches"), [(2, [2]), (3, [3]), (5, [3, 2])])
async def test_what_devices_had_to_say_is_at_an_end_when_nothing_more_comes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, messages: int, batches: list[int]
) -> None:
    monkeypatch.setattr("controller.fleet.intake.MAX_BATCH", 3)
    stream, quiet = Stream(messages), asyncio.Event()
    expected: list[bool] = []
    intake = Intake(
        IntakeStore(engine),
        Reader(Topics()),
        lambda _: expected.append(intake.more),
        on_quiet=lambda: None if stream.left else quiet.set(),
    )
    running = asyncio.create_task(intake.run(cast("Link", stream)))
    async with asyncio.timeout(30):
        await quiet.wait()
    assert not intake.more
    assert expected == [number == 3 for number in batches]
    running.cancel()
    await asyncio.wait({running})
    assert sum(stream.acknowledged) in {messages, messages - batches[-1]}


async def test_rollouts_hear_whether_devices_have_more_to_say(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service(engine, "mqtt://127.0.0.1:1", "root", "controller")
    heard: list[bool] = []
    monkeypatch.setattr(service._runner, "touch", lambda *, more, **_: heard.append(more))
    for more in (True, False):
        service._intake.more = more
        service._taken_in(Outcome())
    assert heard == [True, False]


class Breaking(Stream):
    """A link that breaks while a batch waits for more."""

    def waiting(self, limit: int) -> list[Message]:
        if not self.left:
            raise LinkLost("gone")
        return super().waiting(limit)


async def test_what_comes_again_after_the_connection_broke_is_refused_once(engine: Engine) -> None:
    intake = Intake(IntakeStore(engine), Reader(Topics()), lambda _: None)
    bad = message("pi-1", 1)._replace(payload=b"{")
    breaking, sound = Breaking(0), Stream(0)
    breaking.left, sound.left = [bad], [bad]
    with pytest.raises(LinkLost):
        await intake.run(cast("Link", breaking))
    running = asyncio.create_task(intake.run(cast("Link", sound)))
    async with asyncio.timeout(30):
        while not sound.acknowledged:  # noqa: ASYNC110 - the link of a test, which sets no event
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
    assert intake.refusals.counts == {"message.json": 1}
