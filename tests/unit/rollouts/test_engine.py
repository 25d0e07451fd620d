"""The rollout engine: every device one verdict, the same inputs the same decisions, and who may start when.

The laws that hold for any plan and any fleet are in `test_laws.py`.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from controller.rollouts.engine import approved, decide, resumed
from controller.rollouts.explaining import because
from controller.rollouts.judging import judge
from controller.rollouts.plan import ENDED, MOVES, Decisions, Observation, Plan, RolloutState, Verdict, WaveProgress
from controller.rollouts.tally import Tally
from controller.rollouts.waves import ALL_AT_ONCE, OnFailure, RolloutPlan, Wave
from schemas.messages import Phase, ReleaseState, Targets
from schemas.targeting import bucket

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROLLOUT = "01890a5d-ac96-774b-bcce-b302099a8057"
ONE_WAVE = (WaveProgress(started_at=NOW, upto=10_000),)


def plan(state: RolloutState = RolloutState.ACTIVE, **changes: Any) -> Plan:
    """A rollout to everybody that has begun."""
    return replace(Plan(rollout=ROLLOUT, version="2.0.0", state=state, progress=ONE_WAVE), **changes)


def in_waves(*waves: Wave, **changes: Any) -> Plan:
    """A rollout in waves, none of which has begun."""
    wanted = RolloutPlan(waves=list(waves), on_failure=changes.pop("on_failure", OnFailure.HALT))
    return plan(plan=wanted, progress=tuple(WaveProgress() for _ in waves), **changes)


def device(name: str = "pi-1", **changes: Any) -> Observation:
    return Observation(**{"device": name, "last_seen": NOW} | changes)


def done(name: str = "pi-1", at: datetime = NOW, **changes: Any) -> Observation:
    """A device that succeeded and reports so."""
    runs = {"installed": "2.0.0", "installed_phase": Phase.SUCCEEDED, "reported_since": True}
    return device(name, phase=Phase.SUCCEEDED, heard_at=at, **(runs | {"last_seen": at} | changes))


def fleet(number: int, **changes: Any) -> list[Observation]:
    return [device(f"pi-{one}", **changes) for one in range(1, number + 1)]


def going_on(stopped: Decisions, seen: list[Observation], at: datetime) -> tuple[Plan, list[Observation]]:
    """The rollout and its devices after an operator said that it is to go on."""
    return resumed(replace(stopped.plan, state=RolloutState.ACTIVE), seen, at)


def next_look(now: Decisions, seen: list[Observation], at: datetime) -> Decisions:
    """What is decided on these devices, of which is known what was kept of them last."""
    kept = {device: mark.forgiven for device, mark in now.marks.items()}
    return decide(now.plan, [changed(one, forgiven=kept.get(one.device, False)) for one in seen], at)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# One device


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (device(), Verdict.PENDING),
        (device(installed="1.0.0", installed_phase=Phase.SUCCEEDED), Verdict.PENDING),
        (device(installed="2.0.0", installed_phase=Phase.SUCCEEDED), Verdict.SUCCEEDED),
        (device(installed="2.0.0", installed_phase=Phase.PROBATION), Verdict.PENDING),
        (device(phase=Phase.DEFERRED), Verdict.DEFERRED),
        (device(phase=Phase.FETCHING), Verdict.UPDATING),
        (device(phase=Phase.ROLLING_BACK), Verdict.UPDATING),
        (device(phase=Phase.FAILED, installed="2.0.0", installed_phase=Phase.SUCCEEDED), Verdict.FAILED),
        (device(phase=Phase.REJECTED), Verdict.REJECTED),
        (device(phase=Phase.CANCELLED, error_code="conflict.cancelled"), Verdict.CANCELLED),
        (device(phase=Phase.CANCELLED, error_code="conflict.halted"), Verdict.PENDING),
        (device(pinned="1.0.0"), Verdict.HELD),
        (device(hold=True), Verdict.HELD),
        (device(last_seen=NOW - timedelta(days=8)), Verdict.UNREACHED),
        (device(last_seen=NOW - timedelta(days=8), phase=Phase.STAGED), Verdict.SILENT),
        (done(last_seen=NOW), Verdict.SUCCEEDED),
        (device(phase=Phase.SUCCEEDED, heard_at=NOW), Verdict.SOAKING),
        (done(installed="1.0.0"), Verdict.LEFT),
        (done(installed=None), Verdict.LEFT),
        (done(installed="1.0.0", pinned="1.0.0"), Verdict.HELD),
        (done(installed="3.0.0", moved=True), Verdict.HELD),
        (done(moved=True), Verdict.SUCCEEDED),
        (done(installed="1.0.0", reported_since=False), Verdict.SOAKING),
        (done(installed_phase=Phase.PROBATION, reported_since=False), Verdict.SOAKING),
    ],
)
def test_the_verdict_on_one_device(seen: Observation, verdict: Verdict) -> None:
    assert judge(plan(), seen, NOW).verdict is verdict


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (RolloutState.ACTIVE, Verdict.PENDING),
        (RolloutState.PAUSED, Verdict.HELD),
        (RolloutState.HALTED, Verdict.CANCELLED),
        (RolloutState.REVERTED, Verdict.CANCELLED),
    ],
)
def test_what_a_device_took_back_because_of_a_pause_is_cancelled_no_more_than_the_pause_lasts(
    state: RolloutState, verdict: Verdict
) -> None:
    told = device(phase=Phase.CANCELLED, error_code="conflict.halted")
    assert judge(plan(state=state), told, NOW).verdict is verdict
    asked = device(phase=Phase.CANCELLED, error_code="conflict.cancelled")
    assert judge(plan(state=state), asked, NOW).verdict is Verdict.CANCELLED


def test_a_time_that_is_still_to_come_is_no_sign_of_life() -> None:
    """The controller's clock was ahead for a while, and has been put right."""
    soaking = plan(plan=RolloutPlan(waves=[Wave(upto=100, soak="10m")]))
    ahead = NOW + timedelta(days=90)
    unheard = judge(soaking, done(last_seen=ahead), after(601))
    assert (unheard.verdict, unheard.ask) == (Verdict.SOAKING, True)
    fetching = device(phase=Phase.FETCHING, heard_at=NOW, last_seen=ahead, online=False)
    assert judge(plan(), fetching, NOW + timedelta(days=6)).verdict is Verdict.UPDATING
    assert judge(plan(), fetching, NOW + timedelta(days=8)).verdict is Verdict.SILENT
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h")]))
    assert judge(bounded, fetching, after(7201)).verdict is Verdict.SILENT
    # and a word from then is asked for anew at once
    said = judge(soaking, done(at=ahead), NOW)
    assert (said.verdict, said.ask) == (Verdict.SOAKING, True)


