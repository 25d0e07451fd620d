"""What really goes over the broker is what docs/contract/asyncapi.json says: topics, retention, payloads."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import controller_process
from tests.support.fake_device import fake_device
from tests.support.links import BOUND_S, settings
from tests.support.repository import make_package
from transport import connect

pytestmark = pytest.mark.broker

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "contract" / "asyncapi.json").read_text())


def described(topic: str, root: str) -> tuple[str, dict[str, Any]]:
    """Name and description of the channel that a topic under `root` is one of."""
    plain = topic.replace(root, "flotilla/v1", 1)
    for name, channel in DOCUMENT["channels"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", channel["address"]), plain):
            return name, channel
    raise AssertionError(f"{topic} is not described")


def payload_schema(channel: dict[str, Any]) -> dict[str, Any]:
    (message,) = channel["messages"].values()
    payload = DOCUMENT["components"]["messages"][message["$ref"].rpartition("/")[2]]["payload"]
    return {**payload, "components": DOCUMENT["components"]}


async def test_whatever_goes_over_the_broker_is_described(broker: Broker, tmp_path: Path, topic_root: str) -> None:
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root) as controller:
        assert controller.push(make_package(tmp_path, "tacho", "1.0.0", {"a": "a"})).status == 201
        async with (
            connect(settings(broker.url, "watcher", clean_start=True)) as link,
            fake_device(broker.url, "pi-1", topic_root=topic_root) as device,
        ):
            await link.subscribe([f"{topic_root}/#"])
            await device.report()
            controller.until(lambda: controller.get("/devices/pi-1").status == 200)
            controller.send("PUT", "/devices/pi-1/desired", {"hold": False})
            controller.send("POST", "/devices/pi-1/commands", {"verb": "report"})
            controller.send("POST", "/releases", {"package": "tacho", "version": "1.0.0", "channel": "stable"})
            announced = await device.announcement("1.0.0")
            await device.update(announced, Phase.ACCEPTED, Phase.SUCCEEDED)
            await device.until(lambda: device.commands and device.desired)
            seen: set[str] = set()
            async with asyncio.timeout(BOUND_S):
                while seen != DOCUMENT["channels"].keys():
                    for message in await link.batch(100):
                        name, channel = described(message.topic, topic_root)
                        seen.add(name)
                        jsonschema.validate(json.loads(message.payload), payload_schema(channel))
                        assert message.content_type == DOCUMENT["defaultContentType"]
        async with connect(settings(broker.url, "latecomer", clean_start=True)) as link:
            await link.subscribe([f"{topic_root}/#"])
            kept = {op["channel"]["$ref"].rpartition("/")[2] for op in DOCUMENT["operations"].values() if _keeps(op)}
            found: set[str] = set()
            async with asyncio.timeout(BOUND_S):
                while found != kept:
                    found |= {described(one.topic, topic_root)[0] for one in await link.batch(100) if one.retain}
                    assert found <= kept


def _keeps(operation: dict[str, Any]) -> bool:
    keeps: bool = operation["bindings"]["mqtt"]["retain"]
    return keeps
