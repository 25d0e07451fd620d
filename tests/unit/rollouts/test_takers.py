"""Who runs what a rollout brought, by what they had before: those whom a revert sends back, and where to."""

import pytest
from sqlalchemy import Engine

from controller.rollouts import takers
from controller.rollouts.reader import RolloutReader
from controller.rollouts.views import Takers
from schemas.messages import Phase
from tests.unit.fleet.builders import event_in, installed, presence_in, reported_in
from tests.unit.rollouts.test_waves_kept import create, take_in


def runs(engine: Engine, device: str, rollout: str | None, previous: str | None, version: str = "2.0.0") -> None:
    package = installed(version, previous=previous, rollout=rollout)
    take_in(engine, presence_in(device), reported_in(device, packages={"tacho": package, "needle": installed("2.0.0")}))


def test_those_that_had_nothing_come_first_and_then_the_most(engine: Engine) -> None:
    rollout = create(engine).id
    for number in range(4):
        runs(engine, f"new-{number}", rollout, None)
    runs(engine, "pi-1", rollout, "0.9.0")
    runs(engine, "pi-2", rollout, "1.0.0")
    runs(engine, "pi-3", rollout, "1.0.0")
    assert RolloutReader(engine).takers(rollout, devices_shown=3) == [
        Takers(previous=None, count=4, devices=["new-0", "new-1", "new-2"]),
        Takers(previous="1.0.0", count=2, devices=["pi-2", "pi-3"]),
        Takers(previous="0.9.0", count=1, devices=["pi-1"]),
    ]


def test_who_has_the_version_by_another_way_or_another_version_is_none(engine: Engine) -> None:
    older = create(engine, version="1.0.0").id
    rollout = create(engine).id
    runs(engine, "pi-1", None, "1.0.0")
    runs(engine, "pi-2", older, None, "1.0.0")
    runs(engine, "pi-3", rollout, None, "3.0.0")
    assert RolloutReader(engine).takers(rollout) == []


def test_devices_that_say_anything_are_not_told_apart_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takers, "MOST_VERSIONS", 2)
    rollout = create(engine).id
    for number in range(4):
        runs(engine, f"pi-{number}", rollout, f"1.0.{number}")
    assert [one.previous for one in RolloutReader(engine).takers(rollout)] == ["1.0.0", "1.0.1"]


def test_whoever_runs_it_already_and_is_at_it_is_counted_once(engine: Engine) -> None:
    rollout = create(engine).id
    for device, phase in {
        "pi-1": Phase.PROBATION,  # and runs it
        "pi-2": Phase.FETCHING,
        "pi-3": Phase.PROBATION,
        "pi-4": Phase.SUCCEEDED,  # and has not reported since
        "pi-5": Phase.ROLLED_BACK,
        "pi-6": Phase.SUCCEEDED,  # and runs it
    }.items():
        take_in(engine, event_in(device, 1, phase, rollout=rollout))
    for device in ("pi-1", "pi-6"):
        runs(engine, device, rollout, "1.0.0")
    runs(engine, "pi-3", None, "0.9.0", "1.0.0")
    found = RolloutReader(engine)
    assert [(one.count, one.devices) for one in found.takers(rollout)] == [(2, ["pi-1", "pi-6"])]
    assert found.besides_takers(rollout) == (1, 2)
