"""Whole updates: the chain of events, the release that runs afterwards file by file, and what happened on the way."""

from schemas.messages import Phase
from tests.unit.agent.device import Device, rollout
from tests.unit.agent.releases import build

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
UNDONE = ["accepted", "fetching", "staged", "switched", "rolling_back", "rolled_back"]


async def test_a_first_installation_ends_with_the_whole_release_running(device: Device) -> None:
    one = build(version="1.0.0")
    update = await device.update_to(one)
    assert device.story(update.id) == WELL
    device.assert_runs(one)
    assert {event.from_version for event in device.events()} == {None}
    assert (device.folders.package("tacho").state / "data/seed.txt").read_bytes() == b"first content\n"


async def test_an_update_keeps_the_release_before_it_and_only_that(device: Device) -> None:
    one, two, three = (build(version=f"1.{n}.0") for n in range(3))
    await device.update_to(one, 1)
    update = await device.update_to(two, 2)
    assert device.story(update.id) == WELL
    device.assert_runs(two, previous={"tacho": one})
    await device.update_to(three, 3)
    device.assert_runs(three, previous={"tacho": two})
    told = (await device.manager.installed())["tacho"]
    assert (told.version, told.previous, told.phase, told.rollout) == ("1.2.0", "1.1.0", Phase.SUCCEEDED, rollout(3))