def test_after_the_time_to_start_whoever_has_not_started_has_missed_it() -> None:
    late = plan(deadline=NOW - timedelta(seconds=1))
    assert judge(late, device(), NOW).verdict is Verdict.MISSED
    assert judge(late, device(phase=Phase.DEFERRED), NOW).verdict is Verdict.MISSED
    assert judge(late, device(phase=Phase.FETCHING), NOW).verdict is Verdict.UPDATING


def test_whoever_waits_for_its_wave_or_is_held_misses_the_time_to_start_though_nothing_is_heard_of_it() -> None:
    waves = in_waves(Wave(devices=["pi-1"]), Wave(upto=100), deadline=after(60))
    begun = decide(waves, [*fleet(2), device("pi-3", hold=True)], NOW)
    assert [begun.verdicts[name] for name in ("pi-2", "pi-3")] == [Verdict.WAITING, Verdict.HELD]
    for name in ("pi-2", "pi-3"):
        due = begun.marks[name].due
        assert due == after(60) + timedelta(microseconds=1)
        assert judge(begun.plan, device(name), due).verdict is Verdict.MISSED


def test_a_success_is_one_after_its_soak_and_a_sign_of_life_after_that() -> None:
    soaking = plan(plan=RolloutPlan(waves=[Wave(upto=100, soak="10m")]))
    assert judge(soaking, done(), after(599)).verdict is Verdict.SOAKING
    unheard = judge(soaking, done(), after(601))
    assert (unheard.verdict, unheard.ask) == (Verdict.SOAKING, True)
    assert not judge(soaking, done(online=False), after(601)).ask
    assert judge(soaking, done(), NOW).due == after(600) + timedelta(microseconds=1)
    assert judge(soaking, done(last_seen=after(600)), after(601)).verdict is Verdict.SUCCEEDED
    # heard of, but before the soak was over
    assert judge(soaking, done(last_seen=after(599)), after(601)).verdict is Verdict.SOAKING


