"""The broker of its own that the controller keeps running: when it is started again, and when no more."""

import asyncio
import logging
import time

import pytest

from broker_config import BrokerFailed
from controller.embedded_broker import EmbeddedBroker, next_wait_s
from tests.support.links import until


class Process:
    """A broker that ends when a test says so, and that starts as often as the test allows."""

    url = "mqtt://127.0.0.1:1"

    def __init__(self, starts: int = 100) -> None:
        self.pid: int | None = None
        self.ended_with: int | None = None
        self.begun = 0
        self.stopped = False
        self._starts = starts

    def start(self) -> None:
        if self.begun >= self._starts:
            raise BrokerFailed("broker address 127.0.0.1:1: Address already in use")
        self.begun += 1
        self.pid, self.ended_with = 4711, None

    def stop(self) -> None:
        self.pid, self.stopped = None, True

    def die(self, status: int) -> None:
        self.pid, self.ended_with = None, status


@pytest.mark.parametrize(
    ("before_s", "lived_s", "wait_s"),
    [(0, 0, 1), (0, 5, 1), (1, 5, 2), (2, 59, 4), (32, 0, 60), (60, 0, 60), (60, 60, 1), (2, 3600, 1)],
)
def test_the_wait_doubles_up_to_a_minute_until_it_lived_for_one(before_s: float, lived_s: float, wait_s: float) -> None:
    assert next_wait_s(before_s, lived_s) == wait_s


async def test_a_broker_that_dies_is_told_of_in_one_line_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    process, stop = Process(), asyncio.Event()
    broker = EmbeddedBroker(process, look_every_s=0.01)
    broker.start()
    with caplog.at_level(logging.INFO):
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.watch(stop))
            process.die(-9)
            await until(lambda: process.begun == 2)
            stop.set()
    assert [record.getMessage() for record in caplog.records] == [
        "the embedded broker was ended by signal 9; it is started again in 1 s",
        "embedded broker at mqtt://127.0.0.1:1 again",
    ]


async def test_one_that_does_not_start_is_tried_again_later_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    process, stop = Process(starts=1), asyncio.Event()
    broker = EmbeddedBroker(process, look_every_s=0.01)
    broker.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.watch(stop))
        process.die(1)
        await until(lambda: len(caplog.records) == 2)
        asked_at = time.monotonic()
        stop.set()
    assert time.monotonic() - asked_at < 2.0, "the end was not waited for, a pause of 2 s was"
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "the embedded broker has ended with status 1; it is started again in 1 s"
    assert second.startswith("the embedded broker does not start: broker address 127.0.0.1:1: Address already in use;")
    assert second.endswith("it is started again in 2 s")


def test_one_that_was_stopped_for_good_is_not_started_by_a_thread_that_comes_late() -> None:
    process = Process()
    broker = EmbeddedBroker(process)
    broker.start()
    broker.stop()
    broker.start()
    assert process.stopped
    assert process.begun == 1
