"""Cancelling, superseding, halting, reverting, going back on request: in each phase what it allows."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent import local_changes, snapshots
from device_agent.runner import Runner
from device_agent.updates import Answer, Cancelled
from schemas.errors import NetworkError, OperatorError
from schemas.messages import Phase
from tests.unit.agent.device import LIMIT_S, Device, rollout, until
from tests.unit.agent.releases import build

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
ONE, TWO, THREE = (build(version=f"1.{n}.0", hooks=("pre_switch", "post_switch")) for n in range(3))


@pytest.fixture
async def updated(device: Device) -> Device:
    """A device that runs 1.0.0."""
    await device.update_to(ONE, 1)
    return device


async def under_way(device: Device, phase: Phase, number: int = 2) -> str:
    """Start the update to 1.1.0 of a rollout and have it stand still in a phase; gives its id."""
    if phase is Phase.FETCHING:
        device.shelf.block = asyncio.Event()
    elif phase is Phase.STAGED:
        device.hooks.block = ("pre_switch", "1.1.0")
    elif phase is Phase.PROBATION:
        device.clock.running.clear()
    elif phase is Phase.DEFERRED:
        device.manager.hold(True)
    elif phase is Phase.SWITCHED:
        device.clock.running.clear()
        device.probe.sick.add("1.1.0")
    submitted = await device.submit(TWO, number)
    assert submitted.update is not None
    await until(lambda: any(u.phase is phase for u in device.journal.unfinished()))
    if phase is Phase.FETCHING:
        await device.shelf.blocked.wait()
    if phase is Phase.STAGED:
        await device.hooks.blocked.wait()
    return submitted.update


def way_to(phase: Phase) -> list[str]:
    """What is told until an update stands still in a phase."""
    return ["accepted", "deferred"] if phase is Phase.DEFERRED else WELL[: WELL.index(phase) + 1]


def last_code(device: Device) -> str:
    """Why the last event says that something ended."""
    error = device.events()[-1].error
    return error.code if error else ""


@pytest.mark.parametrize("phase", [Phase.DEFERRED, Phase.FETCHING, Phase.STAGED])
async def test_before_the_switch_a_cancelled_update_ends_at_once(updated: Device, phase: Phase) -> None:
    update = await under_way(updated, phase)
    assert await updated.manager.cancel("tacho") is Cancelled.CANCELLED
    updated.manager.hold(False)
    await updated.rest()
    assert updated.story(update) == [*way_to(phase), "cancelled"]
    assert last_code(updated) == "conflict.cancelled"
    updated.assert_runs(ONE, spare_objects=True)
    assert updated.shelf.open_sources == 0
    assert (await updated.submit(TWO, 2)).answer is Answer.GIVEN_UP


@pytest.mark.parametrize("phase", [Phase.DEFERRED, Phase.FETCHING, Phase.STAGED])
async def test_what_only_a_pin_asked_for_is_cancelled_with_it(updated: Device, phase: Phase) -> None:
    update = await under_way(updated, phase, number=0)
    await updated.manager.unpin("tacho")
    updated.manager.hold(False)
    await updated.rest()
    assert updated.story(update) == [*way_to(phase), "cancelled"]
    assert last_code(updated) == "conflict.cancelled"
    updated.assert_runs(ONE, spare_objects=True)


async def test_a_pin_whose_fetch_failed_is_not_tried_again_once_it_is_gone(updated: Device) -> None:
    updated.clock.running.clear()
    updated.shelf.resolve_errors.append(NetworkError("fetch.unreachable", "nobody knows where it is"))
    submitted = await updated.submit(TWO, 0)
    assert submitted.update is not None
    await until(lambda: updated.story(submitted.update) == ["accepted", "deferred"])
    await updated.manager.unpin("tacho")
    updated.clock.running.set()
    await updated.rest()
    assert updated.story(submitted.update) == ["accepted", "deferred", "cancelled"]
    updated.assert_runs(ONE)


async def test_a_pin_that_is_gone_stops_nothing_else(updated: Device) -> None:
    update = await under_way(updated, Phase.DEFERRED)
    await updated.manager.unpin("tacho")
    await updated.manager.unpin("camera")
    updated.manager.hold(False)
    assert (await updated.end_of(update)).phase is Phase.SUCCEEDED


async def test_a_pin_that_has_been_switched_to_is_not_undone_when_it_is_gone(updated: Device) -> None:
    update = await under_way(updated, Phase.PROBATION, number=0)
    await updated.manager.unpin("tacho")
    updated.clock.running.set()
    assert (await updated.end_of(update)).phase is Phase.SUCCEEDED


async def test_a_deferred_update_is_cancelled(updated: Device) -> None:
    updated.clock.running.clear()
    later = updated.clock.now().replace(hour=23)
    submitted = await updated.submit(TWO, 2, not_before=later)
    assert await updated.manager.cancel("tacho") is Cancelled.CANCELLED
    assert submitted.update is not None
    assert updated.story(submitted.update) == ["deferred", "cancelled"]
    updated.assert_runs(ONE)


@pytest.mark.parametrize("phase", [Phase.SWITCHED, Phase.PROBATION])
async def test_after_the_switch_it_is_too_late_to_cancel(updated: Device, phase: Phase) -> None:
    update = await under_way(updated, phase)
    assert await updated.manager.cancel("tacho") is Cancelled.TOO_LATE
    updated.probe.sick.clear()
    updated.clock.running.set()
    await updated.end_of(update)
    assert updated.story(update) == WELL
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_once_the_switch_has_begun_it_is_too_late_to_cancel(updated: Device) -> None:
    updated.hooks.block = ("post_switch", "1.1.0")
    submitted = await updated.submit(TWO, 2)
    await updated.hooks.blocked.wait()
    assert await updated.manager.cancel("tacho") is Cancelled.TOO_LATE
    updated.hooks.block = None
    await updated.restart()
    assert submitted.update is not None
    await updated.end_of(submitted.update)
    assert updated.story(submitted.update) == WELL
    assert updated.power.calls.count("pre_switch tacho 1.1.0") == 1
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_there_may_be_nothing_to_cancel(updated: Device) -> None:
    assert await updated.manager.cancel("tacho") is Cancelled.NOTHING


@pytest.mark.parametrize("phase", [Phase.DEFERRED, Phase.FETCHING, Phase.STAGED])
async def test_before_the_switch_a_newer_wish_takes_the_place(updated: Device, phase: Phase) -> None:
    old = await under_way(updated, phase)
    updated.shelf.block = None
    newer = await updated.submit(THREE, 3)
    updated.manager.hold(False)
    assert newer.update is not None
    await updated.end_of(newer.update)
    assert updated.story(old) == [*way_to(phase), "cancelled"]
    ended = updated.journal.get(old)
    assert ended is not None
    assert ended.error is not None
    assert ended.error.code == "conflict.superseded"
    assert updated.story(newer.update) == WELL
    updated.assert_runs(THREE, previous={"tacho": ONE})


@pytest.mark.parametrize("phase", [Phase.DEFERRED, Phase.FETCHING, Phase.STAGED])
async def test_before_the_switch_it_stops_for_a_newer_rollout_that_is_not_for_this_device(
    updated: Device, phase: Phase
) -> None:
    old = await under_way(updated, phase)
    updated.shelf.block = None
    await updated.manager.supersede("tacho", "1.2.0", rollout(3))
    updated.manager.hold(False)
    await updated.rest()
    assert updated.story(old) == [*way_to(phase), "cancelled"]
    ended = updated.journal.get(old)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == ("conflict.superseded", "tacho 1.2.0 takes the place of 1.1.0")
    updated.assert_runs(ONE, spare_objects=True)


async def test_a_newer_rollout_stops_neither_its_own_nor_what_was_asked_for_by_hand(updated: Device) -> None:
    updated.manager.hold(True)
    own = await updated.submit(TWO, 2)
    await updated.manager.supersede("tacho", "1.1.0", rollout(2))
    by_hand = await updated.submit(THREE, 0)
    await updated.manager.supersede("tacho", "1.1.0", rollout(3))
    updated.manager.hold(False)
    assert own.update is not None
    assert by_hand.update is not None
    await updated.end_of(by_hand.update)
    assert updated.story(own.update)[-1] == "cancelled"  # by the wish by hand
    assert updated.story(by_hand.update)[-1] == "succeeded"
    updated.assert_runs(THREE, previous={"tacho": ONE})


@pytest.mark.parametrize("phase", [Phase.SWITCHED, Phase.PROBATION])
async def test_after_the_switch_it_goes_on_whatever_is_announced(updated: Device, phase: Phase) -> None:
    old = await under_way(updated, phase)
    await updated.manager.supersede("tacho", "1.2.0", rollout(3))
    updated.probe.sick.clear()
    updated.clock.running.set()
    await updated.end_of(old)
    assert updated.story(old) == WELL
    updated.assert_runs(TWO, previous={"tacho": ONE})


@pytest.mark.parametrize("phase", [Phase.SWITCHED, Phase.PROBATION])
async def test_after_the_switch_a_newer_wish_waits(updated: Device, phase: Phase) -> None:
    old = await under_way(updated, phase)
    newer = await updated.submit(THREE, 3)
    newest = await updated.submit(build(version="1.3.0"), 4)
    updated.probe.sick.clear()
    updated.clock.running.set()
    assert newer.update is not None
    assert newest.update is not None
    await updated.end_of(newest.update)
    assert updated.story(old) == WELL
    assert updated.story(newer.update) == ["accepted", "cancelled"]
    assert updated.story(newest.update) == WELL
    updated.assert_runs(build(version="1.3.0"), previous={"tacho": TWO})


async def test_a_waiting_wish_goes_on_from_what_the_one_before_left(updated: Device) -> None:
    old = await under_way(updated, Phase.SWITCHED)
    newer = await updated.submit(THREE, 3)
    updated.clock.running.set()
    assert newer.update is not None
    await updated.end_of(newer.update)
    assert updated.story(old)[-2:] == ["rolling_back", "rolled_back"]
    assert [e.from_version for e in updated.events() if e.update == newer.update][-1] == "1.0.0"
    updated.assert_runs(THREE, previous={"tacho": ONE})


@pytest.mark.parametrize("phase", [Phase.DEFERRED, Phase.FETCHING, Phase.STAGED])
async def test_a_halted_rollout_stops_before_the_switch_and_may_start_again(updated: Device, phase: Phase) -> None:
    update = await under_way(updated, phase)
    await updated.manager.halt(rollout(7), "no reason")
    assert updated.journal.unfinished() != []
    await updated.manager.halt(rollout(2), "the rollout leaves this device out now")
    assert updated.story(update)[-1] == "cancelled"
    error = updated.events()[-1].error
    assert error is not None
    assert (error.code, error.message) == ("conflict.halted", "the rollout leaves this device out now")
    updated.shelf.block, updated.hooks.block = None, None
    updated.manager.hold(False)
    await updated.update_to(TWO, 2)
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_paused_rollout_withdraws_what_waits_and_leaves_what_runs(updated: Device) -> None:
    update = await under_way(updated, Phase.FETCHING)
    engine = build("engine", "1.0.0", files={"bin/run": (b"engine", 0o755)})
    waiting = await updated.submit(engine, 2)
    await updated.manager.pause(rollout(2))
    assert waiting.update is not None
    assert updated.story(waiting.update) == ["accepted", "cancelled"]
    assert updated.shelf.block is not None
    updated.shelf.block.set()
    await updated.end_of(update)
    assert updated.story(update) == WELL


@pytest.mark.parametrize("phase", [Phase.SWITCHED, Phase.PROBATION])
async def test_a_reverted_rollout_undoes_what_has_switched(updated: Device, phase: Phase) -> None:
    update = await under_way(updated, phase)
    assert await updated.manager.revert(rollout(2)) == [update]
    updated.clock.running.set()
    await updated.end_of(update)
    assert updated.story(update)[-2:] == ["rolling_back", "rolled_back"]
    assert last_code(updated) == "conflict.reverted"
    updated.assert_runs(ONE)


async def test_a_reverted_rollout_goes_back_where_it_had_succeeded(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    (update,) = await updated.manager.revert(rollout(2))
    ended = await updated.end_of(update)
    assert updated.story(update) == ["accepted", "rolling_back", "rolled_back"]
    assert (ended.version, updated.events()[-1].from_version) == ("1.1.0", "1.0.0")
    assert {event.rollout for event in updated.events() if event.update == update} == {rollout(2)}
    updated.assert_runs(ONE)
    assert await updated.manager.revert(rollout(2)) == []
    assert (await updated.submit(TWO, 2)).answer is Answer.GIVEN_UP


async def test_a_reverted_first_installation_goes_away(updated: Device) -> None:
    (update,) = await updated.manager.revert(rollout(1))
    await updated.end_of(update)
    assert updated.story(update) == ["accepted", "rolling_back", "rolled_back"]
    updated.assert_runs()


async def test_a_revert_before_the_switch_is_a_cancellation(updated: Device) -> None:
    update = await under_way(updated, Phase.FETCHING)
    assert await updated.manager.revert(rollout(2)) == []
    assert updated.story(update) == ["accepted", "fetching", "cancelled"]
    updated.assert_runs(ONE, spare_objects=True)


async def test_the_operator_gets_the_previous_release(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    update = await updated.manager.rollback("tacho")
    await updated.end_of(update)
    assert updated.story(update) == ["accepted", "rolling_back", "rolled_back"]
    assert updated.events()[-1].error is None
    updated.assert_runs(ONE)
    # the announcement is still there, and does not bring back what the operator has left
    assert (await updated.submit(TWO, 2)).answer is Answer.GIVEN_UP
    again = await updated.manager.retry("tacho")
    assert again is not None
    assert again.update is not None
    await updated.end_of(again.update)
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_the_operator_undoes_an_update_in_probation(updated: Device) -> None:
    update = await under_way(updated, Phase.PROBATION)
    assert await updated.manager.rollback("tacho") == update
    updated.clock.running.set()
    await updated.end_of(update)
    assert updated.story(update) == [*WELL[:5], "rolling_back", "rolled_back"]
    updated.assert_runs(ONE)


async def test_a_rollback_that_waited_in_vain_changes_nothing(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    updated.manager.hold(True)
    await updated.stop()
    await updated.start(serve=False)
    first, second = await updated.manager.rollback("tacho"), await updated.manager.rollback("tacho")
    assert first == second
    await updated.restart()
    await updated.end_of(first)
    updated.assert_runs(ONE)


async def test_there_may_be_nothing_to_go_back_to(updated: Device) -> None:
    with pytest.raises(OperatorError, match="no previous release"):
        await updated.manager.rollback("tacho")
    with pytest.raises(OperatorError, match="no previous release"):
        await updated.manager.rollback("engine")
    updated.assert_runs(ONE)


async def test_an_operator_may_go_back_while_the_device_is_held(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    updated.manager.hold(True)
    await updated.end_of(await updated.manager.rollback("tacho"))
    updated.assert_runs(ONE)


@pytest.mark.parametrize("looked_at", ["installed files", "state"])
async def test_what_is_looked_through_before_the_switch_is_not_looked_through_to_the_end(
    device: Device, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    await device.update_to(build(version="1.0.0", files={f"lib/{n}": (b"%d" % n, 0o644) for n in range(9)}), 1)
    data = device.folders.package("tacho").state / "data"
    data.mkdir(exist_ok=True)
    for number in range(9):
        (data / str(number)).write_text("written by the application")
    seen, loop, first, go_on = list[Path](), asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def look(path: Path) -> None:
        seen.append(path)
        loop.call_soon_threadsafe(first.set)
        assert go_on.wait(LIMIT_S)

    real_change, real_walk = local_changes._file_change, snapshots._walk

    def file_change(path: Path, *args: Any) -> str:
        look(path)
        return real_change(path, *args)

    def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        for path, looks in real_walk(folder):
            look(path)
            yield path, looks

    if looked_at == "state":
        monkeypatch.setattr(snapshots, "_walk", walk)
    else:
        monkeypatch.setattr(local_changes, "_file_change", file_change)
    submitted = await device.submit(build(version="1.1.0", state_snapshot=True), 2)
    await asyncio.wait_for(first.wait(), LIMIT_S)
    cancelling = asyncio.create_task(device.manager.cancel("tacho"))
    runner = device.manager._queue._runner
    assert isinstance(runner, Runner)
    await until(lambda: runner._wish is not None)
    go_on.set()
    assert await cancelling is Cancelled.CANCELLED
    assert device.story(submitted.update)[-1] == "cancelled"
    assert len(seen) == 1