def test_a_success_without_a_report_is_asked_for_one() -> None:
    said = device(phase=Phase.SUCCEEDED, heard_at=NOW)
    assert not judge(plan(), said, NOW).ask
    assert judge(plan(), said, after(16)).ask


def test_times_of_the_device_play_no_part() -> None:
    assert "at" not in Observation.__slots__


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (device(last_seen=NOW - timedelta(hours=1), online=False), Verdict.UNREACHED),
        (device(last_seen=after(60), online=False), Verdict.LATE),
        (device(), Verdict.LATE),
        (device(phase=Phase.DEFERRED), Verdict.LATE),
        (device(phase=Phase.FETCHING), Verdict.LATE),
        (device(phase=Phase.FETCHING, online=False), Verdict.SILENT),
        (device(phase=Phase.FETCHING, online=False, last_seen=after(7100)), Verdict.UPDATING),
        (device(phase=Phase.SUCCEEDED, heard_at=NOW, online=False), Verdict.SILENT),
        (device(phase=Phase.FAILED), Verdict.FAILED),
    ],
)
def test_after_its_waves_deadline_nobody_is_waited_for(seen: Observation, verdict: Verdict) -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h")]))
    assert judge(bounded, seen, after(7201)).verdict is verdict


def test_who_goes_away_right_before_the_deadline_is_waited_for_and_then_a_failure_that_the_plan_acts_on() -> None:
    wave = Wave(upto=100, deadline="2h", max_failures=0)
    bounded = plan(plan=RolloutPlan(waves=[wave], on_failure=OnFailure.REVERT))
    seen = [done("pi-2"), device("pi-1", phase=Phase.FETCHING, online=False, last_seen=after(7100))]
    waited_for = decide(bounded, seen, after(7201))
    assert (waited_for.state, waited_for.marks["pi-1"].verdict) == (RolloutState.ACTIVE, Verdict.UPDATING)
    assert waited_for.marks["pi-1"].due is not None
    assert waited_for.marks["pi-1"].due <= after(7701)
    given_up = decide(waited_for.plan, seen, after(7701))
    assert (given_up.state, given_up.marks["pi-1"].verdict) == (RolloutState.REVERTED, Verdict.SILENT)
    # back in time it is only late, as whoever was there all along
    back = decide(waited_for.plan, [seen[0], changed(seen[1], online=True, last_seen=after(7300))], after(7301))
    assert (back.state, back.marks["pi-1"].verdict) == (RolloutState.PAUSED, Verdict.LATE)


@pytest.mark.parametrize("waves", [1, 2])
def test_what_a_rollout_was_stopped_for_is_followed_by_what_has_become_of_it(waves: int) -> None:
    wave = Wave(upto=50, deadline="2h") if waves == 2 else Wave(upto=100, deadline="2h")
    bounded = in_waves(wave, *[Wave(upto=100)] * (waves - 1))
    seen = [device(phase=Phase.FETCHING)]
    stopped = decide(decide(bounded, seen, NOW).plan, seen, after(7201))
    assert stopped.state is RolloutState.PAUSED
    said = because(stopped.plan, Tally(stopped.marks.values()))
    assert said.endswith("0 of 1 devices succeeded, 100 % must; 1 late")
    later = decide(stopped.plan, [done()], after(7300))
    assert because(later.plan, Tally(later.marks.values())) == f"{said}; since then 1 succeeded"


