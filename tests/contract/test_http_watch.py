"""The HTTP API's live view, with devices that speak over the real broker."""

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess
from tests.support.fake_device import fake_device
from tests.support.links import until
from tests.support.repository import make_package

pytestmark = [pytest.mark.broker, pytest.mark.wire]

Unique = Callable[[str], str]


@contextmanager
def watching(controller: ControllerProcess, last: int | None = None) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that waits for the next frame of the live view, with `id`, `event` and decoded `data`."""
    connection = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=20)
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    connection.request("GET", "/api/v1/watch", headers=headers)
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"

    def following() -> dict[str, Any]:
        frame: dict[str, Any] = {}
        while True:
            line = answer.readline().decode().rstrip("\n")
            assert line or frame, "the stream ended"
            if not line:
                return frame
            key, _, value = line.partition(":")
            frame[key] = json.loads(value) if key == "data" else value.strip()

    assert following() == {"": "watching"}
    yield following
    connection.close()


async def test_the_live_view_shows_what_happens(
    controller: ControllerProcess, broker: Broker, tmp_path: Path, unique: Unique
) -> None:
    device, channel, name = unique("dev"), unique("ch"), unique("pkg")
    assert controller.push(make_package(tmp_path, name, "1.0.0", {"a": name})).status == 201
    with watching(controller) as following:
        async with fake_device(broker.url, device, topic_root=controller.topic_root, channel=channel) as fake:
            await fake.report()
            wish = {"package": name, "version": "1.0.0", "channel": channel}
            assert controller.send("POST", "/releases", wish).status == 201
            event = await fake.say(Phase.ACCEPTED)
        seen: dict[str, dict[str, Any]] = {}

        def collect() -> bool:
            frame = following()
            if frame["data"].get("device", device) == device:
                seen.setdefault(frame["event"], frame)
            return {"presence", "reported", "rollout", "update"} <= set(seen)

        async with asyncio.timeout(20):
            while not await asyncio.to_thread(collect):
                pass
    assert seen["update"]["data"]["update"] == event.update
    assert seen["presence"]["data"]["online"] is True
    assert seen["reported"]["data"]["channel"] == channel
    assert seen["rollout"]["data"]["package"] == name
    assert int(seen["update"]["id"]) > 0


async def test_a_watcher_that_comes_back_gets_what_it_missed_once(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    device = unique("dev")
    async with fake_device(broker.url, device, topic_root=controller.topic_root) as fake:
        for _ in range(3):
            await fake.say(Phase.FETCHING)
        events = f"/devices/{device}/events"
        await until(lambda: controller.get(f"/devices/{device}").status == 200)
        await until(lambda: len(controller.get(events).json()["items"]) == 3)
        first = controller.get(events).json()["items"][0]["id"]
        with watching(controller, last=first) as following:
            await fake.say(Phase.SUCCEEDED)
            sequence = []
            async with asyncio.timeout(20):
                while 4 not in sequence:
                    frame = await asyncio.to_thread(following)
                    if frame["event"] == "update" and frame["data"]["device"] == device:
                        sequence.append(frame["data"]["seq"])
    assert sequence == [2, 3, 4]


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "9" * 40])
def test_a_place_to_go_on_from_that_is_none_is_a_problem(controller: ControllerProcess, last: str) -> None:
    answer = controller.call("GET", "/api/v1/watch", headers={"Last-Event-ID": last})
    assert "Last-Event-ID" in answer.problem(400, "input.bad")
