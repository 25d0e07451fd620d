"""A rollout that went on without its database: whom its announcement means is kept, for any plan and any fleet."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from controller.rollouts.catching_up import caught_up
from controller.rollouts.engine import approved, decide
from controller.rollouts.plan import Observation, Plan, RolloutState, WaveProgress
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import BUCKETS, Phase, Targets
from schemas.targeting import bucket
from tests.unit.rollouts.test_laws import NAMES, NOW, ROLLOUT, fleets, meant_by, new_plans


def as_they_are(fleet: list[Observation]) -> list[Observation]:
    """With tags and facts that stay the same."""
    sites = [{"site": "bern"}, {"site": "basel"}, {}]
    return [
        changed(one, tags=sites[number % 3], facts={"model": "pi4"} if number % 4 else {})
        for number, one in enumerate(fleet)
    ]


def gone_on(plan: Plan, fleet: list[Observation], hours: int) -> Plan:
    at = NOW + timedelta(hours=hours)
    after = decide(plan, fleet, at).plan
    return decide(approved(after, at) or after, fleet, at).plan


@st.composite
def histories(draw: st.DrawFn) -> tuple[Plan, Plan]:
    """A rollout as it was at some time, and as it was later; some of it somebody went on with by hand."""
    plan = draw(new_plans())
    kept: list[Plan] = []
    for hours in range(4):
        plan = gone_on(replace(plan, state=RolloutState.ACTIVE), as_they_are(draw(fleets)), hours)
        kept.append(plan)
    return kept[draw(st.integers(0, 3))], plan


@given(history=histories(), fleet=fleets)
def test_the_same_devices_are_meant_as_were_announced(history: tuple[Plan, Plan], fleet: list[Observation]) -> None:
    before, later = history
    after = caught_up(before, later.targets, as_they_are(fleet), NOW)
    everybody = as_they_are([Observation(device=name, last_seen=NOW) for name in NAMES])
    meant = {one.device for one in everybody if meant_by(after.targets, one)}
    assert meant == {one.device for one in everybody if meant_by(later.targets, one)}
    assert after.base == before.base
    begun = [one.started_at is not None for one in after.progress]
    assert begun == sorted(begun, reverse=True)


@given(history=histories(), fleet=fleets)
def test_what_is_known_stays_and_hearing_it_again_changes_nothing(
    history: tuple[Plan, Plan], fleet: list[Observation]
) -> None:
    before, later = history
    seen = as_they_are(fleet)
    after = caught_up(before, later.targets, seen, NOW)
    for old, new in zip(before.progress, after.progress, strict=True):
        assert new.upto >= old.upto
        assert all(device in new.devices or bucket(ROLLOUT, device) < new.upto for device in old.devices)
        if old.started_at is not None:
            assert (new.started_at, new.proven_at) == (old.started_at, old.proven_at)
    assert caught_up(after, later.targets, seen, NOW + timedelta(days=1)) == after
    assert caught_up(before, before.targets, seen, NOW).targets == before.targets


@given(history=histories())
def test_no_more_waves_are_taken_to_have_begun_than_have(history: tuple[Plan, Plan]) -> None:
    before, later = history
    everybody = as_they_are([Observation(device=name, last_seen=NOW) for name in NAMES])
    after = caught_up(before, later.targets, everybody, NOW)
    assert before.begun <= after.begun <= max(later.begun, before.begun)


def in_waves(*waves: Wave) -> Plan:
    return Plan(
        rollout=ROLLOUT,
        version="2.0.0",
        state=RolloutState.ACTIVE,
        plan=RolloutPlan(waves=list(waves)),
        progress=tuple(WaveProgress() for _ in waves),
    )


def fleet(*succeeded: str) -> list[Observation]:
    well = {"installed": "2.0.0", "installed_phase": Phase.SUCCEEDED, "reported_since": True}
    done = {"phase": Phase.SUCCEEDED, "heard_at": NOW, **well}
    return [Observation(device=name, last_seen=NOW, **(done if name in succeeded else {})) for name in NAMES]


def test_a_wave_that_lets_one_after_the_other_in_still_proves_itself_with_all_of_its_devices() -> None:
    plan = in_waves(Wave(devices=3, concurrency=1), Wave(upto=100))
    later = decide(plan, fleet(), NOW).plan
    (first,) = later.targets.devices
    after = caught_up(plan, later.targets, fleet(), NOW)
    assert caught_up(after, later.targets, fleet(), NOW) == after
    began = [first]
    while after.begun == 1:
        after = decide(after, fleet(*began), NOW).plan
        began += [one for one in after.progress[0].devices if one not in began]
    assert len(began) == 3


def test_a_device_that_was_picked_for_a_later_wave_is_none_of_a_share_that_had_begun() -> None:
    plan = in_waves(Wave(upto=50, concurrency=12), Wave(devices=1), Wave(upto=100))
    before = decide(plan, fleet(), NOW).plan
    first = [one.device for one in fleet() if meant_by(before.targets, one)]
    later = decide(before, fleet(*first), NOW).plan
    assert (before.begun, later.begun) == (1, 2)
    after = caught_up(before, later.targets, fleet(*first), NOW)
    assert [one.devices for one in after.progress] == [one.devices for one in later.progress]
    assert after.begun == 2


def test_a_rollout_that_was_itself_taken_over_grows_with_its_announcement() -> None:
    before = Plan(
        rollout=ROLLOUT,
        version="2.0.0",
        state=RolloutState.ACTIVE,
        base=Targets(upto=1000, devices=["pi-1"]),
        progress=(WaveProgress(started_at=NOW, upto=1000, devices=["pi-1"]),),
    )
    for said in (Targets(upto=5000, devices=["pi-1", "pi-2"]), Targets(upto=BUCKETS)):
        after = caught_up(before, said, [], NOW)
        for name in NAMES:
            one = Observation(device=name, last_seen=NOW)
            assert meant_by(after.targets, one) == meant_by(said, one)
            assert meant_by(after.base, one) == meant_by(after.targets, one)