def test_the_deadline_counts_from_the_time_before_which_nobody_starts() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h")]), not_before=after(3600))
    assert judge(bounded, device(), after(7201)).verdict is Verdict.PENDING
    assert judge(bounded, device(), after(10_801)).verdict is Verdict.LATE


# States


def test_a_rollout_is_complete_when_all_known_devices_have_a_last_word() -> None:
    busy = device("pi-2", phase=Phase.PROBATION)
    assert decide(plan(), [done(), busy], NOW).state is RolloutState.ACTIVE
    assert decide(plan(), [done(), changed(busy, phase=Phase.ROLLED_BACK)], NOW).state is RolloutState.COMPLETE


def test_a_device_that_joins_later_opens_a_complete_rollout_again_and_is_let_in() -> None:
    decisions = decide(plan(RolloutState.COMPLETE), [done(), device("pi-2")], NOW)
    assert decisions.state is RolloutState.ACTIVE
    assert decisions.verdicts["pi-2"] is Verdict.PENDING


def test_a_rollout_without_devices_and_one_with_only_unreached_ones_stay_active() -> None:
    assert decide(plan(), [], NOW).state is RolloutState.ACTIVE
    assert decide(plan(), [device(last_seen=NOW - timedelta(days=30))], NOW).state is RolloutState.ACTIVE


def test_an_unreached_device_does_not_hold_a_rollout_open() -> None:
    seen = [done(), device("pi-2", last_seen=NOW - timedelta(days=30))]
    assert decide(plan(), seen, NOW).state is RolloutState.COMPLETE


def test_halted_lets_nobody_start() -> None:
    seen = [device("pi-1"), device("pi-2", phase=Phase.DEFERRED), done("pi-3")]
    verdicts = decide(plan(RolloutState.HALTED), seen, NOW).verdicts
    assert verdicts == {"pi-1": Verdict.HELD, "pi-2": Verdict.HELD, "pi-3": Verdict.SUCCEEDED}


def test_moves_name_every_state_and_lead_only_to_what_can_be_announced() -> None:
    assert set(MOVES) == set(RolloutState)
    for state, reachable in MOVES.items():
        assert state not in reachable
        assert not reachable & (ENDED | {RolloutState.COMPLETE})
    for state in RolloutState:
        assert (state.announced is None) == (state in ENDED)
        assert state in ENDED or state.announced is ReleaseState(state.value)


# Waves


def started(decided: Plan) -> set[str]:
    """The devices that the announcement names."""
    return set(decided.targets.devices)


def test_without_waves_everybody_is_let_in_at_once() -> None:
    begun = decide(plan(plan=ALL_AT_ONCE, progress=(WaveProgress(),)), fleet(3), NOW)
    assert begun.targets == Targets()
    assert set(begun.verdicts.values()) == {Verdict.PENDING}


def test_a_wave_of_one_device_is_an_online_one_and_the_same_every_time() -> None:
    canary = in_waves(Wave(devices=1), Wave(upto=100))
    seen = fleet(30, online=False)
    seen[3], seen[7] = (
        changed(seen[3], online=True),
        changed(seen[7], online=True, pinned="1.0.0"),
    )
    decisions = decide(canary, seen, NOW)
    assert decisions.targets == Targets(upto=0, devices=["pi-4"])
    assert decide(canary, list(reversed(seen)), NOW).targets == decisions.targets
    assert Tally(decisions.marks.values()).verdicts() == {"held": 1, "pending": 1, "waiting": 28}


def test_the_same_devices_are_chosen_in_whatever_order_they_are_looked_at() -> None:
    canary, seen = in_waves(Wave(devices=3), Wave(upto=100)), fleet(30)
    chosen = decide(canary, seen, NOW).targets
    assert len(chosen.devices) == 3
    assert decide(canary, list(reversed(seen)), NOW).targets == chosen


