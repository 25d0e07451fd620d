"""Waiting for the right time, and trying again what may pass."""

from datetime import datetime, timedelta
from itertools import cycle

import pytest

from device_agent.updates import Answer
from schemas.errors import DeviceError, NetworkError
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device, until
from tests.unit.agent.releases import build

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


async def test_a_deferred_update_starts_when_it_is_due(device: Device) -> None:
    due = device.clock.now() + timedelta(hours=3)
    update = await device.update_to(ONE, 1, not_before=due, reason="window")
    assert device.story(update.id) == ["deferred", *WELL]
    deferred, accepted = device.events()[:2]
    assert deferred.detail == {"origin": "announcement", "reason": "window", "not_before": "2026-03-01T15:00:00Z"}
    assert accepted.at >= due
    assert accepted.attempt == 1
    assert max(device.clock.sleeps) <= 60
    device.assert_runs(ONE)


async def test_it_is_still_deferred_after_a_restart(device: Device) -> None:
    device.clock.running.clear()
    await device.submit(ONE, 1, not_before=device.clock.now() + timedelta(hours=1))
    await device.restart()
    assert [update.phase for update in device.journal.unfinished()] == [Phase.DEFERRED]
    device.clock.running.set()
    await device.end_of(device.journal.history()[0].id)
    device.assert_runs(ONE)


async def test_the_same_wish_may_move_its_time(device: Device) -> None:
    device.clock.running.clear()
    first = await device.submit(ONE, 1, not_before=device.clock.now() + timedelta(hours=9), reason="window")
    again = await device.submit(ONE, 1, not_before=device.clock.now() + timedelta(hours=9), reason="window")
    assert again.update == first.update
    assert device.story() == ["tacho 1.0.0 deferred"]
    sooner = await device.submit(ONE, 1)
    assert (sooner.answer, sooner.update) == (Answer.UNDER_WAY, first.update)
    device.clock.running.set()
    assert first.update is not None
    await device.end_of(first.update)
    assert device.story(first.update) == ["deferred", "deferred", *WELL]
    assert device.clock.elapsed < 3600


async def test_a_device_that_could_not_start_in_time_does_not_start(device: Device) -> None:
    now = device.clock.now()
    update = await device.update_to(
        ONE, 1, not_before=now + timedelta(hours=2), deadline=now + timedelta(hours=1), reason="window"
    )
    assert device.story(update.id) == ["deferred", "rejected"]
    assert update.error is not None
    assert update.error.code == "conflict.deadline"
    late = await device.submit(ONE, 1, deadline=now - timedelta(hours=1))
    assert late.answer is Answer.REJECTED


async def test_a_network_that_comes_back_is_waited_for(device: Device) -> None:
    device.shelf.resolve_errors += [NetworkError("fetch.unreachable", "no repository answers")]
    device.shelf.fetch_errors += [NetworkError("fetch.timeout", "it stopped in the middle")]
    update = await device.update_to(ONE, 1, retries=2)
    assert device.story(update.id) == ["accepted", "deferred", "accepted", "fetching", "deferred", *WELL]
    attempts = [(e.attempt, e.phase.value, e.error.code if e.error else "") for e in device.events()]
    assert [a for a in attempts if a[1] in ("accepted", "deferred")] == [
        (1, "accepted", ""),
        (1, "deferred", "fetch.unreachable"),
        (2, "accepted", ""),
        (2, "deferred", "fetch.timeout"),
        (3, "accepted", ""),
    ]
    pauses = [e.detail["not_before"] for e in device.events() if e.phase is Phase.DEFERRED and e.detail]
    assert len(set(pauses)) == 2
    assert len(device.shelf.fetched) == len(set(device.shelf.fetched))
    device.assert_runs(ONE)


async def test_tries_are_counted(device: Device) -> None:
    device.shelf.resolve_errors += [NetworkError("fetch.refused", "500")] * 9
    update = await device.update_to(ONE, 1, retries=2)
    assert device.story(update.id) == ["accepted", "deferred"] * 2 + ["accepted", "failed"]
    assert update.attempt == 3
    assert len(device.shelf.resolve_errors) == 6


async def test_pauses_between_tries_grow(device: Device) -> None:
    device.shelf.resolve_errors += [NetworkError("fetch.refused", "500")] * 9
    await device.update_to(ONE, 1, retries=5)
    deferred = [(e.at, e.detail["not_before"]) for e in device.events() if e.phase is Phase.DEFERRED and e.detail]
    pauses = [(datetime.fromisoformat(due) - at).total_seconds() for at, due in deferred]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 2.5
    assert pauses[-1] > 8 * pauses[0]


