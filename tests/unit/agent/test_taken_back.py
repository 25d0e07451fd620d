"""What is asked for one rollout on one device: cancelled before it was begun or while it waits, and tried again."""

import pytest

from device_agent.updates import Answer, Cancelled
from schemas.ids import uuid7
from schemas.messages import Phase
from tests.unit.agent.device import Device, rollout
from tests.unit.agent.releases import build

ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))


@pytest.fixture
async def running(device: Device) -> Device:
    """A device that runs 1.0.0 of rollout 1."""
    await device.update_to(ONE, 1)
    return device


async def cancel(device: Device, number: int, version: str, *, ended: str | None = None) -> Cancelled:
    return await device.manager.cancel("tacho", rollout=rollout(number), version=version, ended=ended)


async def test_a_rollout_that_was_never_begun_is_cancelled_in_so_many_words_and_once(running: Device) -> None:
    assert await cancel(running, 2, "1.1.0") is Cancelled.CANCELLED
    (said,) = [event for event in running.events() if event.rollout == rollout(2)]
    assert (said.phase, said.version, said.error and said.error.code) == (
        Phase.CANCELLED,
        "1.1.0",
        "conflict.cancelled",
    )
    assert await cancel(running, 2, "1.1.0") is Cancelled.NOTHING
    assert len([event for event in running.events() if event.rollout == rollout(2)]) == 1
    running.assert_runs(ONE)


async def test_announced_to_the_device_again_it_is_begun_after_all(running: Device) -> None:
    await cancel(running, 2, "1.1.0")
    assert await running.manager.retry("tacho", rollout=rollout(2)) is None
    assert (await running.update_to(TWO, 2)).phase is Phase.SUCCEEDED
    running.assert_runs(TWO, previous={"tacho": ONE})


async def test_one_that_failed_and_was_to_be_tried_again_is_cancelled_in_so_many_words(running: Device) -> None:
    running.probe.sick.add("1.1.0")
    failed = await running.update_to(TWO, 2)
    running.probe.sick.clear()
    # how it failed is the answer to whoever may not know it yet
    assert await cancel(running, 2, "1.1.0") is Cancelled.NOTHING
    assert await cancel(running, 2, "1.1.0", ended=uuid7(1, b"0" * 10)) is Cancelled.NOTHING
    assert await cancel(running, 2, "1.1.0", ended=failed.id) is Cancelled.CANCELLED
    said = [event for event in running.events() if event.rollout == rollout(2)][-1]
    assert (said.phase, said.update != failed.id) == (Phase.CANCELLED, True)
    assert (await running.submit(TWO, 2)).answer is Answer.GIVEN_UP
    again = await running.manager.retry("tacho", rollout=rollout(2))
    assert again is not None
    assert (await running.end_of(again.update or "")).phase is Phase.SUCCEEDED
    running.assert_runs(TWO, previous={"tacho": ONE})


async def test_it_concerns_no_other_rollout(running: Device) -> None:
    running.manager.hold(True)
    waiting = await running.submit(TWO, 2)
    assert await cancel(running, 3, "1.2.0") is Cancelled.CANCELLED
    assert await running.manager.retry("tacho", rollout=rollout(2)) is None
    running.manager.hold(False)
    assert waiting.update is not None
    assert (await running.end_of(waiting.update)).phase is Phase.SUCCEEDED
    running.assert_runs(TWO, previous={"tacho": ONE})


async def test_one_that_failed_is_tried_again_only_for_its_own_rollout(running: Device) -> None:
    running.probe.sick.add("1.1.0")
    assert (await running.update_to(TWO, 2)).phase is Phase.ROLLED_BACK
    running.probe.sick.clear()
    assert await running.manager.retry("tacho", rollout=rollout(1)) is None
    again = await running.manager.retry("tacho", rollout=rollout(2))
    assert again is not None
    assert (again.answer, again.update is not None) == (Answer.ACCEPTED, True)
    assert (await running.end_of(again.update or "")).phase is Phase.SUCCEEDED
    running.assert_runs(TWO, previous={"tacho": ONE})
