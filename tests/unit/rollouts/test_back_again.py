"""A device that its operator had go elsewhere comes back to what its channel has: that is no failure of the release."""

from datetime import datetime, timedelta

from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, Wave
from tests.unit.fleet.builders import NOW, installed, reported_in, succeeded_in

STRICT = RolloutPlan(name="strict", waves=[Wave(devices=["pi-1"], max_failures=0), Wave(upto=100, approval=True)])
"""One failure of its first device stops it."""


def take_in(engine: Engine, *batch: object, at: datetime = NOW) -> None:
    IntakeStore(engine).take_in(batch, at)  # type: ignore[arg-type]


def look(engine: Engine, rollout: Rollout, at: datetime = NOW) -> Rollout:
    found = RolloutStore(engine).evaluate(rollout.id, at)
    assert found is not None
    return found.view


def succeeded_on_the_canary(engine: Engine) -> Rollout:
    take_in(engine, reported_in("pi-1"), reported_in("pi-2"))
    rollout = RolloutStore(engine).create(
        package="tacho", version="2.0.0", channel="stable", repository=["http://127.0.0.1:1"], plan=STRICT, now=NOW
    )
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id))
    assert look(engine, rollout).waves[0].verdicts == {Verdict.SUCCEEDED: 1}
    return rollout


def test_a_pin_that_is_taken_back_has_its_device_waited_for_and_stops_nothing(engine: Engine) -> None:
    rollout = succeeded_on_the_canary(engine)
    orders = OrderStore(engine)
    orders.set_desired("pi-1", pins={"tacho": "1.0.0"}, now=NOW)
    take_in(engine, reported_in("pi-1", 4, packages={"tacho": installed("1.0.0")}))
    assert look(engine, rollout).waves[0].verdicts == {Verdict.HELD: 1}

    orders.set_desired("pi-1", now=NOW)
    back = look(engine, rollout)
    assert (back.state, back.waves[0].verdicts) == (RolloutState.ACTIVE, {Verdict.PENDING: 1})
    take_in(engine, *succeeded_in("pi-1", 8, rollout=rollout.id))
    assert look(engine, rollout).waves[0].verdicts == {Verdict.SUCCEEDED: 1}


def test_a_pin_that_was_taken_back_before_the_device_acted_on_it_leaves_a_success(engine: Engine) -> None:
    rollout = succeeded_on_the_canary(engine)
    orders = OrderStore(engine)
    orders.set_desired("pi-1", pins={"tacho": "1.0.0"}, now=NOW)
    orders.set_desired("pi-1", now=NOW)
    assert look(engine, rollout).waves[0].verdicts == {Verdict.SUCCEEDED: 1}
    # it had begun already, and goes there and back
    take_in(engine, reported_in("pi-1", 4, packages={"tacho": installed("1.0.0")}))
    assert look(engine, rollout).waves[0].verdicts == {Verdict.PENDING: 1}


def test_a_device_that_followed_another_channel_for_a_while_stops_nothing_when_it_is_back(engine: Engine) -> None:
    rollout = succeeded_on_the_canary(engine)
    other = {"tacho": installed("1.0.0")}
    take_in(engine, reported_in("pi-1", 4, channel="beta", packages=other))
    assert look(engine, rollout).waves[0].verdicts == {Verdict.HELD: 1}
    take_in(engine, reported_in("pi-1", 4, packages=other))
    back = look(engine, rollout)
    assert (back.state, back.waves[0].verdicts) == (RolloutState.ACTIVE, {Verdict.PENDING: 1})


def test_a_device_that_left_by_itself_still_stops_it(engine: Engine) -> None:
    rollout = succeeded_on_the_canary(engine)
    later = NOW + timedelta(minutes=1)
    take_in(engine, reported_in("pi-1", 4, packages={"tacho": installed("1.0.0")}), at=later)
    left = look(engine, rollout, later)
    assert (left.state, left.waves[0].verdicts) == (RolloutState.HALTED, {Verdict.LEFT: 1})
