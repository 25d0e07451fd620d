"""What failed is not tried again by itself, whatever it is called, and nothing goes on for ever."""

import pytest

from device_agent import failed_releases
from device_agent.lifecycle import MAX_FETCH_RESTARTS, MAX_RESTARTS
from device_agent.updates import Answer, Origin
from schemas.errors import NetworkError
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device, rollout
from tests.unit.agent.releases import Built, build

ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))
WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]


@pytest.fixture
async def bitten(device: Device) -> Device:
    """A device that runs 1.0.0 and has gone back from 1.1.0."""
    await device.update_to(ONE, 1)
    device.probe.sick.add("1.1.0")
    update = await device.update_to(TWO, 2)
    assert update.phase is Phase.ROLLED_BACK
    return device


async def test_the_same_release_in_another_rollout_is_refused_until_somebody_wants_a_retry(bitten: Device) -> None:
    update = await bitten.update_to(TWO, 3)
    assert bitten.story(update.id) == ["accepted", "rejected"]
    assert update.error is not None
    assert update.error.code == "conflict.failed_before"
    assert "(health.http)" in update.error.message
    assert (await bitten.submit(TWO, 3)).answer is Answer.GIVEN_UP
    bitten.probe.sick.clear()
    again = await bitten.manager.retry("tacho")
    assert again is not None
    assert again.update is not None
    await bitten.end_of(again.update)
    assert bitten.story(again.update) == WELL
    bitten.assert_runs(TWO, previous={"tacho": ONE})
    # it is well now, so nothing is held against it any more
    assert bitten.journal.failed_before("tacho", TWO.sha256) is None


async def test_a_pin_without_a_rollout_is_remembered_too(device: Device) -> None:
    await device.update_to(ONE, 1)
    device.probe.sick.add("1.1.0")
    await device.update_to(TWO, 0)
    assert (await device.update_to(TWO, 0)).phase is Phase.REJECTED


async def test_a_newer_release_is_tried(bitten: Device) -> None:
    await bitten.update_to(THREE, 3)
    bitten.assert_runs(THREE, previous={"tacho": ONE})


async def test_it_is_remembered_over_restarts(bitten: Device) -> None:
    await bitten.restart()
    assert (await bitten.update_to(TWO, 3)).phase is Phase.REJECTED


async def test_by_hand_it_may_be_tried_again(bitten: Device) -> None:
    bitten.probe.sick.clear()
    await bitten.update_to(TWO, 0, origin=Origin.FILE)
    bitten.assert_runs(TWO, previous={"tacho": ONE})


async def test_what_says_nothing_about_the_release_is_not_held_against_it(device: Device) -> None:
    device.shelf.fetch_errors += [NetworkError("fetch.not_found", "404")]
    failed = await device.update_to(ONE, 1, retries=0)
    assert failed.phase is Phase.FAILED
    assert device.journal.failed_before("tacho", ONE.sha256) is None
    await device.update_to(ONE, 2)
    device.assert_runs(ONE)


async def test_an_operator_who_wants_it_back_does_not_condemn_it(device: Device) -> None:
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    await device.end_of(await device.manager.rollback("tacho"))
    await device.update_to(TWO, 3)
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_hook_that_fails_before_the_switch_counts(device: Device) -> None:
    await device.update_to(ONE, 1)
    two = build(version="1.1.0", hooks=("pre_switch",))
    device.hooks.failing.add(("pre_switch", "1.1.0"))
    assert (await device.update_to(two, 2)).phase is Phase.FAILED
    assert (await device.update_to(two, 3)).phase is Phase.REJECTED


async def test_the_oldest_failures_are_forgotten_first(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_releases, "MAX_FAILED", 3)
    device.probe.sick |= {f"1.0.{n}" for n in range(5)}
    built = [build(version=f"1.0.{n}") for n in range(5)]
    for number, one in enumerate(built):
        await device.update_to(one, number + 1)
    remembered = [device.journal.failed_before("tacho", one.sha256) is not None for one in built]
    assert remembered == [False, False, True, True, True]


async def cut_and_start(device: Device, point: str, times: int) -> None:
    """The power fails at the point, so often."""
    for number in range(times):
        if number:
            await device.start()
        await device.lose_power()
        device.power.cut_when = lambda where: where == point
    device.power.back()


async def test_an_update_that_keeps_killing_the_device_is_undone_and_not_tried_again(make_device: MakeDevice) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    point = "after start"
    submitted = await begin_with_cuts(device, TWO, point)
    await cut_and_start(device, point, MAX_RESTARTS + 1)
    await device.start()
    ended = await device.end_of(submitted)
    assert ended.phase is Phase.ROLLED_BACK
    assert ended.error is not None
    assert ended.error.code == "interrupted.restarts"
    device.assert_runs(ONE)
    assert (await device.submit(TWO, 2)).answer is Answer.GIVEN_UP
    assert (await device.update_to(TWO, 3)).phase is Phase.REJECTED


async def begin_with_cuts(device: Device, built: Built, point: str) -> str:
    device.power.cut_when = lambda where: where == point
    submitted = await device.submit(built, 2)
    assert submitted.update is not None
    return submitted.update


async def test_fetching_that_keeps_killing_the_device_fails(make_device: MakeDevice) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    submitted = await begin_with_cuts(device, TWO, "before fetch")
    await cut_and_start(device, "before fetch", MAX_FETCH_RESTARTS + 1)
    await device.start()
    ended = await device.end_of(submitted)
    assert (ended.phase, ended.error.code if ended.error else "") == (Phase.FAILED, "interrupted.restarts")
    device.assert_runs(ONE, spare_objects=True)
    assert device.journal.verdict("tacho", rollout(2), "1.1.0") is not None


async def test_going_back_that_keeps_killing_the_device_is_given_up(make_device: MakeDevice) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    device.probe.sick.add("1.1.0")
    submitted = (await device.submit(TWO, 2)).update
    device.power.cut_when = lambda where: where == "before stop tacho" and going_back(device)
    await device.lose_power()
    for _ in range(MAX_RESTARTS):
        device.power.cut_when = lambda where: where == "before stop tacho"
        await device.start()
        await device.lose_power()
    await device.start()
    assert submitted is not None
    ended = await device.end_of(submitted)
    assert ended.phase is Phase.FAILED
    assert ended.error is not None
    assert ended.error.code == "interrupted.restarts"
    assert "6 times while tacho was rolling_back" in ended.error.message
    # the journal says what really is there
    running = device.folders.package("tacho").current.resolve().name
    install = device.journal.installs()["tacho"]
    assert running == device.folders.package("tacho").release(install.current.version, install.current.manifest).name


def going_back(device: Device) -> bool:
    return any(update.phase is Phase.ROLLING_BACK for update in device.journal.unfinished())


async def test_a_rollback_has_its_own_count(make_device: MakeDevice) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    submitted = await begin_with_cuts(device, TWO, "after start")
    await cut_and_start(device, "after start", MAX_RESTARTS + 1)
    device.power.cut_when = lambda where: where == "before stop tacho"
    await device.start()
    await device.lose_power()
    await device.start()
    ended = await device.end_of(submitted)
    assert ended.phase is Phase.ROLLED_BACK
    device.assert_runs(ONE)
