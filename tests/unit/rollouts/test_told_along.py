"""Who watches a rollout hears what a change of another one did to it."""

from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.fleet.registry import DeviceRegistry
from controller.fleet.steering import Steering
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from tests.unit.fleet.builders import NOW, succeeded_in

SITE = ["http://127.0.0.1:1/repo"]


class Desk:
    """Steering without a broker: what it tells is kept, and each change takes place a second after the one before."""

    def __init__(self, engine: Engine) -> None:
        self.told: list[tuple[str, str]] = []
        self.now = NOW
        self.runner = Mock()
        self.gone: list[str] = []
        self.steering = Steering(
            engine,
            RolloutStore(engine),
            OrderStore(engine),
            DeviceRegistry(engine),
            announcer=Mock(),
            runner=self.runner,
            on_change=lambda rollout, _: self.told.append((f"{rollout.package} {rollout.version}", str(rollout.state))),
            on_gone=self.gone.append,
            tell=lambda what, *args: what(*args),
            clock=self.clock,
        )

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def news(self) -> list[tuple[str, str]]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def desk(engine: Engine) -> Desk:
    return Desk(engine)


def release(desk: Desk, version: str, **more: Any) -> str:
    made = desk.steering.create_release(package="tacho", version=version, channel="stable", repository=SITE, **more)
    return made.id


def test_of_a_newer_one_that_takes_its_place(desk: Desk) -> None:
    release(desk, "1.0.0")
    assert desk.news() == [("tacho 1.0.0", "active")]
    release(desk, "1.1.0")
    assert desk.news() == [("tacho 1.1.0", "active"), ("tacho 1.0.0", "superseded")]


def test_what_was_done_is_done_though_nobody_can_be_told_of_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release(desk, "1.0.0")
    desk.news()
    lost = Mock(side_effect=OperationalError("SELECT", None, Exception("the connection was lost")))
    monkeypatch.setattr(RolloutStore, "changed_with", lost)
    made = release(desk, "1.1.0")
    desk.steering.set_state(made, RolloutState.PAUSED)
    assert desk.news() == [("tacho 1.1.0", "active"), ("tacho 1.1.0", "paused")]
    assert "the connection was lost" in caplog.text


def test_of_the_others_of_its_set(desk: Desk) -> None:
    release(desk, "1.0.0")
    desk.news()
    packages = {"engine": "2.0.0", "tacho": "2.1.0"}
    one, _ = desk.steering.create_set(packages=packages, channel="stable", repository=SITE)
    assert desk.news() == [("engine 2.0.0", "active"), ("tacho 2.1.0", "active"), ("tacho 1.0.0", "superseded")]
    desk.steering.set_state(one.id, RolloutState.PAUSED)
    assert desk.news() == [("engine 2.0.0", "paused"), ("tacho 2.1.0", "paused")]
    desk.steering.cancel(one.id)
    assert desk.news() == [("engine 2.0.0", "halted"), ("tacho 2.1.0", "halted")]


def test_a_forgotten_device_has_its_rollouts_looked_at(desk: Desk, engine: Engine) -> None:
    old, new = release(desk, "1.0.0"), release(desk, "1.1.0")
    said = [*succeeded_in("pi-1", 1, version="1.0.0", rollout=old), *succeeded_in("pi-1", 2, rollout=new)]
    IntakeStore(engine).take_in(said, NOW)
    desk.runner.reset_mock()
    desk.steering.forget("pi-1")
    desk.runner.touch.assert_called_once_with(rollouts={new: {"pi-1": None}}, channels={"stable": {"pi-1"}})
    assert desk.gone == ["pi-1"]
