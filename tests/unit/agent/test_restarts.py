"""A power cut at any point: after the restart the device ends on a whole release, and the story has one end."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_agent.lifecycle import MAX_RESTARTS
from schemas.manifest import Health
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import LIMIT_S, Device, rollout
from tests.unit.agent.fakes import Power
from tests.unit.agent.releases import Built, build

HOOKS = ("pre_switch", "post_switch", "pre_rollback", "post_rollback")
ZERO = build(version="0.9.0")
ONE = build(version="1.0.0", hooks=HOOKS, services=("web", "old"))
TWO = build(version="1.1.0", hooks=HOOKS, services=("web", "new"))
WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]

DISK_CALLS = ("rename", "replace", "link", "symlink", "mkdir", "unlink", "rmdir", "chmod", "utime")


@contextmanager
def fragile_disk(power: Power) -> Iterator[None]:
    """Every call that changes a folder is a point at which the power may fail, just before and just after it."""
    real = {name: getattr(os, name) for name in DISK_CALLS}

    def fragile(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            power.point(f"before {name} {args[0]}")
            result = act(*args, **more)
            power.point(f"after {name} {args[0]}")
            return result

        return call

    try:
        for name, act in real.items():
            setattr(os, name, fragile(name, act))
        yield
    finally:
        for name, act in real.items():
            setattr(os, name, act)


async def installed_device(make_device: MakeDevice, name: str) -> Device:
    device = await make_device(name).start()
    await device.update_to(ZERO, 9)
    await device.update_to(ONE, 1)
    return device


async def copied_device(make_device: MakeDevice, original: Device, name: str) -> Device:
    """Another device with the same disk: quicker than installing again."""
    device = make_device(name)
    copy_disk(original.root, device.root)
    return await device.start()


def copy_disk(source: Path, destination: Path) -> None:
    # cp keeps hard links what they are, shutil does not
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True, timeout=30)


async def go_on_after_cut(device: Device, submitted: str | None, wanted: Built) -> None:
    """Restart, and where the wish had not been written down yet, hear it again."""
    await device.start()
    if not device.journal.history("tacho") or device.journal.history("tacho")[0].version != wanted.version:
        submitted = (await device.submit(wanted, 2)).update
    last = submitted or device.journal.history("tacho")[0].id
    await device.end_of(last)


async def cut(device: Device, wanted: Built) -> str:
    """Update until the power fails; gives the point."""
    try:
        await device.submit(wanted, 2)
    except BaseException as error:
        if type(error).__name__ != "PowerCutError":
            raise
        await device.stop()
        device.services.running.clear()
        device.power.back()
        return str(error)
    return await device.lose_power()


async def points_of(make_device: MakeDevice, *, sick: bool, disk: bool) -> list[str]:
    """The points that an update goes through when nothing happens."""
    device = await installed_device(make_device, "undisturbed")
    await device.restart()
    device.power.points.clear()
    if sick:
        device.probe.sick.add("1.1.0")
    if disk:
        with fragile_disk(device.power):
            await device.update_to(TWO, 2)
    else:
        await device.update_to(TWO, 2)
    return list(device.power.points)


@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
@pytest.mark.timeout(300)
async def test_a_power_cut_at_any_call_to_a_seam(make_device: MakeDevice, sick: bool) -> None:
    points = await points_of(make_device, sick=sick, disk=False)
    assert len(points) > 50
    original = await installed_device(make_device, "original")
    await original.stop()
    for number in range(1, len(points) + 1):
        device = await copied_device(make_device, original, f"cut-{number}")
        if sick:
            device.probe.sick.add("1.1.0")
        device.power.points.clear()
        device.power.cut_at = number
        where = await cut(device, TWO)
        await go_on_after_cut(device, None, TWO)
        assert_ended_well(device, sick, where)
        await device.stop()


@pytest.mark.parametrize("sick", [False, True], ids=["healthy", "sick"])
@pytest.mark.timeout(600)
@pytest.mark.long(44)
async def test_a_power_cut_at_any_change_of_the_disk(make_device: MakeDevice, sick: bool) -> None:
    points = await points_of(make_device, sick=sick, disk=True)
    numbers = [n for n, point in enumerate(points, 1) if point.split()[1] in DISK_CALLS]
    assert len(numbers) > 100
    original = await installed_device(make_device, "original")
    await original.stop()
    for number in numbers:
        device = await copied_device(make_device, original, f"cut-{number}")
        if sick:
            device.probe.sick.add("1.1.0")
        device.power.points.clear()
        device.power.cut_at = number
        with fragile_disk(device.power):
            where = await cut(device, TWO)
        await go_on_after_cut(device, None, TWO)
        assert_ended_well(device, sick, where)
        await device.stop()


def assert_ended_well(device: Device, sick: bool, where: str) -> None:
    if sick:
        device.assert_runs(ONE, previous={"tacho": ZERO})
        assert device.story()[-1] == "tacho 1.1.0 rolled_back", where
    else:
        device.assert_runs(TWO, previous={"tacho": ONE})
        assert [phase for phase in device.story() if "1.1.0" in phase] == [f"tacho 1.1.0 {p}" for p in WELL], where


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION])
async def test_a_power_cut_right_after_each_phase_was_journaled(make_device: MakeDevice, phase: Phase) -> None:
    device = await installed_device(make_device, "device")
    outcome = {"accepted": "after begin", "fetching": "after advance by start"}.get(phase, "after advance by done")
    skip = {"staged": 0, "switched": 1, "probation": 2}.get(phase, 0)
    seen: list[str] = []

    def now(point: str) -> bool:
        seen.extend([point] if point == outcome else [])
        return len(seen) == skip + 1

    device.power.cut_when = now
    await cut(device, TWO)
    await device.start(serve=False)
    assert [update.phase for update in device.journal.unfinished()] == [phase]
    await device.restart()
    await device.end_of(device.journal.history()[0].id)
    device.assert_runs(TWO, previous={"tacho": ONE})
    assert [p for p in device.story() if "1.1.0" in p] == [f"tacho 1.1.0 {p}" for p in WELL]


async def test_a_restart_in_good_order_loses_nothing_either(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    device.clock.running.clear()
    submitted = await device.submit(TWO, 2)
    await device.reaches(Phase.PROBATION)
    await device.restart()
    assert device.services.running["tacho"] == {"web": "1.1.0", "new": "1.1.0"}
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_an_interrupted_download_goes_on_with_what_is_missing(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    device.shelf.fetched.clear()
    device.power.cut_when = lambda point: point == "fetching 1"
    await cut(device, TWO)
    await device.start()
    await device.end_of(device.journal.history()[0].id)
    assert len(device.shelf.fetched) == len(set(device.shelf.fetched)) == len(set(TWO.contents) - set(ONE.contents))


async def test_services_run_again_after_a_restart(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    await device.stop()
    device.services.running.clear()
    await device.start()
    assert device.troubles == []
    device.assert_runs(ONE, previous={"tacho": ZERO})


async def test_a_service_that_does_not_start_again_is_told_and_stops_nothing(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    await device.stop()
    device.services.unstartable.add(("tacho", "1.0.0"))
    await device.start()
    assert device.troubles == ["tacho 1.0.0: tacho 1.0.0 cannot be started"]
    await device.update_to(TWO, 2)
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_current_link_that_was_lost_is_put_back(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    await device.stop()
    device.folders.package("tacho").current.unlink()
    device.services.running.clear()
    await device.start()
    device.assert_runs(ONE, previous={"tacho": ZERO})


async def test_an_unknown_phase_is_rolled_back(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    device.clock.running.clear()
    await device.submit(TWO, 2)
    update = await device.reaches(Phase.PROBATION)
    with device.journal._transaction() as connection:
        connection.execute("UPDATE updates SET phase = 'polishing' WHERE id = ?", (update.id,))
    await device.stop()
    device.clock.running.set()
    await device.start()
    ended = await device.end_of(update.id)
    assert ended.error is not None
    assert ended.error.code == "interrupted.journal"
    assert device.story(update.id)[-2:] == ["rolling_back", "rolled_back"]
    device.assert_runs(ONE, previous={"tacho": ZERO})


@pytest.mark.parametrize("phase", [Phase.STAGED, Phase.SWITCHED, Phase.PROBATION])
async def test_a_loop_of_restarts_is_broken(make_device: MakeDevice, phase: Phase) -> None:
    device = await installed_device(make_device, "device")
    point = {"staged": "before post_switch tacho 1.1.0", "switched": "before check", "probation": "after check"}[phase]
    device.power.cut_when = lambda where: where == point
    await cut(device, TWO)
    restarts = 0
    while restarts < MAX_RESTARTS:
        restarts += 1
        device.power.cut_when = lambda where: where == point
        await device.start()
        await device.lose_power()
    await device.start()
    update = device.journal.history()[0]
    ended = await device.end_of(update.id)
    assert ended.error is not None
    assert ended.error.code == "interrupted.restarts"
    assert device.story(update.id)[-2:] == ["rolling_back", "rolled_back"]
    device.assert_runs(ONE, previous={"tacho": ZERO})
    assert device.journal.verdict("tacho", rollout(2), "1.1.0") is not None


async def test_a_second_agent_on_the_same_folder_is_refused(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    with pytest.raises(Exception, match="another process works on") as refused:
        await make_device("device").start()
    assert getattr(refused.value, "code", None) == "conflict.busy"
    device.assert_runs(ONE, previous={"tacho": ZERO})


async def test_restarts_of_a_release_that_is_well_in_between_are_no_loop(make_device: MakeDevice) -> None:
    device = await installed_device(make_device, "device")
    health = Health(start_period_s=4, interval_s=1, retries=3, probation_s=600)
    lasting = build(version="1.1.0", health=health)
    paused = asyncio.Event()

    def on_check(version: str, number: int) -> None:
        if version == "1.1.0" and number % 75 == 0:
            device.clock.running.clear()
            paused.set()

    device.probe.on_check = on_check
    submitted = await device.submit(lasting, 2)
    for _ in range(MAX_RESTARTS + 2):
        await asyncio.wait_for(paused.wait(), LIMIT_S)
        await device.stop()
        paused.clear()
        device.clock.running.set()
        await device.start()
    device.probe.on_check = None
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert device.story(submitted.update) == WELL