def test_a_wave_of_one_device_waits_for_one_that_is_online() -> None:
    canary = in_waves(Wave(devices=1), Wave(upto=100))
    decisions = decide(canary, fleet(3, online=False), NOW)
    assert (decisions.targets.upto, decisions.targets.devices, decisions.plan.begun) == (0, [], 0)


def test_the_next_wave_begins_when_the_one_before_has_proven_itself() -> None:
    canary = in_waves(Wave(devices=1, soak="10m", deadline="1h"), Wave(upto=50), Wave(upto=100))
    first = decide(canary, fleet(40), NOW).plan
    (chosen,) = started(first)

    def with_canary(seen: Observation, at: datetime, before: Plan) -> Plan:
        others = [one for one in fleet(40) if one.device != chosen]
        return decide(before, [seen, *others], at).plan

    assert with_canary(done(chosen), after(300), first).begun == 1
    assert with_canary(done(chosen), after(601), first).begun == 1
    second = with_canary(done(chosen, last_seen=after(602)), after(603), first)
    assert second.begun == 2
    assert (second.targets.upto, second.targets.devices) == (5000, [chosen])
    assert second.progress[0].proven_at == after(603)


def test_a_canary_that_goes_back_stops_the_rollout_and_says_why() -> None:
    for on_failure, state in (
        (OnFailure.PAUSE, RolloutState.PAUSED),
        (OnFailure.HALT, RolloutState.HALTED),
        (OnFailure.REVERT, RolloutState.REVERTED),
    ):
        canary = in_waves(Wave(devices=1, max_failures=0), Wave(upto=100), on_failure=on_failure)
        begun = decide(canary, fleet(5), NOW).plan
        (chosen,) = started(begun)
        seen = [changed(one, phase=Phase.ROLLED_BACK) if one.device == chosen else one for one in fleet(5)]
        stopped = decide(begun, seen, NOW)
        assert stopped.state is state
        assert stopped.targets == begun.targets
        assert stopped.plan.stopped == "wave 1 of 2 (1 device): 1 rolled back of 1 with a result; 0 may fail"


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ([], "waits for pi-1, unknown or on another channel; where that stays so, "),
        (
            [device("pi-1", phase=Phase.CANCELLED, error_code="conflict.cancelled")],
            "0 succeeded, 1 cancelled; nobody is left to prove it: ",
        ),
    ],
    ids=["forgotten", "cancelled"],
)
def test_a_first_wave_whose_only_device_is_gone_says_what_to_do(left: list[Observation], says: str) -> None:
    begun = decide(in_waves(Wave(devices=1, deadline="1h"), Wave(upto=100)), fleet(1), NOW)
    now = decide(begun.plan, [*left, device("pi-2")], after(7200))
    assert (now.state, now.plan.begun) == (RolloutState.ACTIVE, 1)
    said = because(now.plan, Tally(now.marks.values()))
    assert said == f"wave 1 of 2 (1 device): {says}release it anew to begin with others"


def test_a_success_that_is_taken_back_keeps_the_next_wave_from_beginning() -> None:
    waves = in_waves(Wave(devices=["pi-1"]), Wave(devices=["pi-2"]), Wave(upto=100))
    second = decide(waves, [done(), device("pi-2"), device("pi-3")], NOW).plan
    assert second.begun == 2
    back = decide(second, [device("pi-1", phase=Phase.ROLLED_BACK), done("pi-2"), device("pi-3")], NOW)
    assert (back.state, back.plan.begun) == (RolloutState.HALTED, 2)


def test_what_an_operator_goes_on_in_spite_of_is_forgiven_once() -> None:
    waves = in_waves(Wave(devices=["pi-1"], max_failures=0), Wave(devices=["pi-2", "pi-3"], max_failures=0))
    seen = [device("pi-1", phase=Phase.FAILED), device("pi-2"), device("pi-3")]
    halted = decide(waves, seen, NOW)
    assert halted.state is RolloutState.HALTED
    second = decide(*going_on(halted, seen, NOW), NOW)
    assert (second.state, second.plan.begun, second.plan.stopped) == (RolloutState.ACTIVE, 2, "")
    failed_again = [seen[0], device("pi-2", phase=Phase.FAILED), device("pi-3")]
    assert next_look(second, failed_again, NOW).state is RolloutState.HALTED


