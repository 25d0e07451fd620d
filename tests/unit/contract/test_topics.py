"""Topics are built and parsed by one module; what it builds it also parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_config.render import acl
from schemas.errors import ContractError
from schemas.names import CHANNEL_PATTERN, DEVICE_PATTERN, PACKAGE_PATTERN, RESERVED_DEVICES
from schemas.topics import DEVICE_TOPICS, ControllerTopic, DeviceTopic, ReleaseTopic, Topics

TOPICS = Topics()
channels = st.from_regex(CHANNEL_PATTERN, fullmatch=True)
packages = st.from_regex(PACKAGE_PATTERN, fullmatch=True)
devices = st.from_regex(DEVICE_PATTERN, fullmatch=True).filter(lambda name: name not in RESERVED_DEVICES)


@given(channels, packages)
def test_release_topics_round_trip(channel: str, package: str) -> None:
    assert TOPICS.parse(TOPICS.release(channel, package)) == ReleaseTopic(channel=channel, package=package)


@given(devices, st.sampled_from(DEVICE_TOPICS))
def test_device_topics_round_trip(device: str, kind: str) -> None:
    assert TOPICS.parse(TOPICS.device(device, kind)) == DeviceTopic(device=device, kind=kind)


def test_the_topics_are_those_of_the_contract() -> None:
    assert TOPICS.release("stable", "tacho") == "flotilla/v1/release/stable/tacho"
    assert TOPICS.device("pi-1", "events") == "flotilla/v1/devices/pi-1/events"
    assert TOPICS.every_device("reported") == "flotilla/v1/devices/+/reported"
    assert TOPICS.releases_of("beta") == "flotilla/v1/release/beta/+"
    assert TOPICS.everything() == "flotilla/v1/#"
    assert TOPICS.parse(TOPICS.controller_status()) == ControllerTopic()
    assert Topics(root="plant/7/ota").device("a", "status") == "plant/7/ota/devices/a/status"


@given(st.text())
def test_no_name_can_add_a_level_or_a_wildcard(name: str) -> None:
    try:
        topic = TOPICS.device(name, "events")
    except ContractError as error:
        assert error.code == "message.topic"
        assert "\n" not in str(error)
    else:
        assert topic.count("/") == 4
        assert not set("+#\n") & set(topic)


@pytest.mark.parametrize(
    "topic",
    ["", "flotilla/v1", "flotilla/v1/release/stable", "flotilla/v1/devices/pi-1/else", "flotilla/v1/devices/PI/events",
     "other/devices/pi-1/events", "flotilla/v1/release/stable/tacho/x", "flotilla/v1/controller",
     "flotilla/v1/devices/+/events"],
)  # fmt: skip
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(ContractError, match="not one of the contract"):
        TOPICS.parse(topic)


@pytest.mark.parametrize("name", ["controller", "homeassistant", "watcher"])
def test_users_of_the_broker_that_are_no_devices_have_no_device_topics(name: str) -> None:
    with pytest.raises(ContractError, match=f"'{name}' is reserved"):
        TOPICS.device(name, "events")
    with pytest.raises(ContractError, match="not one of the contract"):
        TOPICS.parse(f"flotilla/v1/devices/{name}/events")


def test_the_reserved_names_are_the_users_that_the_broker_knows() -> None:
    users = [line.split()[1] for line in acl().splitlines() if line.startswith("user ")]
    assert sorted(users) == sorted(RESERVED_DEVICES)


@pytest.mark.parametrize("root", ["", "/", "a//b", "a/+", "a/#", "$SYS", "a.b", "a b"])
def test_roots_that_brokers_would_misread_are_refused(root: str) -> None:
    with pytest.raises(ContractError, match="topic root"):
        Topics(root=root)
