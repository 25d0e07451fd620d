"""What the bridge publishes, clears and passes on; with Home Assistant's documented fields as the measure."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sqlalchemy import Engine

from controller.fleet.forgetting import forget
from controller.fleet.incoming import ClearedIn
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.fleet.registry import DeviceRegistry
from controller.fleet.service import FleetService
from controller.fleet.views import SentCommand
from controller.homeassistant import bridge
from controller.homeassistant.bridge import HomeAssistantBridge
from controller.homeassistant.entities import EntityTopic, HomeAssistantTopics, messages_of
from controller.homeassistant.offers import PackageState
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.store import RolloutStore
from schemas.errors import OperatorError
from schemas.messages import ErrorReport, Phase, Verb
from schemas.topics import Topics
from tests.support.links import until
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in
from tests.unit.homeassistant.test_offers import device, update
from transport import LinkSettings, Message

SCHEMA = json.loads((Path(__file__).parents[2] / "vectors" / "homeassistant.schema.json").read_text())
NAMES = HomeAssistantTopics("homeassistant", "flotilla/v1")
CONFIG = "homeassistant/update/flotilla_pi-1/tacho/config"
STATE = "homeassistant/update/flotilla_pi-1/tacho/state"
INSTALL = "homeassistant/update/flotilla_pi-1/tacho/install"


def check(topic: str, payload: bytes) -> dict[str, Any]:
    """The payload, after Home Assistant's rules were applied to it."""
    value: dict[str, Any] = json.loads(payload)
    found = NAMES.parse(topic)
    assert found is not None, topic
    kind = found.kind if found.what == "config" else "update_state" if found.kind == "update" else None
    if kind is not None:
        jsonschema.validate(value, {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
    return value


def told(there: Any, *packages: PackageState, text: str = "what is new") -> dict[str, dict[str, Any]]:
    made = messages_of(there, list(packages), names=NAMES, topics=Topics(), describe=lambda _package, _version: text)
    return {topic: check(topic, payload) for topic, payload in made.items()}


TACHO = PackageState(package="tacho", installed="1.0.0", latest="2.0.0", in_progress=True, percent=42)


def test_each_package_is_an_update_entity_of_its_device() -> None:
    made = told(device(facts={"model": "Raspberry Pi 5", "serial": "abc"}), TACHO)
    config, state = made[CONFIG], made[STATE]
    assert state == {
        "title": "tacho",
        "installed_version": "1.0.0",
        "latest_version": "2.0.0",
        "in_progress": True,
        "update_percentage": 42,
        "release_summary": "what is new",
    }
    assert (config["state_topic"], config["command_topic"], config["payload_install"]) == (STATE, INSTALL, "INSTALL")
    assert (config["device"]["model"], config["device"]["serial_number"]) == ("Raspberry Pi 5", "abc")
    assert [one["topic"] for one in config["availability"]] == [
        "flotilla/v1/controller/status",
        "flotilla/v1/devices/pi-1/status",
    ]
    assert len({one["unique_id"] for topic, one in made.items() if topic.endswith("/config")}) == 3


def test_health_is_shown_as_sensors_of_what_the_device_reports() -> None:
    facts = {"temperature_c": 61, "disk_free": 12_000_000_000}
    failed = update(Phase.ROLLED_BACK, error=ErrorReport(code="health.http", message="no answer"))
    made = told(device(facts=facts, update=failed))
    node = "flotilla_pi-1"
    assert made[f"homeassistant/binary_sensor/{node}/online/config"]["state_topic"] == "flotilla/v1/devices/pi-1/status"
    assert made[f"homeassistant/sensor/{node}/temperature-c/state"] == {"value": 61}
    assert made[f"homeassistant/sensor/{node}/disk-free/state"] == {"value": 12_000_000_000}
    assert made[f"homeassistant/sensor/{node}/problem/state"] == {
        "code": "health.http",
        "message": "no answer",
        "phase": "rolled_back",
        "package": "tacho",
        "version": "2.0.0",
    }


def test_without_a_problem_or_a_sensor_none_is_made_up() -> None:
    made = told(device(facts={"temperature_c": True, "disk_free": "much"}, update=update(Phase.SUCCEEDED)))
    assert not any("temperature" in topic or "disk" in topic for topic in made)
    assert made["homeassistant/sensor/flotilla_pi-1/problem/state"] == {"code": "none"}


def test_what_devices_and_publishers_write_stays_within_home_assistant_s_bounds() -> None:
    wild = "\x1b[31m\n" + "x" * 5000
    there = device(agent_version=wild, facts={"model": wild, "serial": wild})
    made = told(
        there, PackageState(package="tacho", installed=wild, latest=wild, in_progress=False, percent=None), text=wild
    )
    assert len(made[STATE]["release_summary"]) == 255
    assert "\n" not in json.dumps(made, ensure_ascii=False)


def test_topics_are_built_and_parsed_in_one_place_and_fleets_share_a_prefix_in_peace() -> None:
    other = HomeAssistantTopics("homeassistant", "another/v1")
    assert NAMES.parse(CONFIG) == EntityTopic("update", "pi-1", "tacho", "config")
    theirs = other.topic("update", "pi-1", "tacho", "config")
    assert other.parse(theirs) == NAMES.parse(CONFIG)
    assert NAMES.parse(theirs) is None
    assert other.parse(CONFIG) is None
    for stranger in ("homeassistant/update/zigbee_1/x/config", "homeassistant/status", "flotilla/v1/x", CONFIG + "/x"):
        assert NAMES.parse(stranger) is None


@pytest.mark.parametrize("prefix", ["", "a//b", "home/#", "+", "a b", "$SYS", "x" * 201])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(OperatorError, match="no topic prefix"):
        HomeAssistantTopics(prefix, "flotilla/v1")


class Broker:
    """Keeps what is retained, as far as the bridge can tell; a link to it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.published: list[str] = []

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool, expiry_s: int | None, timeout_s: float
    ) -> None:
        assert retain
        assert expiry_s is None
        assert timeout_s > 10  # it answers behind all that it has to send
        self.published.append(topic)
        if payload:
            self.kept[topic] = payload
        else:
            self.kept.pop(topic, None)


def message(topic: str, payload: bytes, *, retain: bool = False) -> Message:
    return Message(topic=topic, payload=payload, retain=retain, qos=1, content_type=None, expiry_s=None, handle=(0, 1))


class Scene:
    """A bridge on a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = IntakeStore(engine)
        self.orders = OrderStore(engine)
        self.broker = Broker()
        self.bridge = HomeAssistantBridge(
            NAMES,
            Topics(),
            registry=DeviceRegistry(engine),
            announcements=AnnouncementStore(engine),
            orders=self.orders,
            describe=lambda package, version: f"{package} {version} is better",
            send=self._send,
        )

    def _send(self, device: str, verb: Verb, args: dict[str, Any], *, expires_in: timedelta) -> SentCommand:
        return self.orders.send_command(device, verb, args, expires_in=expires_in)

    def take_in(self, *batch: Any) -> None:
        self.bridge.taken_in(self.store.take_in(batch, NOW))

    def release(self, version: str) -> None:
        made = RolloutStore(self.engine).create(
            package="tacho", version=version, channel="stable", repository=["http://x"], now=NOW
        )
        self.bridge.rollout_changed(made)

    def state(self) -> dict[str, Any]:
        return check(STATE, self.broker.kept[STATE]) if STATE in self.broker.kept else {}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.bridge.run(self.broker))  # type: ignore[arg-type]  # all that it calls is there
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def scene(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(bridge, "LINGER_S", 0.01)
    made = Scene(engine)
    made.take_in(presence_in("pi-1"), reported_in("pi-1", packages={"tacho": installed("1.0.0")}))
    return made


async def seen(condition: Callable[[], object]) -> None:
    await until(condition)


async def test_a_release_and_how_far_it_is_are_shown_as_they_come(scene: Scene) -> None:
    async with scene.connected():
        await seen(lambda: scene.state().get("latest_version") == "1.0.0")
        scene.release("2.0.0")
        await seen(lambda: scene.state().get("latest_version") == "2.0.0")
        assert scene.state()["release_summary"] == "tacho 2.0.0 is better"
        scene.take_in(event_in("pi-1", 1, Phase.FETCHING))
        await seen(lambda: scene.state()["in_progress"])
        scene.take_in(event_in("pi-1", 2, Phase.SUCCEEDED))
        scene.take_in(reported_in("pi-1", 2, packages={"tacho": installed("2.0.0")}))
        await seen(lambda: not scene.state()["in_progress"] and scene.state()["installed_version"] == "2.0.0")


async def test_what_has_not_changed_is_not_said_again_until_the_next_connection(scene: Scene) -> None:
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        await seen(scene.state)
        scene.broker.published.clear()
        scene.take_in(reported_in("pi-1", packages={"tacho": installed("1.5.0")}))
        await seen(lambda: scene.state().get("installed_version") == "1.5.0")
        assert scene.broker.published == [STATE]
    scene.broker.kept.clear()
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)


async def test_what_goes_is_cleared(scene: Scene) -> None:
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        scene.take_in(reported_in("pi-1", packages={}))
        await seen(lambda: CONFIG not in scene.broker.kept and STATE not in scene.broker.kept)
        assert any("problem" in topic for topic in scene.broker.kept)
        scene.take_in(ClearedIn("pi-1", "reported"))
        await seen(lambda: not scene.broker.kept)


async def test_a_device_that_was_forgotten_is_cleared(scene: Scene) -> None:
    scene.take_in(presence_in("pi-1", online=False, session=2))
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        forget(scene.engine, "pi-1", NOW)
        scene.bridge.forgotten("pi-1")
        await seen(lambda: not scene.broker.kept)
        scene.take_in(presence_in("pi-2"), reported_in("pi-2", packages={"tacho": installed("1.0.0")}))
        await seen(lambda: CONFIG.replace("pi-1", "pi-2") in scene.broker.kept)


async def test_what_went_while_the_controller_was_away_is_cleared_when_it_is_heard(scene: Scene) -> None:
    ours = "homeassistant/update/flotilla_gone/tacho/config"
    foreign = "homeassistant/update/zigbee/x/config"
    scene.broker.kept |= {ours: b"{}", ours.replace("config", "state"): b"{}", foreign: b"{}"}
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        for topic in (ours, foreign, CONFIG):
            scene.bridge.hear(message(topic, b"{}", retain=True))
        await seen(lambda: ours not in scene.broker.kept)
    assert {foreign, CONFIG} <= scene.broker.kept.keys()
    assert ours.replace("config", "state") not in scene.broker.kept


async def test_a_press_asks_the_device_to_try_now(scene: Scene) -> None:
    scene.release("2.0.0")
    async with scene.connected():
        scene.bridge.hear(message(INSTALL, b"INSTALL"))
        await seen(lambda: scene.orders.commands("pi-1"))
    (command,) = scene.orders.commands("pi-1")
    assert (command.verb, command.args) == (Verb.RETRY, {"package": "tacho"})
    assert command.expires_at - command.created_at == bridge.EXPIRY


async def test_a_press_that_may_do_nothing_does_nothing_and_says_why(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        scene.bridge.hear(message(INSTALL, b"INSTALL"))
        await seen(lambda: "nothing is offered" in caplog.text)
        scene.bridge.hear(message(INSTALL.replace("pi-1", "pi-9"), b"INSTALL"))
        await seen(lambda: "no device pi-9" in caplog.text)
        scene.release("2.0.0")
        scene.take_in(event_in("pi-1", 1, Phase.FETCHING))
        await seen(lambda: scene.state().get("in_progress"))
        scene.bridge.hear(message(INSTALL, b"INSTALL"))
        await seen(lambda: "under way" in caplog.text)
    assert scene.orders.commands("pi-1") == []


async def test_a_press_that_the_broker_kept_or_that_says_something_else_is_none(scene: Scene) -> None:
    scene.release("2.0.0")
    async with scene.connected():
        await seen(lambda: CONFIG in scene.broker.kept)
        scene.bridge.hear(message(INSTALL, b"INSTALL", retain=True))
        scene.bridge.hear(message(INSTALL, b"install everything"))
        scene.bridge.hear(message(INSTALL, b"INSTALL"))
        await seen(lambda: scene.orders.commands("pi-1"))
    assert len(scene.orders.commands("pi-1")) == 1


def test_a_prefix_below_the_contract_s_topics_is_refused() -> None:
    for prefix in ("flotilla/v1", "flotilla/v1/home"):
        with pytest.raises(OperatorError, match="below the contract"):
            HomeAssistantTopics(prefix, "flotilla/v1")
    HomeAssistantTopics("flotilla", "flotilla/v1")


async def test_the_contract_s_messages_reach_the_intake_though_its_root_is_below_the_prefix(engine: Engine) -> None:
    """And what a subscription of an earlier start still brings is neither taken in nor refused."""
    settings = LinkSettings(url="mqtt://127.0.0.1:1", client_id="x")
    service = FleetService(engine, settings, Topics("homeassistant/v1"), version="1")
    heard: list[str] = []
    made = Scene(engine).bridge
    made.hear = lambda one: heard.append(one.topic)  # type: ignore[method-assign]  # only listened to
    service.accompany(made)
    assert not service._aside(message("homeassistant/v1/devices/pi-1/events", b"{}"))
    assert service._aside(message(INSTALL, b"INSTALL"))
    assert service._aside(message("old-prefix/update/x/y/install", b"INSTALL"))
    assert heard == [INSTALL, "old-prefix/update/x/y/install"]
