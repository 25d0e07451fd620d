"""A wave whose devices are held says who they are, who holds them and what lets them go."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from controller.database import utc_now
from controller.fleet.orders import OrderStore
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import MOST_HELD, RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout, WaveState
from controller.rollouts.waves import RolloutPlan, Wave
from controller.web.rollout_reading import device_rows
from schemas.messages import Phase, Targets
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in, succeeded_in
from tests.unit.rollouts.test_waves_kept import chosen, create, evaluate, fleet, take_in

ONE_FIRST = RolloutPlan(waves=[Wave(devices=1), Wave(upto=100)])
ALL = RolloutPlan(waves=[Wave(upto=100, success=0)])


def owner_holds(engine: Engine, rollout: Rollout, *devices: str) -> Rollout:
    """These devices have heard of the rollout, and their owners have them start nothing."""
    for device in devices:
        waits = event_in(device, 1, Phase.DEFERRED, rollout=rollout.id, detail={"reason": "hold"})
        take_in(engine, presence_in(device), waits)
    return evaluate(engine, rollout).view


def test_a_wave_whose_only_device_its_owner_holds_says_so_and_what_lets_it_go(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    device = chosen(engine)
    seen = owner_holds(engine, rollout, device)
    says = (
        f"waits for {device}, which is held by its owner; 0 succeeded; flotilla-agent hold off on it lets it go on;"
        f" released anew with --exclude {device} it goes on without it"
    )
    assert (seen.waves[0].state, seen.waves[0].because) == (WaveState.RUNNING, says)
    assert seen.because == f"wave 1 of 2 (1 device): {says}"
    assert RolloutReader(engine).rollout(rollout.id) == seen
    for shown in (RolloutReader(engine).devices(rollout.id), device_rows(engine, rollout.id)):
        assert {one.device: one.reason for one in shown}[device] == "held by its owner"
    # a rollout that was stopped waits for nobody
    stopped = RolloutStore(engine).set_state(rollout.id, RolloutState.PAUSED, rollout.created_at)
    assert "held" not in stopped.because


def test_what_else_a_device_waits_for_is_no_hold(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, ALL)
    take_in(engine, event_in("pi-1", 1, Phase.DEFERRED, rollout=rollout.id, detail={"reason": "window"}))
    assert evaluate(engine, rollout).view.because == "waits for 1 deferred; 0 succeeded"
    assert [one.reason for one in RolloutReader(engine).devices(rollout.id)] == [""]


def test_a_later_wave_names_who_is_held_and_how_to_go_on_without_them(engine: Engine) -> None:
    fleet(engine, 6)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100)]))
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id))
    assert evaluate(engine, rollout).view.wave == 2
    seen = owner_holds(engine, rollout, "pi-2", "pi-3")
    without = f"flotilla cancel {rollout.id} --device DEVICE goes on without it"
    # the others are at it
    assert seen.waves[1].because == (
        "waits for 3 pending, 2 deferred; 0 succeeded; pi-2, pi-3 are held by their owners:"
        f" flotilla-agent hold off on them lets each go on; {without}"
    )
    owner_holds(engine, rollout, "pi-4", "pi-5")
    take_in(engine, *succeeded_in("pi-6", 1, rollout=rollout.id))
    assert evaluate(engine, rollout).view.waves[1].because == (
        "waits for pi-2, pi-3, pi-4 and 1 more, which are held by their owners; 1 succeeded;"
        f" flotilla-agent hold off on them lets each go on; {without}"
    )


@pytest.mark.parametrize(
    ("told", "why", "options"),
    [
        ({"hold": True}, "held by an operator", "--hold"),
        ({"pins": {"tacho": "1.0.0"}}, "pinned at 1.0.0", "--pin"),
        ({"hold": True, "pins": {"tacho": "1.0.0"}}, "held by an operator and pinned at 1.0.0", "--hold and --pin"),
    ],
)
def test_a_rollout_that_cannot_begin_as_its_operator_holds_all_says_so(
    engine: Engine, told: dict[str, object], why: str, options: str
) -> None:
    fleet(engine, 1)
    OrderStore(engine).set_desired("pi-1", **told)  # type: ignore[arg-type]  # as one case or another has them
    says = f"waits for pi-1, which is {why}; flotilla tell pi-1 without {options} lets it go on"
    rollout = create(engine, ONE_FIRST)
    assert (rollout.wave, rollout.verdicts) == (0, {Verdict.HELD: 1})
    assert rollout.because == f"wave 1 of 2 (1 device): {says}"
    assert rollout.waves[0].because == says


def test_a_wave_that_has_begun_says_that_its_operator_holds_it(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=["pi-1", "pi-2"]), Wave(upto=100)]))
    orders = OrderStore(engine)
    orders.set_desired("pi-1", hold=True)
    # whom it holds is passed over as long as there is somebody else
    assert evaluate(engine, rollout).view.waves[0].because == "waits for 1 pending; 0 succeeded"
    orders.set_desired("pi-2", pins={"tacho": "1.0.0"})
    assert evaluate(engine, rollout).view.waves[0].because == (
        "waits for pi-1, which is held by an operator, and pi-2, which is pinned at 1.0.0; 0 succeeded;"
        " flotilla tell pi-1 without --hold lets it go on; flotilla tell pi-2 without --pin lets it go on"
    )


def test_who_is_held_and_who_is_away_are_both_told_of(engine: Engine) -> None:
    fleet(engine, 3)
    take_in(engine, presence_in("pi-2", online=False))
    OrderStore(engine).set_desired("pi-1", hold=True)
    plan = RolloutPlan(waves=[Wave(devices=["pi-1", "pi-2"], deadline="1h"), Wave(upto=100)])
    rollout = create(engine, plan, now=NOW + timedelta(minutes=1))
    assert evaluate(engine, rollout, NOW + timedelta(hours=2)).view.waves[0].because == (
        "waits for pi-1, which is held by an operator; 1 unreached; 0 succeeded;"
        " flotilla tell pi-1 without --hold lets it go on"
    )


def test_who_is_away_is_not_said_to_be_held(engine: Engine) -> None:
    fleet(engine, 3)
    take_in(engine, *(presence_in(f"pi-{one}", online=False) for one in (1, 2)))
    OrderStore(engine).set_desired("pi-3", hold=True)
    rollout = create(engine, ONE_FIRST)
    assert rollout.waves[0].because == (
        "waits for a device that is online, may start and lacks the release;"
        " pi-3 is held by an operator: flotilla tell pi-3 without --hold lets it go on"
    )


def test_nobody_is_told_to_go_on_without_the_only_device_there_is(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, ALL, targets=Targets())
    assert owner_holds(engine, rollout, "pi-1").because == (
        "waits for pi-1, which is held by its owner; 0 succeeded; flotilla-agent hold off on it lets it go on"
    )


def test_nor_where_all_others_are_held_too(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, ALL)
    OrderStore(engine).set_desired("pi-1", hold=True)
    assert owner_holds(engine, rollout, "pi-2").because == (
        "waits for pi-2, which is held by its owner; 0 succeeded; flotilla-agent hold off on it lets it go on"
    )


def test_too_many_to_look_at_are_counted_only(engine: Engine) -> None:
    names = fleet(engine, MOST_HELD + 1)
    rollout = create(engine, ALL)
    assert owner_holds(engine, rollout, *names[1:]).because.startswith(
        f"waits for 1 pending, {MOST_HELD} deferred; 0 succeeded; pi-10, pi-11, pi-12 and 47 more are held"
    )
    assert owner_holds(engine, rollout, names[0]).because == f"waits for {MOST_HELD + 1} deferred; 0 succeeded"


def test_a_first_wave_whose_only_device_is_left_out_does_not_call_it_unknown(engine: Engine) -> None:
    fleet(engine, 3)
    plan = RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100)])
    says = "0 succeeded; pi-1 left out; nobody is left to prove it: release it anew to begin with others"
    # asked to leave it, and has not answered
    rollout = create(engine, plan)
    assert RolloutStore(engine).cancel(rollout.id, "pi-1", NOW).waves[0].because == says
    # named by the wave, and not what the release asks for
    take_in(engine, reported_in("pi-2", tags={"site": "bern"}))
    rollout = create(engine, plan, targets=Targets(where={"site": ["bern"]}))
    assert rollout.waves[0].because == (
        "waits for pi-1, unknown or on another channel, or without what the release asks for; where that stays so,"
        " release it anew to begin with others"
    )


def test_a_hold_that_an_operator_took_back_while_the_device_was_away_is_not_its_owners(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100)]))
    orders = OrderStore(engine)
    orders.set_desired("pi-1", hold=True)
    owner_holds(engine, rollout, "pi-1")  # it says the same, whoever holds it
    take_in(engine, presence_in("pi-1", online=False))
    orders.set_desired("pi-1", hold=False)
    assert evaluate(engine, rollout).view.waves[0].because == "waits for 1 deferred; 0 succeeded"
    for shown in (RolloutReader(engine).devices(rollout.id), device_rows(engine, rollout.id)):
        assert {one.device: one.reason for one in shown}["pi-1"] == ""
    take_in(engine, presence_in("pi-1", session=2), at=utc_now())
    assert "held by its owner" in evaluate(engine, rollout, utc_now()).view.waves[0].because
