"""The messages that Home Assistant reads: discovery of each entity, and its state. Pure.

The fields are those that Home Assistant documents for its MQTT integrations `update`, `sensor` and `binary_sensor`;
`tests/vectors/homeassistant.schema.json` has them with their source.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from controller.fleet.views import Device
from controller.homeassistant.offers import PackageState
from controller.version import VERSION
from schemas.errors import OperatorError, one_line
from schemas.messages import Phase
from schemas.topics import DEFAULT_ROOT, Topics

DEFAULT_PREFIX: Final = "homeassistant"
INSTALL: Final = "INSTALL"
MAX_SUMMARY: Final = 255
"""Characters of `release_summary`, and of any state, that Home Assistant takes."""

_ONLINE: Final = "{{ 'online' if value_json.online else 'offline' }}"
_ENTITY: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_BAD: Final = frozenset({Phase.REJECTED, Phase.FAILED, Phase.ROLLED_BACK, Phase.ROLLING_BACK})
_NOTHING: Final = "none"


@dataclass(frozen=True, slots=True)
class EntityTopic:
    """A topic of one of our entities. `kind` is Home Assistant's word for it; `what` `config`, `state` or `install`."""

    kind: str
    device: str
    entity: str
    what: str


class HomeAssistantTopics:
    """Builds and parses the topics under Home Assistant's discovery prefix.

    Args:
        prefix: as it is set in Home Assistant.
        root: Flotilla's own topic root: fleets with different ones share a prefix in peace.

    Raises:
        OperatorError: `input.bad` where the prefix is none, or is below the root.
    """

    def __init__(self, prefix: str, root: str) -> None:
        levels = prefix.split("/")
        if len(prefix) > 200 or not all(
            level and level.isprintable() and not set("+#$ ") & set(level) for level in levels
        ):
            raise OperatorError("input.bad", f"--home-assistant {one_line(prefix)!r} is no topic prefix")
        if f"{prefix}/".startswith(f"{root}/"):
            raise OperatorError("input.bad", f"--home-assistant {prefix!r} is below the contract's own topics")
        mark = "" if root == DEFAULT_ROOT else f"-{hashlib.sha256(root.encode()).hexdigest()[:8]}"
        self._prefix = prefix
        self._node = f"flotilla{mark}_"

    def node(self, device: str) -> str:
        """What Home Assistant calls the device."""
        return f"{self._node}{device}"

    def topic(self, kind: str, device: str, entity: str, what: str) -> str:
        """The topic of an entity."""
        return f"{self._prefix}/{kind}/{self.node(device)}/{entity}/{what}"

    def subscriptions(self) -> list[str]:
        """Buttons that are pressed, and discovery that the broker keeps: it is cleared where it is no longer true."""
        return [f"{self._prefix}/update/+/+/install", f"{self._prefix}/+/+/+/config"]

    def parse(self, topic: str) -> EntityTopic | None:
        """What a topic is about; None where it is not one of ours."""
        below = f"{self._prefix}/"
        levels = topic.removeprefix(below).split("/") if topic.startswith(below) else []
        if len(levels) != 4 or not levels[1].startswith(self._node):
            return None
        kind, node, entity, what = levels
        device = node.removeprefix(self._node)
        if not _ENTITY.fullmatch(device) or not _ENTITY.fullmatch(entity):
            return None
        return EntityTopic(kind, device, entity, what)


def messages_of(
    device: Device,
    packages: list[PackageState],
    *,
    names: HomeAssistantTopics,
    topics: Topics,
    describe: Callable[[str, str], str],
) -> dict[str, bytes]:
    """Topic to retained payload of everything that Home Assistant is told of a device.

    Args:
        device: with its facts and last update.
        packages: what it has and is offered.
        names: topics there.
        topics: topics here, as availability is read from the contract's own.
        describe: package and version to what the release is about.
    """
    made = _Messages(device, names, topics)
    for one in packages:
        _update(made, one, describe)
    _sensors(made)
    return {topic: msgspec.json.encode(value, order="sorted") for topic, value in made.values.items()}