def test_a_wave_that_needs_a_persons_word_waits_for_it() -> None:
    waves = in_waves(Wave(devices=["pi-1"]), Wave(upto=100, approval=True))
    seen = [done("pi-1"), device("pi-2")]
    waiting = decide(waves, seen, NOW).plan
    assert (waiting.begun, waiting.state) == (1, RolloutState.ACTIVE)
    go = approved(waiting, NOW)
    assert go is not None
    assert decide(go, seen, NOW).plan.begun == 2
    assert approved(go, NOW) is None
    assert approved(plan(), NOW) is None


def test_limits_by_percent_count_only_from_enough_results_on() -> None:
    waves = in_waves(Wave(upto=100, success=50, max_failures_percent=20, min_results=4))
    begun = decide(waves, fleet(10), NOW).plan

    def with_results(bad: int, good: int) -> RolloutState:
        results = [device(f"pi-{one}", phase=Phase.FAILED) for one in range(1, bad + 1)]
        results += [done(f"pi-{one}") for one in range(bad + 1, bad + good + 1)]
        return decide(begun, results + fleet(10)[bad + good :], NOW).state

    assert with_results(1, 2) is RolloutState.ACTIVE
    assert with_results(1, 3) is RolloutState.HALTED
    assert with_results(1, 4) is RolloutState.ACTIVE


def test_so_many_percent_of_the_devices_reached_must_have_succeeded() -> None:
    waves = in_waves(Wave(devices=["pi-1", "pi-2", "pi-3", "pi-4"], success=75), Wave(upto=100))
    for failed, state, begun in ((1, RolloutState.ACTIVE, 2), (2, RolloutState.HALTED, 1)):
        seen = [device(f"pi-{one}", phase=Phase.FAILED) for one in range(1, failed + 1)]
        seen += [done(f"pi-{one}") for one in range(failed + 1, 5)]
        after_it = decide(waves, [*seen, device("pi-5")], NOW)
        assert (after_it.state, after_it.plan.begun) == (state, begun)


def test_whoever_took_it_and_fell_silent_has_failed_after_the_deadline() -> None:
    waves = in_waves(Wave(devices=["pi-1"], max_failures=0, deadline="2h"), Wave(upto=100), on_failure=OnFailure.PAUSE)
    begun = decide(waves, fleet(2), NOW).plan
    seen = [device("pi-1", phase=Phase.SWITCHED, online=False), device("pi-2")]
    assert decide(begun, seen, after(7200)).state is RolloutState.ACTIVE
    stopped = decide(begun, seen, after(7201))
    assert (stopped.state, stopped.plan.stopped) == (
        RolloutState.PAUSED,
        "wave 1 of 2 (1 device): 1 silent of 1 with a result; 0 may fail",
    )


def test_refusals_are_no_failures_and_no_proof() -> None:
    waves = in_waves(Wave(devices=["pi-1"], max_failures=0), Wave(upto=100), on_failure=OnFailure.REVERT)
    seen = [device("pi-1", phase=Phase.REJECTED), device("pi-2")]
    stopped = decide(waves, seen, NOW)
    assert stopped.state is RolloutState.PAUSED
    assert "0 of 1 devices succeeded, 100 % must; 1 rejected" in stopped.plan.stopped


def test_who_comes_to_what_was_proven_and_is_refused_stops_nobody_else_and_who_fails_does() -> None:
    now = decide(in_waves(Wave(upto=100)), [done("pi-1")], NOW)
    assert now.state is RolloutState.COMPLETE
    joined = decide(now.plan, [done("pi-1"), device("pi-2")], NOW)
    assert joined.state is RolloutState.ACTIVE
    refused = decide(joined.plan, [done("pi-1"), device("pi-2", phase=Phase.REJECTED)], NOW)
    assert (refused.state, refused.verdicts["pi-2"]) == (RolloutState.COMPLETE, Verdict.REJECTED)
    failed = decide(joined.plan, [done("pi-1"), device("pi-2", phase=Phase.ROLLED_BACK)], NOW)
    assert failed.state is RolloutState.HALTED


