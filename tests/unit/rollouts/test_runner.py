"""When the engine looks: at everything when it starts, then at what was touched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.rollouts import runner as runner_module
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.runner import RolloutRunner
from controller.rollouts.store import Evaluation, RolloutStore
from controller.rollouts.views import Rollout
from schemas.errors import OperatorError
from schemas.messages import Phase
from tests.support.links import until
from tests.unit.fleet.builders import NOW, event_in, reported_in, succeeded_in

Told = list[tuple[Rollout, bool]]


def create(engine: Engine, package: str = "tacho", now: datetime = NOW) -> Rollout:
    return RolloutStore(engine).create(
        package=package, version="2.0.0", channel="stable", repository=["http://127.0.0.1:1"], now=now
    )


@asynccontextmanager
async def running(engine: Engine, told: Told) -> AsyncIterator[RolloutRunner]:
    runner = RolloutRunner(
        RolloutStore(engine),
        lambda rollout, announced: told.append((rollout, announced)),
        clock=lambda: NOW,
    )
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_came_in_before_a_restart_is_seen_at_the_start(engine: Engine) -> None:
    IntakeStore(engine).take_in([reported_in("pi-1")], NOW)
    rollout = create(engine)
    IntakeStore(engine).take_in(succeeded_in("pi-1", 1, rollout=rollout.id), NOW)
    told: Told = []
    async with running(engine, told):
        await until(lambda: bool(told))
    assert [(one.id, one.state, announced) for one, announced in told] == [(rollout.id, RolloutState.COMPLETE, True)]


async def test_only_what_was_touched_and_changed_is_told(engine: Engine) -> None:
    IntakeStore(engine).take_in([reported_in("pi-1"), reported_in("pi-2")], NOW)
    first, second = create(engine), create(engine, "radio", NOW + timedelta(seconds=1))
    told: Told = []
    async with running(engine, told) as runner:
        IntakeStore(engine).take_in([event_in("pi-1", 1, Phase.FETCHING, rollout=first.id)], NOW)
        runner.touch(rollouts=dict.fromkeys([first.id, second.id, "unknown"]))
        await until(lambda: bool(told))
        IntakeStore(engine).take_in([reported_in("pi-3")], NOW)
        runner.touch(channels={"stable": None, "beta": None})
        await until(lambda: len(told) == 3)
    # the look that the first touch began may see the new device at the second rollout already
    assert [(one.id, announced) for one, announced in told[:1]] == [(first.id, False)]
    assert sorted((one.id, announced) for one, announced in told[1:]) == [(first.id, False), (second.id, False)]
    assert told[0][0].verdicts == {Verdict.PENDING: 1, Verdict.UPDATING: 1}
    verdicts = {one.id: one.verdicts for one, _ in told[1:]}
    assert verdicts == {first.id: {Verdict.PENDING: 2, Verdict.UPDATING: 1}, second.id: {Verdict.PENDING: 3}}


async def test_a_rollout_that_cannot_be_judged_does_not_hold_up_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    IntakeStore(engine).take_in([reported_in("pi-1")], NOW)
    broken, sound = create(engine), create(engine, "radio", NOW + timedelta(seconds=1))
    IntakeStore(engine).take_in([event_in("pi-1", 1, Phase.FETCHING, rollout=sound.id)], NOW)
    evaluate = RolloutStore.evaluate

    def refuse_one(store: RolloutStore, rollout: str, now: datetime | None = None, **more: Any) -> Evaluation | None:
        if rollout == broken.id:
            raise OperatorError("rollout.state", "no")
        return evaluate(store, rollout, now, **more)

    monkeypatch.setattr(RolloutStore, "evaluate", refuse_one)
    told: Told = []
    async with running(engine, told):
        await until(lambda: bool(told))
    assert {one.id for one, _ in told} == {sound.id}


async def test_a_device_is_asked_again_though_the_clock_was_put_back(engine: Engine) -> None:
    times, asked = iter([NOW + timedelta(days=1), NOW, NOW]), list[list[str]]()
    runner = RolloutRunner(RolloutStore(engine), lambda *_: None, ask=asked.append, clock=lambda: next(times))
    for _ in range(3):
        await runner._ask_for({"rollout": {"pi-1"}})
    assert asked == [["pi-1"], ["pi-1"]]


async def test_a_device_that_has_answered_is_asked_again_soon_and_a_silent_one_not(engine: Engine) -> None:
    """It is asked for each rollout that wants to know; a soak must not wait because another one asked before."""
    now, asked = [NOW], list[list[str]]()
    runner = RolloutRunner(RolloutStore(engine), lambda *_: None, ask=asked.append, clock=lambda: now[0])
    assert await runner._ask_for({"first": {"pi-1", "pi-2"}}) is None
    runner.touch(heard=["pi-1", "pi-3"])
    await runner._round()
    now[0] += timedelta(seconds=5)
    assert await runner._ask_for({"second": {"pi-1", "pi-2"}}) == NOW + runner_module.ASK_ANEW
    now[0] = NOW + runner_module.ASK_ANEW
    assert await runner._ask_for({"second": {"pi-1", "pi-2"}}) is None
    now[0] = NOW + runner_module.ASK_AGAIN
    await runner._ask_for({"second": {"pi-2"}})
    assert asked == [["pi-1", "pi-2"], ["pi-1"], ["pi-2"]]


async def test_whom_a_round_could_not_ask_yet_a_later_one_asks_though_nothing_was_touched(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [NOW], list[list[str]]()
    monkeypatch.setattr(RolloutStore, "asking", lambda _store: {"second": {"pi-1"}})
    runner = RolloutRunner(RolloutStore(engine), lambda *_: None, ask=asked.append, clock=lambda: now[0])
    await runner._ask_for({"first": {"pi-1"}})
    runner.touch(rollouts={"second": None}, heard=["pi-1"])
    assert await runner._round() == NOW + runner_module.ASK_ANEW
    now[0] += runner_module.ASK_ANEW
    assert await runner._round() is None
    assert asked == [["pi-1"], ["pi-1"]]


def resting(engine: Engine) -> RolloutRunner:
    return RolloutRunner(RolloutStore(engine), lambda _rollout, _announced: None, clock=lambda: NOW)


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for more than devices have to say waits for an hour."""
    for name in ("_SHARE", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(runner_module, name, 3600.0)


@pytest.mark.usefixtures("long_pauses")
async def test_what_devices_have_said_to_the_end_is_looked_at_at_once(engine: Engine) -> None:
    runner = resting(engine)
    runner.touch(heard=["pi-1"], more=True)
    runner.touch(heard=["pi-1"])
    async with asyncio.timeout(30):
        await runner._pause(asyncio.get_running_loop().time() - 10, 1.0)


@pytest.mark.usefixtures("long_pauses")
async def test_the_middle_of_what_devices_have_to_say_is_not_looked_at_before_its_end(engine: Engine) -> None:
    runner = resting(engine)
    runner.touch(heard=["pi-1"], more=True)
    pausing = asyncio.create_task(runner._pause(asyncio.get_running_loop().time() - 10, 1.0))
    done, _ = await asyncio.wait({pausing}, timeout=0.2)
    assert not done
    runner.touch()
    async with asyncio.timeout(30):
        await pausing


async def test_a_pause_ends_though_more_comes_all_the_time(engine: Engine) -> None:
    runner = resting(engine)
    runner.touch(heard=["pi-1"], more=True)
    async with asyncio.timeout(30):
        await runner._pause(asyncio.get_running_loop().time(), 0.01)


async def test_a_round_is_followed_by_a_moment_s_pause_whatever_was_said(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_LEAST_PAUSE_S", 0.2)
    clock, runner = asyncio.get_running_loop().time, resting(engine)
    began = clock()
    runner.touch(heard=["pi-1"])
    await runner._pause(began, 0.0)
    assert clock() - began >= 0.19
