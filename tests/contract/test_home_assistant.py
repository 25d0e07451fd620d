"""The bridge to Home Assistant in a real controller, on a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas.messages import Phase, Verb
from tests.support.broker import Broker
from tests.support.command import flotilla
from tests.support.controller import controller_process
from tests.support.fake_device import fake_device
from tests.support.links import BOUND_S, settings
from tests.support.repository import make_package
from tests.unit.fleet.builders import installed
from transport import Link, connect

pytestmark = pytest.mark.broker

SCHEMA = json.loads((Path(__file__).parents[1] / "vectors" / "homeassistant.schema.json").read_text())


class HomeAssistant:
    """What it would know: the retained messages below its prefix, each checked against its documentation."""

    def __init__(self, link: Link, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._heard = asyncio.Condition()
        self.known: dict[str, dict[str, Any]] = {}

    async def listen(self) -> None:
        async for message in self._link.messages():
            kind, _node, _entity, what = message.topic.removeprefix(f"{self._prefix}/").split("/")
            async with self._heard:
                if message.payload and what != "install":
                    self.known[message.topic] = value = json.loads(message.payload)
                    rule = kind if what == "config" else "update_state" if kind == "update" else None
                    if rule is not None:
                        jsonschema.validate(value, {"$ref": f"#/$defs/{rule}", "$defs": SCHEMA["$defs"]})
                else:
                    self.known.pop(message.topic, None)
                self._heard.notify_all()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND_S), self._heard:
            await self._heard.wait_for(condition)

    async def press(self, topic: str) -> None:
        await self._link.publish(topic, b"INSTALL", content_type=None)


@asynccontextmanager
async def home_assistant(broker_url: str, prefix: str) -> AsyncIterator[HomeAssistant]:
    async with connect(settings(broker_url, f"ha-{prefix.replace('/', '-')}", clean_start=True)) as link:
        made = HomeAssistant(link, prefix)
        await link.subscribe([f"{prefix}/#"])
        listening = asyncio.create_task(made.listen())
        try:
            yield made
        finally:
            listening.cancel()
            ended = (await asyncio.gather(listening, return_exceptions=True))[0]
            if not isinstance(ended, asyncio.CancelledError) and ended is not None:
                raise ended


async def test_a_fleet_appears_is_updated_by_a_button_and_disappears(
    broker: Broker, tmp_path: Path, topic_root: str, unique: Callable[[str], str]
) -> None:
    prefix = f"{unique('ha')}/discovery"
    arguments = ("--home-assistant", prefix)
    with controller_process(tmp_path / "data", broker.url, topic_root=topic_root, arguments=arguments) as controller:
        for version in ("1.0.0", "2.0.0"):
            assert controller.push(make_package(tmp_path, "tacho", version, {"a": version})).status == 201
        async with (
            home_assistant(broker.url, prefix) as home,
            fake_device(broker.url, "pi-1", topic_root=topic_root) as device,
        ):
            await device.report(packages={"tacho": installed("1.0.0")}, facts={"temperature_c": 50, "disk_free": 10})
            await home.until(lambda: len([topic for topic in home.known if topic.endswith("/config")]) == 5)
            (config,) = (topic for topic in home.known if "/update/" in topic and topic.endswith("/config"))
            state, install = home.known[config]["state_topic"], home.known[config]["command_topic"]
            assert home.known[config]["availability"][1]["topic"] == f"{topic_root}/devices/pi-1/status"
            controller.send("POST", "/releases", {"package": "tacho", "version": "2.0.0", "channel": "stable"})
            announced = await device.announcement("2.0.0")
            await home.until(lambda: home.known[state]["latest_version"] == "2.0.0")
            await device.update(announced, Phase.ACCEPTED, Phase.FAILED)
            await home.until(lambda: any(one.get("code") == "health.http" for one in home.known.values()))
            await home.press(install)
            await device.until(lambda: device.commands)
            assert (device.commands[-1].verb, device.commands[-1].args) == (Verb.RETRY, {"package": "tacho"})
            await device.report(packages={"tacho": installed("2.0.0")})
            await home.until(lambda: home.known[state]["installed_version"] == "2.0.0")
            await device.clear_report()
            await home.until(lambda: not home.known)


def test_a_prefix_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    told = flotilla("serve", "--data", str(tmp_path / "data"), "--home-assistant", "home/#").complaint()
    assert "--home-assistant 'home/#' is no topic prefix" in told
