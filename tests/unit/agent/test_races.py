"""What comes in the very moment in which something else is decided: nothing is lost, nothing ends the agent."""

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from device_agent.lifecycle import Outcome
from schemas.errors import DeviceError, NetworkError
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device, rollout, until
from tests.unit.agent.releases import build

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


class SlowMove:
    """Holds the journal back right before or after it has written that the update under way moves by `outcome`."""

    def __init__(
        self, device: Device, outcome: Outcome, *, version: str, written: bool, phase: Phase = Phase.PROBATION
    ) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        real = device.journal.advance

        def advance(update: str, move: Outcome, **more: Any) -> Any:
            row = device.journal.get(update)
            held = move is outcome and row is not None and row.version == version and row.phase is phase
            if not held:
                return real(update, move, **more)
            moved = real(update, move, **more) if written else None
            self.reached.set()
            assert self.go_on.wait(30)
            return moved or real(update, move, **more)

        device.journal.advance = advance  # type: ignore[method-assign,assignment]  # wrapped


@pytest.fixture
async def updated(device: Device) -> Device:
    """A device that runs 1.0.0."""
    await device.update_to(ONE, 1)
    return device


@pytest.mark.parametrize("written", [False, True])
async def test_going_back_is_not_lost_while_success_is_written_down(updated: Device, written: bool) -> None:
    slow = SlowMove(updated, Outcome.DONE, version="1.1.0", written=written)
    await updated.submit(TWO, 2)
    await until(slow.reached.is_set)
    asked = asyncio.create_task(updated.manager.rollback("tacho"))
    await asyncio.sleep(0.05)  # for it to be decided as far as it can be
    slow.go_on.set()
    await updated.end_of(await asked)
    updated.assert_runs(ONE)


async def test_what_is_announced_again_while_success_is_written_down_is_not_begun_again(updated: Device) -> None:
    # another rollout of what runs already: there is nothing to install, and the installation stays the first one's
    slow = SlowMove(updated, Outcome.DONE, version="1.0.0", written=False, phase=Phase.ACCEPTED)
    first = await updated.submit(ONE, 2)
    await until(slow.reached.is_set)
    real = updated.journal.verdict

    def verdict(package: str, of: str, version: str) -> Any:
        found = real(package, of, version)
        slow.go_on.set()
        give_up = time.monotonic() + 30
        while first.update in {row.id for row in updated.journal.unfinished()}:
            assert time.monotonic() < give_up
            time.sleep(0.005)
        return found

    updated.journal.verdict = verdict  # type: ignore[method-assign]  # it ends between two looks at the journal
    again = await updated.submit(ONE, 2)
    assert again.update in (first.update, None)
    assert len(updated.journal.history("tacho")) == 2


@pytest.mark.parametrize("written", [False, True])
async def test_a_revert_is_not_lost_while_success_is_written_down(updated: Device, written: bool) -> None:
    slow = SlowMove(updated, Outcome.DONE, version="1.1.0", written=written)
    await updated.submit(TWO, 2)
    await until(slow.reached.is_set)
    asked = asyncio.create_task(updated.manager.revert(rollout(2)))
    await asyncio.sleep(0.05)  # for it to be decided as far as it can be
    slow.go_on.set()
    (update,) = await asked
    await updated.end_of(update)
    updated.assert_runs(ONE)


async def test_what_ended_meanwhile_is_not_stopped(updated: Device) -> None:
    """Several are stopped one after the other; the last may have ended by then."""
    updated.shelf.fetch_errors += [NetworkError("fetch.not_found", "404")]
    updated.manager.hold(True)
    submitted = await updated.submit(TWO, 2)
    (before,) = updated.journal.unfinished()
    updated.manager.hold(False)
    assert submitted.update is not None
    assert (await updated.end_of(submitted.update)).phase is Phase.FAILED
    assert not await updated.manager._queue.stop(before, DeviceError("conflict.halted", "the rollout was halted"))
    assert updated.last_words()[submitted.update] == ["failed"]


async def test_a_retry_of_what_has_begun_by_then_changes_nothing(updated: Device) -> None:
    updated.clock.running.clear()
    updated.shelf.resolve_errors += [NetworkError("fetch.refused", "500")]
    submitted = await updated.submit(TWO, 2)
    assert submitted.update is not None
    await until(lambda: any(u.phase is Phase.DEFERRED for u in updated.journal.unfinished()))
    async with updated.manager._queue.choosing:
        again = asyncio.create_task(updated.manager.retry("tacho"))
        await asyncio.sleep(0.05)  # for it to have looked, if it looks too early
        updated.journal.advance(submitted.update, Outcome.DUE, at=updated.clock.now(), changes={"not_before": None})
    made = await again
    assert made is not None
    assert made.update == submitted.update
    updated.clock.running.set()
    await updated.end_of(submitted.update)
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_clock_that_was_far_ahead_does_not_put_a_retry_off_for_years(updated: Device) -> None:
    updated.clock.jumped = timedelta(days=3650)
    updated.shelf.resolve_errors += [NetworkError("fetch.refused", "500")]
    updated.clock.running.clear()
    submitted = await updated.submit(TWO, 2)
    await until(lambda: any(u.phase is Phase.DEFERRED for u in updated.journal.unfinished()))
    updated.clock.jumped = timedelta()
    updated.clock.running.set()
    assert submitted.update is not None
    await updated.end_of(submitted.update)
    assert updated.clock.elapsed < 7200
    updated.assert_runs(TWO, previous={"tacho": ONE})


@pytest.mark.parametrize("name", ["lost+found", "Old Tacho", ".hidden", "x" * 200])
async def test_strange_folders_among_the_packages_are_left_alone(make_device: MakeDevice, name: str) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    strange = device.folders.packages / name
    strange.mkdir()
    (strange / "file").write_text("mine")
    (device.folders.packages / "notes.txt").write_text("mine")
    await device.restart()
    assert not device.troubles
    updated = await device.update_to(TWO, 2)
    assert updated.phase is Phase.SUCCEEDED
    assert (strange / "file").read_text() == "mine"
