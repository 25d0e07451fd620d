"""Rows that this agent does not understand: rolled back or left out, never a reason not to start."""

import json
from collections.abc import Callable

import pytest

from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


def rewrite(device: Device, change: Callable[[str], str]) -> None:
    """Change the body of the newest update."""
    newest = device.journal.history(limit=1)[0].id
    with device.journal._transaction() as connection:
        (body,) = connection.execute("SELECT body FROM updates WHERE id = ?", (newest,)).fetchone()
        connection.execute("UPDATE updates SET body = ? WHERE id = ?", (change(body), newest))


def from_the_future(body: str) -> str:
    said = json.loads(body)
    said["request"]["origin"] = "premonition"
    return json.dumps(said)


def broken_before(body: str) -> str:
    said = json.loads(body)
    said["before"] = {"package": 7}
    said["created_at"] = "yesterday"
    return json.dumps(said)


@pytest.mark.parametrize("change", [from_the_future, broken_before, lambda body: body[:40], lambda _: "7"])
@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.PROBATION])
async def test_an_unfinished_update_is_rolled_back(
    make_device: MakeDevice, change: Callable[[str], str], phase: Phase
) -> None:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    if phase is Phase.FETCHING:
        device.power.cut_when = lambda where: where == "fetching 1"
        await device.submit(TWO, 2)
        await device.lose_power()
        await device.start(serve=False)
    else:
        device.clock.running.clear()
        await device.submit(TWO, 2)
        await device.reaches(phase)
    rewrite(device, change)
    await device.stop()
    device.clock.running.set()
    await device.start()
    update = device.journal.history()[0]
    ended = await device.end_of(update.id)
    assert (ended.phase, ended.error and ended.error.code) == (Phase.ROLLED_BACK, "interrupted.journal")
    if phase is Phase.PROBATION and change not in (from_the_future, broken_before):
        # not even which version it was can be read: what is journaled as installed stays
        device.assert_runs(TWO, previous={"tacho": ONE})
    else:
        device.assert_runs(ONE)


async def test_an_ended_update_stays_what_it_was(device: Device) -> None:
    await device.update_to(ONE, 1)
    rewrite(device, from_the_future)
    await device.restart()
    (update,) = device.journal.history()
    assert (update.phase, update.version) == (Phase.SUCCEEDED, "1.0.0")
    await device.update_to(TWO, 2)
    device.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_verdict_with_an_unknown_word_is_none(device: Device) -> None:
    await device.update_to(ONE, 1)
    with device.journal._transaction() as connection:
        connection.execute("UPDATE verdicts SET phase = 'glorious'")
    row = device.journal.history()[0]
    assert device.journal.verdict("tacho", row.rollout or "", "1.0.0") is None