def test_those_who_are_away_do_not_count_and_are_let_in_all_the_same() -> None:
    waves = in_waves(Wave(devices=["pi-1", "pi-2"], deadline="1h"), Wave(upto=100))
    away = device("pi-2", online=False, last_seen=NOW - timedelta(hours=1))
    seen = [done("pi-1"), away, device("pi-3")]
    assert decide(waves, seen, NOW).plan.begun == 1
    begun = decide(waves, seen, NOW).plan
    later = decide(begun, seen, after(3601))
    assert (later.plan.begun, later.verdicts["pi-2"]) == (2, Verdict.UNREACHED)
    back = decide(later.plan, [seen[0], changed(away, phase=Phase.FETCHING, online=True), seen[2]], after(3602))
    assert back.verdicts["pi-2"] is Verdict.LATE
    assert decide(later.plan, [seen[0], done("pi-2"), seen[2]], after(3700)).verdicts["pi-2"] is Verdict.SUCCEEDED


def test_one_device_at_a_time_for_each_site() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1, concurrency_per="site"))
    seen = [device(f"pi-{one}", tags={"site": "bern" if one < 4 else "basel"}) for one in range(1, 7)]
    begun = decide(waves, seen, NOW)
    going = [one for one, verdict in begun.verdicts.items() if verdict is Verdict.PENDING]
    assert sorted(one.tags["site"] for one in seen if one.device in going) == ["basel", "bern"]
    finished = next(one for one in going if one in {"pi-1", "pi-2", "pi-3"})
    seen = [done(one.device, tags=one.tags) if one.device == finished else one for one in seen]
    second = decide(begun.plan, seen, NOW)
    new = {one for one, verdict in second.verdicts.items() if verdict is Verdict.PENDING} - set(going)
    assert len(new) == 1
    assert new < {"pi-1", "pi-2", "pi-3"}


def test_devices_that_are_picked_for_a_wave_begin_one_after_the_other_where_it_says_so() -> None:
    waves = in_waves(Wave(devices=3, concurrency=1), Wave(upto=100))
    seen = fleet(6)
    now = decide(waves, seen, NOW)
    began: list[str] = []
    while now.plan.begun == 1:
        assert now.plan.state is RolloutState.ACTIVE
        (going,) = (one for one, verdict in now.verdicts.items() if verdict is Verdict.PENDING)
        assert going not in began
        began.append(going)
        seen = [done(one.device) if one.device == going else one for one in seen]
        now = decide(now.plan, seen, NOW)
    assert len(began) == 3
    assert now.verdicts["pi-2"] is Verdict.PENDING


def gone(name: str, **changes: Any) -> Observation:
    return device(name, online=False, last_seen=NOW - timedelta(hours=1), **changes)


@pytest.mark.parametrize("per", [None, "site"])
def test_who_is_away_takes_no_place_from_those_that_are_there(per: str | None) -> None:
    waves = in_waves(Wave(upto=100, success=60, concurrency=2, concurrency_per=per))
    names = sorted((f"pi-{one}" for one in range(1, 9)), key=lambda one: bucket(ROLLOUT, one))
    away = {names[0], names[2], names[5]}
    seen = [gone(name) if name in away else device(name) for name in names]
    now = decide(waves, seen, NOW)
    began: set[str] = set()
    while now.plan.progress[0].proven_at is None:
        going = {one for one, mark in now.marks.items() if mark.place}
        assert 0 < len(going) <= 2
        assert not going & away
        began |= going
        seen = [done(one.device) if one.device in going else one for one in seen]
        now = decide(now.plan, seen, NOW)
    assert began == {one.device for one in seen} - away
    assert {one: now.verdicts[one] for one in away} == dict.fromkeys(away, Verdict.PENDING)
    assert not started(now.plan) & away
    # back, they begin as all others do
    seen = [device(one.device) if one.device in away else one for one in seen]
    back = decide(now.plan, seen, NOW)
    assert sorted(back.verdicts[one] for one in away) == [Verdict.PENDING, Verdict.PENDING, Verdict.WAITING]