class _Messages:
    """Collects the messages of one device."""

    def __init__(self, device: Device, names: HomeAssistantTopics, topics: Topics) -> None:
        self.device = device
        self.status = topics.device(device.id, "status")
        self.values: dict[str, Mapping[str, Any]] = {}
        self._names = names
        self._controller = topics.controller_status()

    def entity(self, kind: str, entity: str, *, availability: tuple[str, ...], **config: Any) -> None:
        """Discovery of one entity."""
        node = self._names.node(self.device.id)
        about = {
            "identifiers": [node],
            "name": self.device.id,
            "model": self._fact("model"),
            "serial_number": self._fact("serial"),
        }
        if self.device.agent_version:
            about["sw_version"] = f"Flotilla agent {one_line(self.device.agent_version, 100)}"
        available = [{"topic": topic, "value_template": _ONLINE} for topic in availability]
        more = {"availability": available, "availability_mode": "all"} if available else {}
        self.values[self.topic(kind, entity, "config")] = {
            "unique_id": f"{node}_{entity}_{kind}",
            "device": {key: value for key, value in about.items() if value},
            "origin": {"name": "Flotilla", "sw_version": VERSION},
            "qos": 1,
            **more,
            **config,
        }

    def topic(self, kind: str, entity: str, what: str) -> str:
        """A topic of the device's entity."""
        return self._names.topic(kind, self.device.id, entity, what)

    @property
    def both(self) -> tuple[str, ...]:
        """Available while controller and device are online: the device has to be asked through the controller."""
        return (self._controller, self.status)

    @property
    def controller(self) -> tuple[str, ...]:
        """Available while the controller is online, as it knows what the device said last."""
        return (self._controller,)

    def _fact(self, name: str) -> str | None:
        value = self.device.facts.get(name)
        return one_line(value, MAX_SUMMARY) if isinstance(value, str) and value else None


def _update(made: _Messages, one: PackageState, describe: Callable[[str, str], str]) -> None:
    state = made.topic("update", one.package, "state")
    made.entity(
        "update",
        one.package,
        availability=made.both,
        name=one.package,
        state_topic=state,
        command_topic=made.topic("update", one.package, "install"),
        payload_install=INSTALL,
    )
    told: dict[str, Any] = {"title": one.package, "in_progress": one.in_progress, "update_percentage": one.percent}
    for field, version in (("installed_version", one.installed), ("latest_version", one.latest)):
        if version is not None:
            told[field] = one_line(version, MAX_SUMMARY)
    if one.latest is not None:
        told["release_summary"] = one_line(describe(one.package, one.latest), MAX_SUMMARY)
    made.values[state] = told


def _sensors(made: _Messages) -> None:
    made.entity(
        "binary_sensor",
        "online",
        availability=(),
        name="Online",
        device_class="connectivity",
        entity_category="diagnostic",
        state_topic=made.status,
        value_template="{{ 'ON' if value_json.online else 'OFF' }}",
        payload_on="ON",
        payload_off="OFF",
    )
    update, facts = made.device.update, made.device.facts
    problem = update if update is not None and update.error is not None and update.phase in _BAD else None
    state = made.topic("sensor", "problem", "state")
    made.entity(
        "sensor",
        "problem",
        availability=made.controller,
        name="Last update problem",
        icon="mdi:package-variant-remove",
        entity_category="diagnostic",
        state_topic=state,
        value_template="{{ value_json.code }}",
        json_attributes_topic=state,
    )
    made.values[state] = {"code": _NOTHING}
    if problem is not None and problem.error is not None:
        told = {"code": problem.error.code, "message": one_line(problem.error.message), "phase": problem.phase.value}
        made.values[state] = {**told, "package": problem.package, "version": one_line(problem.version, MAX_SUMMARY)}
    for fact, name, device_class, unit in (
        ("temperature_c", "Temperature", "temperature", "°C"),
        ("disk_free", "Free disk space", "data_size", "B"),
    ):
        value = facts.get(fact)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        entity = fact.replace("_", "-")
        state = made.topic("sensor", entity, "state")
        made.entity(
            "sensor",
            entity,
            availability=(made.status,),
            name=name,
            device_class=device_class,
            unit_of_measurement=unit,
            state_class="measurement",
            entity_category="diagnostic",
            state_topic=state,
            value_template="{{ value_json.value }}",
        )
        made.values[state] = {"value": value}
