"""Whatever goes wrong after the switch, the release before runs again, whole, and the events say why."""

import errno
from pathlib import Path

import pytest

from device_agent import durability
from schemas.messages import ErrorReport, Phase
from tests.unit.agent.device import Device, rollout
from tests.unit.agent.releases import build

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
UNDONE = ["accepted", "fetching", "staged", "switched", "rolling_back", "rolled_back"]
ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


@pytest.fixture
async def updated(device: Device) -> Device:
    await device.update_to(ONE, 1)
    return device


async def test_an_unhealthy_release(updated: Device) -> None:
    updated.probe.sick.add("1.1.0")
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == UNDONE
    updated.assert_runs(ONE)
    back, last = updated.events()[-2:]
    assert back.error == ErrorReport(code="health.http", message="1.1.0 answered 500", log_tail="last lines of tacho")
    assert last.error == back.error
    assert last.from_version == "1.0.0"
    told = (await updated.manager.installed())["tacho"]
    assert (told.version, told.phase, told.rollout) == ("1.0.0", Phase.SUCCEEDED, rollout(1))


async def test_what_the_application_said_again_and_again_is_told_once(updated: Device) -> None:
    updated.services.said["tacho"] = "starting\n" + 8 * "/health answered 500\n" + "\n\nno disk\n/health answered 500\n"
    updated.probe.sick.add("1.1.0")
    await updated.update_to(TWO, 2)
    error = updated.events()[-1].error
    assert error is not None
    assert error.log_tail == "starting\n/health answered 500 (8 times)\n\nno disk\n/health answered 500\n"


async def test_a_release_that_falls_ill_in_probation(updated: Device) -> None:
    updated.probe.results["1.1.0"] = [True, True, False, False, True, False, False, False]
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == [*WELL[:5], "rolling_back", "rolled_back"]
    assert updated.probe.rounds["1.1.0"] == 8
    updated.assert_runs(ONE)


async def test_a_service_that_keeps_ending(updated: Device) -> None:
    updated.services.broken.add(("tacho", "1.1.0"))
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == UNDONE
    assert update.error is not None
    assert update.error.code == "service.crashed"
    updated.assert_runs(ONE)


async def test_a_service_that_cannot_be_started(updated: Device) -> None:
    updated.services.unstartable.add(("tacho", "1.1.0"))
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == [*WELL[:3], "rolling_back", "rolled_back"]
    updated.assert_runs(ONE)


async def test_a_hook_that_fails_after_the_switch(updated: Device) -> None:
    two = build(version="1.1.0", hooks=("post_switch", "pre_rollback"))
    updated.hooks.failing.add(("post_switch", "1.1.0"))
    update = await updated.update_to(two, 2)
    assert updated.story(update.id) == [*WELL[:3], "rolling_back", "rolled_back"]
    back, last = updated.events()[-2:]
    assert back.error is not None
    assert (back.error.code, back.error.log_tail) == ("hook.failed", "what the hook printed")
    assert last.detail == {"pre_rollback": "pre_rollback was here"}
    updated.assert_runs(ONE)


async def test_hooks_that_fail_on_the_way_back_do_not_stop_it(device: Device) -> None:
    one = build(version="1.0.0", hooks=("post_rollback",))
    two = build(version="1.1.0", hooks=("pre_rollback",))
    await device.update_to(one, 1)
    device.hooks.failing |= {("pre_rollback", "1.1.0"), ("post_rollback", "1.0.0")}
    device.probe.sick.add("1.1.0")
    update = await device.update_to(two, 2)
    assert device.story(update.id) == UNDONE
    detail = device.events()[-1].detail
    assert detail is not None
    assert "pre_rollback ended with 1" in detail["pre_rollback"]
    assert "what the hook printed" in detail["post_rollback"]
    device.assert_runs(one)


async def test_a_first_installation_goes_back_to_nothing(device: Device) -> None:
    device.probe.sick.add("1.0.0")
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == UNDONE
    device.assert_runs()
    assert await device.manager.installed() == {}


async def test_a_release_before_that_is_ill_too_is_the_last_word(updated: Device) -> None:
    updated.probe.sick |= {"1.0.0", "1.1.0"}
    update = await updated.update_to(TWO, 2)
    assert updated.story(update.id) == [*UNDONE[:-1], "failed"]
    assert update.error is not None
    assert update.error.code == "health.rollback"
    assert "1.0.0 answered 500" in update.error.message
    assert "1.1.0 answered 500" in update.error.message
    updated.assert_runs(ONE, spare_objects=True)


async def test_why_it_went_back_is_told_with_its_output_where_going_back_fails_without_any(updated: Device) -> None:
    folders = updated.folders.package("tacho")
    before = folders.release("1.0.0", ONE.sha256)

    def take_it_away(_version: str, _round: int) -> None:
        if before.exists():
            before.rename(updated.root / "taken away")

    updated.probe.sick.add("1.1.0")
    updated.probe.on_check = take_it_away
    await updated.update_to(TWO, 2)
    last = updated.events()[-1]
    assert last.phase is Phase.FAILED
    assert last.error is not None
    assert (last.error.code, last.error.log_tail) == ("health.rollback", "last lines of tacho")
    told = (await updated.manager.installed())["tacho"]
    assert (told.version, told.phase) == ("1.1.0", Phase.FAILED)


async def test_the_release_before_the_one_before_can_still_be_gone_back_to(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    updated.probe.sick.add("1.2.0")
    await updated.update_to(build(version="1.2.0"), 3)
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_release_that_cannot_be_gone_back_to_leaves_the_other_running(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    folders = updated.folders.package("tacho")
    folders.release("1.0.0", ONE.sha256).rename(updated.root / "taken away")
    update = await updated.manager.rollback("tacho")
    ended = await updated.end_of(update)
    assert updated.story(update) == ["accepted", "rolling_back", "failed"]
    assert ended.error is not None
    assert "is gone from" in ended.error.message
    assert folders.current.resolve() == folders.release("1.1.0", TWO.sha256)
    assert updated.services.running["tacho"] == {"web": "1.1.0"}
    assert (await updated.manager.installed())["tacho"].version == "1.1.0"


class TestADiskThatRefusesOnTheWayBack:
    """The way back is the last resort, so it is tried more than once, and what the link leads to runs in any case."""

    @pytest.fixture
    def refusals(self, updated: Device, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """As many refusals as there are in the list; each comes after the link was changed back."""
        left: list[int] = []
        real = durability.flush_folder

        def flush_folder(folder: Path) -> None:
            current = updated.folders.package("tacho").current
            if left and folder == current.parent and "1.0.0" in str(current.readlink()):
                raise OSError(left.pop(), "the disk refuses")
            real(folder)

        monkeypatch.setattr(durability, "flush_folder", flush_folder)
        updated.probe.sick.add("1.1.0")
        return left

    async def test_once(self, updated: Device, refusals: list[int]) -> None:
        refusals += [errno.EIO]
        update = await updated.update_to(TWO, 2)
        assert updated.story(update.id) == UNDONE
        updated.assert_runs(ONE)

    async def test_every_time(self, updated: Device, refusals: list[int]) -> None:
        refusals += [errno.EIO] * 100
        update = await updated.update_to(TWO, 2)
        assert updated.story(update.id) == [*UNDONE[:-1], "failed"]
        assert updated.events()[-1].detail["cause"] == "disk.io"
        updated.assert_runs(ONE, spare_objects=True)
