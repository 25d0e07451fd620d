"""After the switch the broker must be reached, where it was before: the next update must be possible too."""

import pytest

from device_agent.conditions import Conditions
from device_agent.readiness import Rules
from schemas.manifest import Health
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device, until
from tests.unit.agent.releases import build

HEALTH = Health(start_period_s=4, interval_s=1, retries=3, probation_s=10)
ONE, TWO = build(version="1.0.0"), build(version="1.1.0", health=HEALTH)


class Broker:
    """A broker that confirms events as long as the network is whole."""

    def __init__(self) -> None:
        self.connected = True
        self.reached = True


async def installed(make_device: MakeDevice, broker: Broker, limit_s: float = 60) -> Device:
    device = make_device(conditions=Conditions(rules=Rules(reach_broker_s=limit_s), broker=broker))
    await device.start()

    def confirm(version: str, _: int) -> None:
        # the agent's link does this when the broker answers
        if version == "1.0.0" or broker.reached:
            device.journal.mark_sent([event.seq for event in device.journal.unsent()])

    device.probe.on_check = confirm
    await device.update_to(ONE, 1)
    return device


async def test_a_release_with_which_the_broker_is_not_reached_is_left(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    broker.reached = False
    began = device.clock.monotonic()
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.ROLLED_BACK
    assert update.error is not None
    assert update.error.code == "health.broker"
    assert 60 <= device.clock.monotonic() - began < 75
    device.assert_runs(ONE)
    assert device.journal.failed_before("tacho", TWO.sha256) is not None


async def test_one_word_of_the_broker_after_the_switch_is_enough(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.SUCCEEDED
    assert update.probation_done_s == pytest.approx(10, abs=2)


async def test_a_success_waits_for_it_even_if_the_probation_is_shorter(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    broker.reached = False
    back_at = device.clock.monotonic() + 40

    def confirm(version: str, _: int) -> None:
        if version == "1.1.0" and device.clock.monotonic() >= back_at:
            device.journal.mark_sent([event.seq for event in device.journal.unsent()])

    device.probe.on_check = confirm
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.SUCCEEDED
    assert 38 <= update.probation_done_s <= 42


async def test_where_only_its_word_is_waited_for_it_is_looked_for_soon_and_then_less_often(
    make_device: MakeDevice,
) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    at_once = build(version="1.2.0", health=Health(start_period_s=4, interval_s=5, probation_s=0))
    began = device.clock.monotonic()
    assert (await device.update_to(at_once, 2)).phase is Phase.SUCCEEDED
    assert device.clock.monotonic() - began < 2
    broker.reached = False
    rounds: list[str] = []
    device.probe.on_check = lambda version, _: rounds.append(version)
    never = build(version="1.3.0", health=Health(start_period_s=4, interval_s=5, probation_s=0))
    assert (await device.update_to(never, 3)).phase is Phase.ROLLED_BACK
    assert rounds.count("1.3.0") < 40


async def test_what_was_confirmed_before_the_switch_does_not_count(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    broker.reached = False
    sent: list[int] = []

    def confirm_what_is_old(version: str, number: int) -> None:
        if version == "1.1.0" and number == 2:
            old = [e.seq for e in device.events() if e.phase in (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED)]
            device.journal.mark_sent(old)
            sent.extend(old)

    device.probe.on_check = confirm_what_is_old
    update = await device.update_to(TWO, 2)
    assert sent
    assert update.phase is Phase.ROLLED_BACK


async def test_a_broker_that_was_out_of_reach_before_is_nobodys_fault(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    broker.reached = broker.connected = False
    assert (await device.update_to(TWO, 2)).phase is Phase.SUCCEEDED


async def test_zero_seconds_turn_it_off(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker, limit_s=0)
    broker.reached = False
    assert (await device.update_to(TWO, 2)).phase is Phase.SUCCEEDED


async def test_the_time_goes_on_over_restarts(make_device: MakeDevice) -> None:
    broker = Broker()
    device = await installed(make_device, broker)
    broker.reached = False

    still_at = device.clock.monotonic() + 42

    def stand_still(version: str, _: int) -> None:
        if version == "1.1.0" and device.clock.monotonic() >= still_at:
            device.clock.running.clear()

    device.probe.on_check = stand_still
    submitted = await device.submit(TWO, 2)
    await until(lambda: not device.clock.running.is_set())
    await device.stop()
    broker.connected = False  # a fresh process knows nothing of the connection before
    device.probe.on_check = lambda *_: None
    device.clock.running.set()
    rounds = device.probe.rounds["1.1.0"]
    await device.start()
    assert submitted.update is not None
    ended = await device.end_of(submitted.update)
    assert ended.error is not None
    assert ended.error.code == "health.broker"
    assert device.probe.rounds["1.1.0"] - rounds <= 25


async def test_events_that_are_gone_were_confirmed(device: Device) -> None:
    await device.update_to(ONE, 1)
    last = device.journal.last_seq()
    assert not device.journal.is_confirmed_after(last)
    assert not device.journal.is_confirmed_after(1)
    device.journal.forget_through(last)
    assert device.journal.is_confirmed_after(1)
