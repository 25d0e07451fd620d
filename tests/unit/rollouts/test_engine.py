"""The rollout engine: every device one verdict, the same inputs the same decisions, and who may start."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollouts.engine import decide, judge
from controller.rollouts.plan import ENDED, MOVES, OPEN, STARTING, Observation, Plan, RolloutState, Verdict
from schemas.messages import BUCKETS, LAST_WORDS, Phase, ReleaseState, Targets
from schemas.targeting import is_meant

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROLLOUT = "01890a5d-ac96-774b-bcce-b302099a8057"


def plan(state: RolloutState = RolloutState.ACTIVE, **changes: object) -> Plan:
    return replace(Plan(rollout=ROLLOUT, version="2.0.0", state=state, targets=Targets()), **changes)  # type: ignore[arg-type]  # fields by name


def device(name: str = "pi-1", **changes: object) -> Observation:
    return replace(Observation(device=name, last_seen=NOW), **changes)  # type: ignore[arg-type]  # fields by name


phases = st.none() | st.sampled_from(Phase)
targets = st.builds(
    Targets,
    upto=st.sampled_from([0, 1, BUCKETS // 2, BUCKETS]),
    where=st.sampled_from([{}, {"model": "pi4"}, {"model": ["pi4", "pi5"]}]),
    devices=st.lists(st.sampled_from(["pi-1", "pi-2"]), unique=True),
)
plans = st.builds(
    Plan,
    rollout=st.just(ROLLOUT),
    version=st.just("2.0.0"),
    state=st.sampled_from(RolloutState),
    targets=targets,
    deadline=st.none() | st.sampled_from([NOW - timedelta(seconds=1), NOW + timedelta(days=1)]),
)
observations = st.lists(
    st.builds(
        Observation,
        device=st.from_regex(r"pi-[0-9]{1,2}", fullmatch=True),
        phase=phases,
        installed=st.sampled_from([None, "1.0.0", "2.0.0"]),
        installed_phase=phases,
        pinned=st.sampled_from([None, None, "1.0.0"]),
        last_seen=st.timedeltas(timedelta(), timedelta(days=14)).map(lambda ago: NOW - ago),
        tags=st.sampled_from([{}, {"model": "pi5"}]),
        facts=st.sampled_from([{}, {"model": "pi4"}]),
    ),
    unique_by=lambda one: one.device,
    max_size=12,
)


@given(plan=plans, seen=observations)
def test_every_device_has_exactly_one_verdict_and_order_does_not_matter(plan: Plan, seen: list[Observation]) -> None:
    decisions = decide(plan, seen, NOW)
    assert set(decisions.verdicts) == {one.device for one in seen}
    assert decide(plan, list(reversed(seen)), NOW) == decisions


@given(plan=plans, seen=observations)
def test_a_controller_that_restarts_changes_nothing(plan: Plan, seen: list[Observation]) -> None:
    first = decide(plan, seen, NOW)
    again = decide(replace(plan, state=first.state, targets=first.targets), seen, NOW)
    assert again.state == first.state
    if (plan.state in STARTING) == (first.state in STARTING):
        assert again.verdicts == first.verdicts


@given(plan=plans, seen=observations)
def test_outside_active_and_complete_nobody_is_waited_for_to_start(plan: Plan, seen: list[Observation]) -> None:
    decisions = decide(plan, seen, NOW)
    if plan.state not in STARTING:
        assert not {Verdict.PENDING, Verdict.DEFERRED} & set(decisions.verdicts.values())
        assert decisions.state is plan.state
    else:
        assert decisions.state in STARTING


@given(plan=plans, seen=observations)
def test_a_last_word_is_the_verdict_and_only_the_meant_are_waited_for(plan: Plan, seen: list[Observation]) -> None:
    verdicts = decide(plan, seen, NOW).verdicts
    for one in seen:
        if one.phase in LAST_WORDS:
            assert verdicts[one.device].value == one.phase.value
        elif one.phase is None:
            meant = is_meant(plan.targets, rollout=ROLLOUT, device=one.device, tags=one.tags, facts=one.facts)
            assert meant is (verdicts[one.device] is not Verdict.NOT_MEANT)


@given(plan=plans, seen=observations)
def test_complete_means_that_nobody_is_waited_for(plan: Plan, seen: list[Observation]) -> None:
    decisions = decide(plan, seen, NOW)
    if decisions.state is RolloutState.COMPLETE:
        assert not OPEN & set(decisions.verdicts.values())
    if decisions.state is RolloutState.ACTIVE and plan.state is RolloutState.COMPLETE:
        assert OPEN & set(decisions.verdicts.values())


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
        (device(pinned="1.0.0"), Verdict.HELD),
        (device(last_seen=NOW - timedelta(days=8)), Verdict.SILENT),
        (device(last_seen=NOW - timedelta(days=8), phase=Phase.STAGED), Verdict.SILENT),
        (device(last_seen=NOW - timedelta(days=8), phase=Phase.SUCCEEDED), Verdict.SUCCEEDED),
    ],
)
def test_the_verdict_on_one_device(seen: Observation, verdict: Verdict) -> None:
    assert judge(plan(), seen, NOW) is verdict


def test_after_the_deadline_whoever_has_not_started_has_missed_it() -> None:
    late = plan(deadline=NOW - timedelta(seconds=1))
    assert judge(late, device(), NOW) is Verdict.MISSED
    assert judge(late, device(phase=Phase.DEFERRED), NOW) is Verdict.MISSED
    assert judge(late, device(phase=Phase.FETCHING), NOW) is Verdict.UPDATING


def test_a_rollout_is_complete_when_all_known_devices_have_a_last_word() -> None:
    done, busy = device("pi-1", phase=Phase.SUCCEEDED), device("pi-2", phase=Phase.PROBATION)
    back = replace(busy, phase=Phase.ROLLED_BACK)
    assert decide(plan(), [done, busy], NOW).state is RolloutState.ACTIVE
    assert decide(plan(), [done, back], NOW).state is RolloutState.COMPLETE


def test_a_device_that_joins_later_opens_a_complete_rollout_again() -> None:
    complete = plan(RolloutState.COMPLETE)
    assert decide(complete, [device(phase=Phase.SUCCEEDED), device("pi-2")], NOW).state is RolloutState.ACTIVE


def test_a_rollout_without_devices_and_one_with_only_silent_ones_stay_active() -> None:
    assert decide(plan(), [], NOW).state is RolloutState.ACTIVE
    assert decide(plan(), [device(last_seen=NOW - timedelta(days=30))], NOW).state is RolloutState.ACTIVE


def test_a_silent_device_does_not_hold_a_rollout_open() -> None:
    seen = [device(phase=Phase.SUCCEEDED), device("pi-2", last_seen=NOW - timedelta(days=30))]
    assert decide(plan(), seen, NOW).state is RolloutState.COMPLETE


def test_halted_lets_nobody_start() -> None:
    seen = [device("pi-1"), device("pi-2", phase=Phase.DEFERRED), device("pi-3", phase=Phase.SUCCEEDED)]
    decisions = decide(plan(RolloutState.HALTED), seen, NOW)
    assert decisions.verdicts == {"pi-1": Verdict.HELD, "pi-2": Verdict.HELD, "pi-3": Verdict.SUCCEEDED}


def test_moves_name_every_state_and_lead_only_to_what_can_be_announced() -> None:
    assert set(MOVES) == set(RolloutState)
    for state, reachable in MOVES.items():
        assert state not in reachable
        assert not reachable & (ENDED | {RolloutState.COMPLETE})
    for state in RolloutState:
        assert (state.announced is None) == (state in ENDED)
        assert state in ENDED or state.announced is ReleaseState(state.value)
