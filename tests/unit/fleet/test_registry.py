"""Questions about devices, with pages."""

import msgspec
import pytest
from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.fleet.progress import SeqTrack
from controller.fleet.registry import DeviceRegistry
from schemas.errors import OperatorError
from schemas.messages import Desired, Phase, Progress
from tests.unit.fleet.builders import NOW, an_id, event_in, installed, presence_in, reported_in


@pytest.fixture
def registry(engine: Engine) -> DeviceRegistry:
    fetching = Progress(bytes_done=3, bytes_total=4)
    IntakeStore(engine).take_in(
        [
            presence_in("pi-1", session=3),
            reported_in("pi-1", seq=5, tags={"room": "7"}, packages={"tacho": installed("1.0.0")}),
            event_in("pi-1", 1),
            event_in("pi-1", 2, Phase.FETCHING, progress=fetching),
            event_in("pi-1", 4, Phase.SWITCHED, detail={"wire_bytes": 99}),
            event_in("pi-1", 3, Phase.STAGED),
            reported_in("pi-2", channel="beta", packages={"tacho": installed("1.0.0")}),
            event_in("pi-3"),
        ],
        NOW,
    )
    return DeviceRegistry(engine)


def test_a_device_is_shown_with_all_that_is_known(registry: DeviceRegistry) -> None:
    device = registry.device("pi-1")
    assert (device.online, device.session, device.agent_version) == (True, 3, "1.2.3")
    assert (device.channel, device.tags, device.facts) == ("stable", {"room": "7"}, {"model": "pi4"})
    assert device.packages == {"tacho": installed("1.0.0")}
    assert (device.life, device.seq, device.missing) == (1, 4, 1)
    assert device.update is not None
    assert (device.update.phase, device.update.wire_bytes) == (Phase.SWITCHED, 99)
    assert device.update.progress == Progress(bytes_done=3, bytes_total=4)


def test_what_a_device_was_told_is_shown(engine: Engine, registry: DeviceRegistry) -> None:
    assert (registry.device("pi-1").told_channel, registry.device("pi-1").told_tags) == (None, None)
    told = Desired(rev=0, channel="beta", tags={"site": "bern", "floor": "1"})
    OrderStore(engine).change_desired("pi-1", lambda now: msgspec.structs.replace(told, rev=now.rev), NOW)
    found = registry.device("pi-1")
    assert (found.told_channel, found.told_tags) == ("beta", {"site": "bern", "floor": "1"})


def test_a_device_of_which_only_events_are_known_has_no_report(registry: DeviceRegistry) -> None:
    device = registry.device("pi-3")
    assert (device.channel, device.reported_at, device.packages, device.online) == (None, None, {}, False)


def test_an_unknown_device_is_said_so(registry: DeviceRegistry) -> None:
    with pytest.raises(OperatorError) as caught:
        registry.device("pi-9")
    assert caught.value.code == "device.unknown"


def test_devices_come_in_pages(registry: DeviceRegistry) -> None:
    assert [one.id for one in registry.devices(limit=2)] == ["pi-1", "pi-2"]
    assert [one.id for one in registry.devices(limit=2, after="pi-2")] == ["pi-3"]
    assert [one.id for one in registry.devices(channel="beta")] == ["pi-2"]
    assert [one.id for one in registry.devices(online=True)] == ["pi-1"]


def test_events_come_in_the_order_of_intake_from_either_end(registry: DeviceRegistry) -> None:
    def seqs(**question: int | bool) -> list[int]:
        return [one.event.seq for one in registry.device_events("pi-1", **question)]  # type: ignore[arg-type]  # by name

    assert seqs() == [1, 2, 4, 3]
    assert seqs(limit=2) == [1, 2]
    assert seqs(limit=2, newest=True) == [4, 3]
    second = registry.device_events("pi-1")[1].id
    assert seqs(after=second) == [4, 3]
    assert [one.event.device for one in registry.events_since(second)] == ["pi-1", "pi-1", "pi-3"]
    assert registry.events_since(registry.events_since(second)[-1].id) == []
    assert seqs(after=-(2**70)) == seqs()
    assert seqs(after=2**70) == []
    assert registry.events_since(2**70) == []


def test_what_a_device_does_now_belongs_to_its_present_life(engine: Engine, registry: DeviceRegistry) -> None:
    IntakeStore(engine).take_in([event_in("pi-1", 1, update=an_id(2), version="9.0.0")], NOW)
    device = registry.device("pi-1")
    assert device.update is not None
    assert (device.life, device.update.version) == (2, "9.0.0")


def test_devices_with_gaps_are_found_again_after_a_restart(registry: DeviceRegistry) -> None:
    assert registry.incomplete() == {"pi-1": SeqTrack(5, ((5, 5),))}


def test_statistics(registry: DeviceRegistry) -> None:
    numbers = registry.statistics()
    assert (numbers.devices, numbers.online, numbers.events) == (3, 1, 5)
    assert numbers.channels == {"beta": 1, "stable": 1}
    assert numbers.installed == {"tacho": {"1.0.0": 2}}
