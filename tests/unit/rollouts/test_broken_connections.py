"""Connections that break around a deadline, through intake, runner and store."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.runner import RolloutRunner
from controller.rollouts.store import RolloutStore
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import Phase
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in
from tests.unit.rollouts.test_looks import begun


class Stage:
    def __init__(self, engine: Engine, success: float = 100) -> None:
        plan = RolloutPlan(waves=[Wave(upto=100, deadline="2h", success=success)])
        self.now = NOW
        self.intake = IntakeStore(engine)
        self.intake.take_in([presence_in("pi-1"), presence_in("pi-2")], NOW)
        self.store, self.rollout = begun(engine, "pi-1", "pi-2", plan=plan)
        self.seen: list[tuple[RolloutState, bool]] = []
        self.runner = RolloutRunner(
            self.store, lambda view, announced: self.seen.append((view.state, announced)), clock=lambda: self.now
        )

    async def take(self, minutes: float, *batch: Any) -> None:
        self.now = NOW + timedelta(minutes=minutes)
        if batch:
            out = self.intake.take_in(list(batch), self.now)
            self.runner.touch(rollouts=out.rollouts, channels=out.channels, heard=out.tracks)
        await self.runner._round()

    def look(self) -> Any:
        found = self.store.evaluate(self.rollout.id, self.now, changed={})
        assert found is not None
        return found.view

    async def until_late(self) -> None:
        about = {"rollout": self.rollout.id, "package": self.rollout.package, "version": "2.0.0"}
        self.runner.touch(rollouts={self.rollout.id: None})
        await self.take(0)
        runs = {self.rollout.package: installed("2.0.0", rollout=self.rollout.id)}
        await self.take(1, event_in("pi-2", 1, Phase.SUCCEEDED, **about), reported_in("pi-2", 1, packages=runs))
        await self.take(2, event_in("pi-1", 1, Phase.FETCHING, **about))
        await self.take(121)


async def test_a_forgiven_late_device_whose_connection_breaks_stops_nothing(engine: Engine) -> None:
    stage = Stage(engine)
    await stage.until_late()
    assert stage.look().state is RolloutState.PAUSED
    stage.store.set_state(stage.rollout.id, RolloutState.ACTIVE, stage.now)
    stage.runner.touch(rollouts={stage.rollout.id: None})
    await stage.take(122)
    assert stage.look().state is RolloutState.COMPLETE
    await stage.take(300, presence_in("pi-1", online=False))
    await stage.take(300.2, presence_in("pi-1", online=True, session=2))
    await stage.take(311)
    assert stage.look().state is RolloutState.COMPLETE, stage.look().because


async def test_a_late_device_whose_connection_breaks_has_nothing_announced_again(engine: Engine) -> None:
    stage = Stage(engine, success=50)
    await stage.until_late()
    assert stage.look().state is RolloutState.COMPLETE
    stage.seen.clear()
    for number in range(5):
        at = 300 + 60 * number
        await stage.take(at, presence_in("pi-1", online=False, session=number + 1))
        await stage.take(at + 0.2, presence_in("pi-1", online=True, session=number + 2))
        await stage.take(at + 11)
    announced = [state for state, is_announced in stage.seen if is_announced]
    assert announced == []


async def test_who_is_back_within_the_grace_is_late_as_a_look_at_everything_says(engine: Engine) -> None:
    stage = Stage(engine)
    about = {"rollout": stage.rollout.id, "package": stage.rollout.package, "version": "2.0.0"}
    stage.runner.touch(rollouts={stage.rollout.id: None})
    await stage.take(0)
    await stage.take(2, event_in("pi-1", 1, Phase.FETCHING, **about))
    await stage.take(119, presence_in("pi-1", online=False))
    await stage.take(121)
    await stage.take(122, presence_in("pi-1", online=True, session=2))
    partly = stage.look()
    whole = RolloutStore(engine).evaluate(stage.rollout.id, stage.now)
    assert whole is not None
    assert partly.verdicts == whole.view.verdicts