def test_who_goes_away_before_it_begins_keeps_its_place_for_as_long_as_a_start_takes() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1))
    seen = fleet(3)
    begun = decide(waves, seen, NOW)
    (first,) = (one for one, verdict in begun.verdicts.items() if verdict is Verdict.PENDING)
    seen = [changed(one, online=False, last_seen=after(60)) if one.device == first else one for one in seen]
    kept = decide(begun.plan, seen, after(120))
    assert [one for one, mark in kept.marks.items() if mark.place] == [first]
    assert (kept.marks[first].due or NOW) <= after(661)
    given_on = decide(kept.plan, seen, after(661))
    (second,) = (one for one, mark in given_on.marks.items() if mark.place)
    assert second != first
    assert given_on.verdicts[first] is Verdict.PENDING


def test_a_large_share_with_many_away_lists_few_ids_all_the_same() -> None:
    waves = in_waves(Wave(upto=100, concurrency=500))
    seen = [gone(one.device) if number % 20 == 0 else one for number, one in enumerate(fleet(2000))]
    now = decide(waves, seen, NOW)
    for _ in range(3):
        going = {one for one, mark in now.marks.items() if mark.place}
        assert len(going) == 500
        assert len(now.targets.devices) <= 500
        seen = [done(one.device) if one.device in going else one for one in seen]
        now = decide(now.plan, seen, NOW)


def test_a_wave_with_a_condition_means_whoever_meets_it() -> None:
    waves = in_waves(Wave(where={"site": ["bern", "basel"]}), Wave(upto=100))
    sites = {"pi-1": "bern", "pi-2": "chur", "pi-3": "basel"}
    begun = decide(waves, [device(name, tags={"site": site}) for name, site in sites.items()], NOW)
    assert started(begun.plan) == {"pi-1", "pi-3"}
    assert begun.verdicts["pi-2"] is Verdict.WAITING


def test_a_share_with_so_many_at_a_time_needs_no_list_of_ids() -> None:
    waves = in_waves(Wave(upto=100, concurrency=100))
    seen = fleet(5000)
    begun = decide(waves, seen, NOW)
    assert Tally(begun.marks.values()).verdicts() == {"pending": 100, "waiting": 4900}
    assert len(begun.targets.devices) < 100


def test_a_condition_that_too_many_meet_is_said_and_starts_nobody_more() -> None:
    waves = in_waves(Wave(where={"site": "bern"}), Wave(upto=100))
    decisions = decide(waves, [device(f"pi-{one}", tags={"site": "bern"}) for one in range(3001)], NOW)
    assert decisions.state is RolloutState.PAUSED
    assert "3001 devices listed by id" in decisions.plan.stopped
    assert (decisions.targets.upto, decisions.targets.devices) == (0, [])


def test_a_share_that_would_be_nobody_is_one_device() -> None:
    waves = in_waves(Wave(upto=1), Wave(upto=100))
    names = [name for name in (f"pi-{one}" for one in range(200)) if bucket(ROLLOUT, name) >= 100][:5]
    decisions = decide(waves, [device(name) for name in names], NOW)
    assert list(decisions.verdicts.values()).count(Verdict.PENDING) == 1


def test_waves_stay_among_the_devices_that_are_meant_at_all() -> None:
    base = Targets(upto=0, devices=["pi-1", "pi-2", "pi-3"])
    canary = in_waves(Wave(devices=1), Wave(upto=100), base=base)
    seen = fleet(6)
    begun = decide(canary, seen, NOW).plan
    (chosen,) = started(begun)
    assert chosen in base.devices
    proven = decide(begun, [done(one.device) if one.device == chosen else one for one in seen], NOW)
    assert proven.targets == base
    assert {one for one, verdict in proven.verdicts.items() if verdict is Verdict.NOT_MEANT} == {"pi-4", "pi-5", "pi-6"}