async def test_pauses_between_tries_are_spread_and_bounded(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    chances, ids = cycle([b"\x00", b"\xff"]), device._random_bytes
    monkeypatch.setattr(device, "_random_bytes", lambda count: next(chances) if count == 1 else ids(count))
    await device.restart()
    device.shelf.resolve_errors += [NetworkError("fetch.refused", "500")] * 99
    await device.update_to(ONE, 1, retries=10)
    deferred = [(e.at, e.detail["not_before"]) for e in device.events() if e.phase is Phase.DEFERRED and e.detail]
    pauses = [(datetime.fromisoformat(due) - at).total_seconds() for at, due in deferred]
    assert pauses == pytest.approx([5 / 2, 10, 20 / 2, 40, 80 / 2, 160, 320 / 2, 600, 600 / 2, 600], rel=1e-3)


async def test_what_the_repository_does_not_have_is_not_asked_for_again(device: Device) -> None:
    device.shelf.resolve_errors += [NetworkError("fetch.not_found", "404")]
    update = await device.update_to(ONE, 1, retries=9)
    assert device.story(update.id) == ["accepted", "failed"]
    assert (await device.submit(ONE, 1)).answer is Answer.GIVEN_UP
    assert device.story(update.id) == ["accepted", "failed"]


async def test_what_ended_badly_is_tried_again_only_when_asked(device: Device) -> None:
    await device.update_to(ONE, 1)
    device.probe.sick.add("1.1.0")
    await device.update_to(TWO, 2)
    calls = list(device.power.calls)
    assert (await device.submit(TWO, 2)).answer is Answer.GIVEN_UP
    await device.rest()
    assert device.power.calls == calls
    device.probe.sick.clear()
    again = await device.manager.retry("tacho")
    assert again is not None
    assert again.update is not None
    await device.end_of(again.update)
    assert device.story(again.update) == WELL
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_retry_does_not_wait_for_the_next_try(device: Device) -> None:
    device.clock.running.clear()
    device.shelf.resolve_errors += [NetworkError("fetch.unreachable", "no repository answers")]
    submitted = await device.submit(ONE, 1)
    await until(lambda: device.story()[-1:] == ["tacho 1.0.0 deferred"])
    again = await device.manager.retry("tacho")
    assert again is not None
    assert again.update == submitted.update
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert device.clock.elapsed < 60
    device.assert_runs(ONE)


async def test_there_is_nothing_to_retry_where_all_is_well(device: Device) -> None:
    assert await device.manager.retry("tacho") is None
    await device.update_to(ONE, 1)
    assert await device.manager.retry("tacho") is None


@pytest.mark.parametrize("jump", [timedelta(days=-3), timedelta(days=3)])
async def test_a_probation_is_as_long_whatever_the_clock_on_the_wall_does(device: Device, jump: timedelta) -> None:
    def on_check(_: str, number: int) -> None:
        device.clock.jumped = jump if number == 3 else device.clock.jumped

    device.probe.on_check = on_check
    await device.update_to(ONE, 1)
    assert device.probe.rounds["1.0.0"] == 1 + 10


async def test_a_probation_goes_on_after_a_restart_with_what_is_left(make_device: MakeDevice) -> None:
    device = await make_device().start()
    health = ONE.manifest.health
    one = build(version="1.0.0", health=type(health)(start_period_s=4, interval_s=1, retries=3, probation_s=100))

    def on_check(_: str, number: int) -> None:
        if number == 65:
            device.clock.running.clear()

    device.probe.on_check = on_check
    submitted = await device.submit(one, 1)
    await until(lambda: device.probe.rounds["1.0.0"] == 65)
    await device.stop()
    # the machine was started anew, and its time of day is a guess
    device.boot_id, device.clock.jumped = "boot-2", timedelta(days=-400)
    device.services.running.clear()
    device.clock.running.set()
    rounds = device.probe.rounds["1.0.0"]
    await device.start()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert [event.boot_id for event in device.events()][-2:] == ["boot-1", "boot-2"]
    # 60 of the 64 seconds were kept; the first pass after the restart is a round of its own
    assert device.probe.rounds["1.0.0"] - rounds == 40 + 1
    device.assert_runs(one)


async def test_failures_in_the_start_period_do_not_count(device: Device) -> None:
    device.probe.results["1.0.0"] = [False, False, False, True]
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == WELL
    probation = next(e for e in device.events() if e.phase is Phase.PROBATION)
    assert probation.detail == {"healthy_after_s": 3.0}


async def test_fetching_that_the_system_ended_is_tried_again(device: Device) -> None:
    device.shelf.resolve_errors += [DeviceError("interrupted.fetch", "too little memory")]
    device.shelf.fetch_errors += [DeviceError("interrupted.fetch", "too little memory")]
    update = await device.update_to(ONE, 1)
    assert (update.phase, update.attempt) == (Phase.SUCCEEDED, 3)
    device.assert_runs(ONE)
