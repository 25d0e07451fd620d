"""Who comes back, was let in while away, or fails after an operator went on, and what that does to proven waves."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from controller.database import to_db
from controller.fleet.hours import hour_number, marked
from controller.rollouts.engine import Decisions, approved, decide
from controller.rollouts.explaining import because
from controller.rollouts.judging import STOPPED_BY_ROLLOUT, Judge
from controller.rollouts.plan import Observation, Plan, RolloutState, Verdict, WaveProgress
from controller.rollouts.standing import Standing
from controller.rollouts.tally import Tally
from controller.rollouts.waves import OnFailure, RolloutPlan, Wave
from schemas.messages import Phase
from schemas.targeting import bucket
from tests.unit.rollouts.test_engine import (
    NOW,
    ROLLOUT,
    after,
    device,
    done,
    fleet,
    going_on,
    in_waves,
    next_look,
    plan,
)

LONG_GONE = NOW - timedelta(days=8)


def placed(now: Decisions) -> set[str]:
    return {one for one, mark in now.marks.items() if mark.place}


def in_order(number: int) -> list[Observation]:
    """A fleet in the order in which its turns come."""
    return sorted(fleet(number), key=lambda one: bucket(ROLLOUT, one.device))


def off(seen: Sequence[Observation], who: Collection[str], at: datetime) -> list[Observation]:
    return [changed(one, online=False, last_seen=at) if one.device in who else one for one in seen]


def finished(
    now: Decisions, seen: Sequence[Observation], at: datetime, *, but: Collection[str] = ()
) -> list[Observation]:
    """All that have a place succeed."""
    through = placed(now).difference(but)
    return [done(one.device, at=at) if one.device in through and one.phase is None else one for one in seen]


def again(stopped: Decisions, seen: list[Observation], at: datetime) -> Decisions:
    """What is decided when an operator goes on, of devices of which is known what was kept of them last."""
    kept = [changed(one, forgiven=stopped.marks[one.device].forgiven) for one in seen]
    return decide(*going_on(stopped, kept, at), at)


def test_a_refusal_after_the_proof_stops_nobody_though_a_failure_was_tolerated() -> None:
    begun = plan(plan=RolloutPlan(waves=[Wave(upto=100, success=80)], on_failure=OnFailure.REVERT))
    bad, away = device("pi-5", phase=Phase.ROLLED_BACK), device("pi-6", online=False, last_seen=LONG_GONE)
    seen = [*(done(f"pi-{number}") for number in range(1, 5)), bad]
    now = decide(begun, [*seen, away], NOW)
    assert now.state is RolloutState.COMPLETE
    assert now.plan.progress[0].proven_at is not None
    now = decide(now.plan, [*seen, device("pi-6", last_seen=after(60))], after(60))
    refused = decide(now.plan, [*seen, device("pi-6", phase=Phase.REJECTED)], after(61))
    assert refused.state is RolloutState.COMPLETE
    assert decide(now.plan, [*seen, device("pi-6", phase=Phase.FAILED)], after(61)).state is RolloutState.REVERTED


@pytest.mark.parametrize("max_failures", [0, None])
def test_failures_after_an_operator_went_on_in_spite_of_late_ones_are_counted(
    max_failures: int | None,
) -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", max_failures=max_failures)]))
    late = [device(f"late-{number}", phase=Phase.FETCHING, last_seen=after(7200)) for number in range(4)]
    away = [device(f"away-{number}", online=False, last_seen=LONG_GONE) for number in range(3)]
    seen = [*(done(f"good-{number}") for number in range(6)), *late]
    paused = decide(bounded, [*seen, *away], after(7201))
    assert paused.state is RolloutState.PAUSED
    now = decide(*going_on(paused, [*seen, *away], after(7202)), after(7202))
    assert now.state is RolloutState.COMPLETE
    broke = [changed(one, online=True, phase=Phase.ROLLED_BACK, last_seen=after(8000)) for one in away]
    active = replace(now, plan=replace(now.plan, state=RolloutState.ACTIVE))
    assert next_look(active, [*seen, *broke], after(8001)).state is RolloutState.HALTED
    # whom the operator went on in spite of is forgiven, whatever becomes of it
    failed = [changed(one, phase=Phase.FAILED) for one in late]
    assert next_look(now, [*seen[:-4], *failed, *away], after(8001)).state is RolloutState.COMPLETE


def test_one_that_succeeded_after_all_is_forgiven_no_more() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, max_failures=0)]))
    seen = [device("pi-1", phase=Phase.FAILED), device("pi-2", phase=Phase.FAILED), *fleet(3)[2:]]
    stopped = decide(bounded, seen, NOW)
    now = decide(*going_on(stopped, seen, after(1)), after(1))
    assert [name for name, mark in now.marks.items() if mark.forgiven] == ["pi-1", "pi-2"]
    now = next_look(now, [done("pi-1"), *seen[1:]], after(2))
    assert [name for name, mark in now.marks.items() if mark.forgiven] == ["pi-2"]
    assert now.state is RolloutState.ACTIVE
    now = next_look(now, [device("pi-1", phase=Phase.ROLLED_BACK), *seen[1:]], after(3))
    assert now.state is RolloutState.HALTED


def test_one_that_succeeded_after_all_hides_no_other_that_failed_meanwhile() -> None:
    """Both words may come in before the same look, as they do where many are tried again."""
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, max_failures=0)]))
    seen = [device("pi-1", phase=Phase.FAILED), *fleet(3)[1:]]
    stopped = decide(bounded, seen, NOW)
    now = decide(*going_on(stopped, seen, after(1)), after(1))
    assert now.state is RolloutState.ACTIVE
    now = next_look(now, [done("pi-1"), device("pi-2", phase=Phase.FAILED), seen[2]], after(2))
    assert now.state is RolloutState.HALTED


def test_who_is_away_or_held_for_a_while_stays_forgiven() -> None:
    """It has done nothing: neither what it was forgiven for again, nor anything else."""
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", max_failures=0)]))
    late = device("pi-1", last_seen=after(7200))
    seen = [done("pi-2"), late]
    now = decide(*going_on(decide(bounded, seen, after(7201)), seen, after(7202)), after(7202))
    assert (now.state, now.verdicts["pi-1"]) == (RolloutState.COMPLETE, Verdict.LATE)
    for change in {"hold": True}, {"pinned": "1.0.0"}, {"online": False, "last_seen": after(-700_000)}:
        now = next_look(now, [seen[0], changed(late, **change)], after(7300))
        assert now.verdicts["pi-1"] in {Verdict.HELD, Verdict.UNREACHED}
        paused = next_look(replace(now, plan=replace(now.plan, state=RolloutState.PAUSED)), seen, after(7350))
        assert paused.verdicts["pi-1"] is Verdict.HELD
        now = next_look(replace(paused, plan=now.plan), seen, after(7400))
        assert (now.state, now.verdicts["pi-1"], now.marks["pi-1"].forgiven) == ("complete", Verdict.LATE, True)


@pytest.mark.parametrize("change", [{"hold": True}, {"online": False, "last_seen": after(-700_000)}])
def test_who_is_away_or_held_when_an_operator_goes_on_for_another_stays_forgiven(change: dict[str, Any]) -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", soak="3h", max_failures=0)]))
    late, soaking = device("pi-1", last_seen=after(7200)), done("pi-2", at=after(7000), last_seen=after(7200))
    first, second = device("pi-3", phase=Phase.FAILED), device("pi-4", phase=Phase.ROLLED_BACK)
    begun = decide(bounded, fleet(4), NOW).plan
    seen = [late, soaking, first, changed(soaking, device="pi-4")]
    now = again(decide(begun, seen, after(7201)), seen, after(7202))
    assert (now.state, now.marks["pi-1"].forgiven) == (RolloutState.ACTIVE, True)
    seen = [changed(late, **change), soaking, first, second]
    stopped = next_look(now, seen, after(7300))
    assert stopped.state is RolloutState.HALTED
    now = again(stopped, seen, after(7301))
    now = next_look(now, [late, done("pi-2", at=after(7000), last_seen=after(18_000)), first, second], after(18_001))
    assert (now.state, now.verdicts["pi-1"], now.marks["pi-1"].forgiven) == ("complete", Verdict.LATE, True)


def test_who_was_forgiven_and_stopped_for_a_halt_of_an_operator_stays_forgiven() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", soak="3h", max_failures=0)]))
    late, soaking = device("pi-1", phase=Phase.DEFERRED), done("pi-2", at=after(7000), last_seen=after(7200))
    failed = device("pi-3", phase=Phase.FAILED)
    begun = decide(bounded, fleet(3), NOW).plan
    now = again(decide(begun, [late, soaking, failed], after(7201)), [late, soaking, failed], after(7202))
    assert (now.state, now.marks["pi-1"].forgiven) == (RolloutState.ACTIVE, True)
    stopped = device("pi-1", phase=Phase.CANCELLED, error_code=STOPPED_BY_ROLLOUT)
    halted = replace(now, plan=replace(now.plan, state=RolloutState.HALTED))
    halted = next_look(halted, [stopped, soaking, failed], after(7300))
    assert halted.verdicts["pi-1"] is Verdict.CANCELLED
    now = again(halted, [stopped, soaking, failed], after(7400))
    now = next_look(now, [late, done("pi-2", at=after(7000), last_seen=after(18_000)), failed], after(18_001))
    assert (now.state, now.verdicts["pi-1"], now.marks["pi-1"].forgiven) == ("complete", Verdict.LATE, True)


def test_a_silent_device_that_is_asleep_when_an_operator_goes_on_stops_nothing_in_the_morning() -> None:
    hours = None
    for hour in range(-24 * 21, 0):
        at = NOW + timedelta(hours=hour)
        if 8 <= at.hour < 20:
            hours = marked(hours, hour_number(to_db(at)))
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="1h", soak="3d", max_failures=0)]))
    gone = device("pi-1", phase=Phase.FETCHING, online=False, last_seen=NOW, hours=hours)
    seen = [gone, done("pi-2", at=NOW, last_seen=after(1000))]
    stopped = decide(decide(bounded, fleet(2), NOW).plan, seen, after(2 * 3600))
    assert (stopped.state, stopped.verdicts["pi-1"]) == (RolloutState.HALTED, Verdict.SILENT)
    night, morning = after(14 * 3600), after(22 * 3600)
    now = again(stopped, seen, night)
    assert (now.state, now.verdicts["pi-1"]) == (RolloutState.ACTIVE, Verdict.ASLEEP)
    now = next_look(now, seen, morning)
    assert (now.state, now.verdicts["pi-1"]) == (RolloutState.ACTIVE, Verdict.SILENT)
    # who has not begun, and comes back and fails, is another matter
    never = device("pi-3", online=False, last_seen=NOW, hours=hours)
    stopped = decide(decide(bounded, fleet(2), NOW).plan, [*seen, never], after(2 * 3600))
    assert not again(stopped, [*seen, never], night).marks["pi-3"].forgiven


def test_who_is_tried_again_and_fails_again_is_forgiven_no_more() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, max_failures=0)]))
    seen = [device("pi-1", phase=Phase.FAILED), *fleet(2)[1:]]
    now = decide(*going_on(decide(bounded, seen, NOW), seen, after(1)), after(1))
    now = next_look(now, [device("pi-1", phase=Phase.FETCHING), seen[1]], after(2))
    assert now.state is RolloutState.ACTIVE
    assert next_look(now, seen, after(3)).state is RolloutState.HALTED


def test_who_comes_back_to_a_proven_wave_holds_up_no_later_one() -> None:
    waves = in_waves(Wave(devices=["pi-1", "pi-2"]), Wave(devices=["pi-3", "pi-4"], concurrency=1), Wave(upto=100))
    away = device("pi-2", online=False, last_seen=LONG_GONE)
    rest = [device(f"pi-{number}") for number in (3, 4, 5)]
    now = decide(waves, [device("pi-1"), away, *rest], NOW)
    now = decide(now.plan, [done("pi-1"), away, *rest], after(10))
    assert now.plan.begun == 2
    (first,) = placed(now)
    # back, and outside its own window for the next day
    back = device("pi-2", phase=Phase.DEFERRED, last_seen=after(20))
    rest = [done(one.device, at=after(30)) if one.device == first else one for one in rest]
    now = decide(now.plan, [done("pi-1"), back, *rest], after(30))
    assert placed(now) == {"pi-3", "pi-4"} - {first}
    # all others have it: what is waited for is named
    now = decide(now.plan, [done("pi-1"), back, *(done(f"pi-{number}") for number in (3, 4, 5))], after(40))
    assert because(now.plan, Tally(now.marks.values())).startswith("wave 1 of 3 (2 devices): waits for 1 deferred")
    failed = [done("pi-1"), device("pi-2", phase=Phase.FAILED), *(done(f"pi-{number}") for number in (3, 4, 5))]
    assert decide(now.plan, failed, after(50)).state is RolloutState.HALTED


def test_who_goes_away_in_its_turn_keeps_its_place_in_a_wave_that_lists_many() -> None:
    tags = {"site": "bern"}
    seen = [changed(one, tags=tags) for one in in_order(300)]
    now = decide(in_waves(Wave(where=tags, concurrency=10, success=0)), seen, NOW)
    number = 0
    while len(now.targets.devices) < 220:
        number += 10
        seen = [changed(one, tags=tags) for one in finished(now, seen, after(number))]
        now = decide(now.plan, seen, after(number))
    turn = sorted(placed(now))
    seen = off(seen, turn[1:], after(number + 1))
    seen = [done(turn[0], at=after(number + 5)) if one.device == turn[0] else one for one in seen]
    later = decide(now.plan, [changed(one, tags=tags) for one in seen], after(number + 5))
    assert placed(later) >= set(turn[1:])
    assert len(placed(later)) == 10
    assert later.plan.progress[0].opened_at is None  # nobody was let in by it


def test_who_goes_away_in_its_turn_keeps_its_place_when_those_that_are_away_are_let_in() -> None:
    seen = in_order(1600)
    seen = off(seen, {one.device for one in seen[301::2]}, NOW - timedelta(minutes=1))
    now = decide(in_waves(Wave(upto=100, concurrency=300, success=10)), seen, NOW)
    turn = placed(now)
    assert (len(turn), now.plan.progress[0].opened_at) == (300, None)
    gone = sorted(turn)[:20]
    seen = off(finished(now, seen, after(6), but=gone), gone, after(5))
    now = decide(now.plan, seen, after(6))
    assert now.plan.progress[0].opened_at == after(6)
    assert placed(now) >= set(gone)
    assert len(placed(now)) == 300
    # and not for ever: whoever does not come back is not waited for with the others' turns
    assert not placed(decide(now.plan, seen, after(700))) & set(gone)


def later_share(seen: list[Observation]) -> tuple[Plan, Callable[[Decisions], bool], set[str]]:
    waves = in_waves(Wave(upto=50, concurrency=1, success=10, deadline="1h"), Wave(upto=100))
    return waves, lambda now: now.plan.begun == 2, {one.device for one in seen[1:5]}


def all_at_last(seen: list[Observation]) -> tuple[Plan, Callable[[Decisions], bool], set[str]]:
    waves = in_waves(Wave(upto=100, concurrency=len(seen) * 3 // 10, deadline="1h"))
    went = {one.device for one in seen[len(seen) * 3 // 10 : len(seen) * 6 // 10]}
    return waves, lambda now: now.verdicts[seen[-1].device] is Verdict.SUCCEEDED, went


@pytest.mark.parametrize(("number", "case"), [(20, later_share), (100, all_at_last), (1000, all_at_last)])
def test_who_was_let_in_while_away_and_never_came_back_is_unreached_and_not_late(
    number: int, case: Callable[[list[Observation]], tuple[Plan, Callable[[Decisions], bool], set[str]]]
) -> None:
    """Whether it is by a wave that comes later, or as there are too many to list."""
    seen = in_order(number)
    waves, is_through, went = case(seen)
    now = decide(waves, seen, NOW)
    assert not placed(now) & went
    seen = off(seen, went, after(60))
    for second in range(120, 600, 10):
        seen = finished(now, seen, after(second), but=went)
        if now.plan.begun == len(waves.waves):
            seen = [done(one.device, at=after(second)) if one.online else one for one in seen]
        now = decide(now.plan, seen, after(second))
    assert is_through(now)
    over = decide(now.plan, seen, after(3601))
    assert {over.verdicts[one] for one in went} == {Verdict.UNREACHED}
    assert over.state is RolloutState.COMPLETE


def test_whom_a_pin_kept_out_begins_in_its_turn() -> None:
    seen = in_order(40)
    pinned = [changed(one, pinned="1.0.0") for one in seen[:20]]
    now = decide(in_waves(Wave(upto=100, concurrency=1)), [*pinned, *seen[20:]], NOW)
    assert placed(now) == {seen[20].device}
    now = decide(now.plan, seen, after(60))
    assert placed(now) == {seen[20].device}


def test_a_hold_during_a_turn_after_the_deadline_does_not_end_it() -> None:
    seen = [changed(one, last_seen=after(3600)) for one in fleet(6)]
    now = decide(in_waves(Wave(upto=100, concurrency=2, deadline="1h", success=10)), seen, NOW)
    now = decide(now.plan, seen, after(3601))
    held = min(placed(now))
    now = decide(now.plan, [changed(one, hold=one.device == held) for one in seen], after(3610))
    assert len(placed(now) - {held}) == 2  # another one has begun
    assert decide(now.plan, seen, after(3620)).verdicts[held] is Verdict.PENDING


def test_a_look_at_who_was_heard_of_is_as_good_as_one_at_all_between_a_deadline_and_its_grace() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h")]))
    away = device("pi-1", phase=Phase.FETCHING, online=False, last_seen=after(7140))
    now = decide(bounded, [done("pi-2"), away], after(7150))
    standing, heard = Standing(None, now.plan, now.marks), changed(away, last_seen=after(7260))
    whole = decide(now.plan, [done("pi-2"), heard], after(7260))
    judged = standing.take_due(after(7260)) | (standing.listening & {"pi-1"})
    standing.update({one: Judge(now.plan, after(7260)).mark(heard) for one in judged})
    assert standing.tally.verdicts() == Tally(whole.marks.values()).verdicts()


def test_a_forgiven_late_device_that_fails_makes_no_failure_of_another_that_is_late() -> None:
    devices = ["pi-1", "pi-2", "pi-3"]
    first = Wave(devices=devices, deadline="2h", max_failures=0)
    waves = in_waves(first, Wave(upto=100), on_failure=OnFailure.REVERT)
    late = device("pi-1", phase=Phase.FETCHING, last_seen=after(7200))
    away = device("pi-2", online=False, last_seen=LONG_GONE)
    rest = [done("pi-3"), device("pi-4", last_seen=after(7200))]
    paused = decide(decide(waves, [late, away, *rest], NOW).plan, [late, away, *rest], after(7201))
    assert paused.state is RolloutState.PAUSED
    now = decide(*going_on(paused, [late, away, *rest], after(7202)), after(7202))
    now = next_look(now, [changed(late, phase=Phase.FAILED), away, *rest], after(7300))
    assert now.state is RolloutState.ACTIVE
    back = changed(away, online=True, last_seen=after(7400))
    now = next_look(now, [changed(late, phase=Phase.FAILED), back, *rest], after(7400))
    assert (now.verdicts["pi-2"], now.state) == (Verdict.LATE, RolloutState.ACTIVE)


def test_a_refusal_after_what_was_forgiven_is_no_failure_and_a_failure_is_one() -> None:
    wave = Wave(devices=["a", "b", "c", "d"], deadline="2h", max_failures=0)
    begun = WaveProgress(started_at=NOW, devices=["a", "b", "c", "d"], proven_at=after(100))
    waves = in_waves(wave, Wave(upto=100), on_failure=OnFailure.REVERT)
    before = replace(waves, progress=(begun, WaveProgress(started_at=after(100), upto=10_000)))
    failed = [device(name, phase=Phase.FAILED, forgiven=True) for name in ("a", "b")]
    seen = [*failed, done("c"), device("e")]
    now = decide(before, seen, after(200))
    now = next_look(now, [*seen, device("d", phase=Phase.REJECTED, last_seen=after(200))], after(300))
    assert now.state is RolloutState.ACTIVE
    now = next_look(now, [*seen, device("d", phase=Phase.FAILED, last_seen=after(200))], after(400))
    assert now.state is RolloutState.REVERTED


@pytest.mark.parametrize(
    "canary",
    [
        [changed(done("pi-1", at=after(10)), pinned="1.0.0", installed="1.0.0", reported_since=True)],
        [],
        [device("pi-1", online=False, last_seen=LONG_GONE)],
    ],
    ids=["pinned", "forgotten", "away"],
)
def test_a_canary_that_is_taken_elsewhere_after_its_proof_holds_up_nobody(canary: list[Observation]) -> None:
    waves = in_waves(Wave(devices=["pi-1"]), Wave(upto=100, approval=True))
    now = decide(waves, [done("pi-1"), device("pi-2")], NOW)
    now = decide(now.plan, [*canary, device("pi-2")], after(20))
    going = approved(now.plan, after(21))
    assert going is not None
    assert decide(going, [*canary, device("pi-2")], after(21)).plan.begun == 2


def test_a_least_number_of_results_unproves_nothing_and_is_not_waited_for_where_nobody_is() -> None:
    names = ["pi-1", "pi-2", "pi-3", "pi-4"]
    waves = in_waves(Wave(devices=names, success=50, min_results=20), Wave(upto=100, approval=True))
    seen = [done("pi-1"), done("pi-2"), done("pi-3"), device("pi-9")]
    now = decide(waves, seen, NOW)
    assert now.plan.progress[0].proven_at is not None
    seen.append(device("pi-4", phase=Phase.DEFERRED))
    going = approved(decide(now.plan, seen, after(60)).plan, after(61))
    assert going is not None
    assert decide(going, seen, after(61)).plan.begun == 2
    # one that is dead from the beginning
    seen[-1] = device("pi-4", online=False, last_seen=LONG_GONE)
    assert decide(waves, seen, NOW).plan.progress[0].proven_at is not None


@pytest.mark.parametrize("per", [None, "site"])
def test_who_waits_for_a_turn_in_a_proven_wave_holds_up_no_later_one(per: str | None) -> None:
    limited = {"concurrency": 1, "concurrency_per": per}
    waves = in_waves(Wave(devices=["pi-1", "pi-2", "pi-3"], **limited), Wave(upto=100, **limited))
    away = [device(name, online=False, last_seen=LONG_GONE) for name in ("pi-2", "pi-3")]
    rest = [device("pi-8"), device("pi-9")]
    now = decide(waves, [done("pi-1"), *away, *rest], NOW)
    assert now.plan.begun == 2
    back = [device("pi-2", phase=Phase.DEFERRED, last_seen=after(20)), device("pi-3", last_seen=after(20))]
    now = decide(now.plan, [done("pi-1"), *back, *rest], after(20))
    (going,) = placed(now) & {"pi-8", "pi-9"}
    rest = [done(one.device, at=after(30)) if one.device == going else one for one in rest]
    now = decide(now.plan, [done("pi-1"), *back, *rest], after(30))
    assert placed(now) >= {"pi-8", "pi-9"} - {going}
    # and it has its turn when that is free
    now = decide(now.plan, [done("pi-1"), done("pi-2", at=after(40)), back[1], *rest], after(40))
    assert "pi-3" in placed(now)
