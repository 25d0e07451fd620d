"""A release that needs another package waits for it while it is on its way, and no longer."""

import asyncio
from datetime import datetime, timedelta

import pytest

from device_agent.dependencies import LONGEST_WAIT_S
from schemas.manifest import Requires
from schemas.messages import Phase
from tests.unit.agent.device import LIMIT_S, Device, until
from tests.unit.agent.releases import build

ENGINE, ENGINE_2 = build("engine", "1.0.0"), build("engine", "2.1.0")
TACHO = build("tacho", "2.0.0", requires=Requires(packages={"engine": "^2.0"}))


@pytest.fixture
async def old(device: Device) -> Device:
    """Runs engine 1.0.0."""
    await device.update_to(ENGINE, 1)
    return device


async def test_what_is_needed_is_installed_first_though_it_was_announced_last(old: Device) -> None:
    old.clock.running.clear()
    old.shelf.put(ENGINE_2, TACHO)
    soon = old.clock.now() + timedelta(hours=9)
    engine = await old.submit(ENGINE_2, 2, not_before=soon, reason="window")
    tacho = await old.submit(TACHO, 3)
    assert tacho.update is not None
    await until(lambda: old.story(tacho.update)[-1] == "deferred", old._serving)
    deferred = next(event for event in old.events() if event.phase is Phase.DEFERRED and event.package == "tacho")
    assert deferred.detail is not None
    assert (deferred.detail["reason"], deferred.detail["missing"]) == ("requires", "engine ^2.0")
    assert datetime.fromisoformat(deferred.detail["until"]) == deferred.at + timedelta(seconds=LONGEST_WAIT_S)
    assert deferred.error is None
    old.clock.running.set()
    assert (await old.end_of(tacho.update)).phase is Phase.SUCCEEDED
    assert old.clock.elapsed < 86_400  # as soon as that was there, and not at the end of the longest wait
    assert old.story(tacho.update)[:4] == ["accepted", "deferred", "accepted", "fetching"]
    assert engine.update is not None
    ends = [event.package for event in old.events() if event.phase is Phase.SUCCEEDED][1:]
    assert ends == ["engine", "tacho"]
    old.assert_runs(ENGINE_2, TACHO, previous={"engine": ENGINE})


async def test_it_is_rejected_once_what_it_needs_has_failed(old: Device) -> None:
    old.probe.sick.add("2.1.0")
    old.manager.hold(True)
    engine = await old.submit(ENGINE_2, 2)
    tacho = await old.submit(TACHO, 3)
    assert engine.update
    assert tacho.update
    old.shelf.put(TACHO)
    old.manager.hold(False)
    ended = await old.end_of(tacho.update)
    assert ended.phase is Phase.REJECTED
    assert ended.error is not None
    assert ended.error.code == "requires.packages"
    assert (await old.end_of(engine.update)).phase is Phase.ROLLED_BACK
    old.assert_runs(ENGINE, spare_objects=True)


async def test_a_version_on_its_way_that_does_not_fit_is_not_waited_for(old: Device) -> None:
    old.clock.running.clear()
    await old.submit(build("engine", "1.9.0"), 2, not_before=old.clock.now() + timedelta(hours=1))
    tacho = await old.submit(TACHO, 3)
    assert tacho.update
    await until(lambda: old.story(tacho.update)[-1] == "rejected", old._serving)


async def test_the_wait_has_an_end(old: Device) -> None:
    old.clock.running.clear()
    late = old.clock.now() + timedelta(seconds=2 * LONGEST_WAIT_S)
    await old.submit(ENGINE_2, 2, not_before=late, reason="window")
    tacho = await old.submit(TACHO, 3)
    assert tacho.update
    await until(lambda: old.story(tacho.update)[-1] == "deferred", old._serving)
    old.clock.jumped = timedelta(seconds=LONGEST_WAIT_S)
    old.clock.running.set()
    ended = await asyncio.wait_for(old.manager.wait(tacho.update, LIMIT_S), LIMIT_S)
    assert ended is not None
    assert ended.phase is Phase.REJECTED
    assert old.clock.now() < late


async def test_hearing_of_it_again_or_a_restart_does_not_end_the_wait(old: Device) -> None:
    old.clock.running.clear()
    await old.submit(ENGINE_2, 2, not_before=old.clock.now() + timedelta(hours=1), reason="window")
    tacho = await old.submit(TACHO, 3)
    assert tacho.update
    await until(lambda: old.story(tacho.update)[-1] == "deferred", old._serving)
    await old.submit(TACHO, 3)
    await old.restart()
    await old.submit(TACHO, 3)
    assert old.story(tacho.update) == ["accepted", "deferred"]
    old.clock.running.set()
    assert (await old.end_of(tacho.update)).phase is Phase.SUCCEEDED


async def test_two_that_wait_for_each_other_do_not_wait_for_long(old: Device) -> None:
    await old.update_to(build("tacho", "1.0.0"), 2)
    old.manager.hold(True)
    needy = build("engine", "2.1.0", requires=Requires(packages={"tacho": "^2.0"}))
    old.shelf.put(needy, TACHO)
    engine, tacho = await old.submit(needy, 3), await old.submit(TACHO, 4)
    assert engine.update
    assert tacho.update
    old.manager.hold(False)
    ended = [await old.end_of(update) for update in (engine.update, tacho.update)]
    assert [(u.phase, u.error.code if u.error else "") for u in ended] == [(Phase.REJECTED, "requires.packages")] * 2
    assert old.clock.elapsed < 86_400


async def test_a_release_that_needs_itself_is_not_waited_for(old: Device) -> None:
    loop = build("loop", "1.0.0", requires=Requires(packages={"loop": "^1.0"}))
    ended = await old.update_to(loop, 2)
    assert ended.phase is Phase.REJECTED
    assert old.clock.elapsed < 86_400
