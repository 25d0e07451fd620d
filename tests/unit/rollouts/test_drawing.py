"""A release to a small fleet brings each wave as many devices as was foreseen: driven through the engine itself."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controller.preflight.waves import drawn_when, foreseen_waves
from controller.rollouts import drawing
from controller.rollouts.drawing import EXACT, SMALL, certain_wave, drawn, is_exact
from controller.rollouts.engine import approved, decide
from controller.rollouts.plan import Observation, Plan, RolloutState, WaveProgress
from controller.rollouts.plan_files import READY, ready_plan
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import BUCKETS, Phase, Targets
from schemas.targeting import bucket

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHARES = RolloutPlan(waves=[Wave(upto=10), Wave(upto=50), Wave(upto=100)])


class Device(NamedTuple):
    """How one is when the release is made: `away` until a moment later, the others stay as they are."""

    has_it: bool = False
    away: bool = False
    held: bool = False


def observed(devices: list[Device]) -> list[Observation]:
    return [
        Observation(
            device=f"pi-{number}",
            installed="2.0.0" if one.has_it else "1.0.0",
            installed_phase=Phase.SUCCEEDED,
            online=not one.away,
            hold=one.held,
            last_seen=NOW,
        )
        for number, one in enumerate(devices, 1)
    ]


def begun(plan: RolloutPlan, seen: list[Observation], seed: int, base: Targets | None = None) -> Plan:
    """The rollout as a release makes it."""
    chance = random.Random(seed)
    made = Plan(
        rollout=str(uuid.UUID(int=chance.getrandbits(128))),
        version="2.0.0",
        state=RolloutState.ACTIVE,
        base=base or Targets(),
        plan=plan,
        progress=tuple(WaveProgress() for _ in plan.waves),
    )
    ids = (str(uuid.UUID(int=chance.getrandbits(128))) for _ in iter(int, 1))
    return replace(made, rollout=drawn(made, seen, NOW, lambda: next(ids)))


def done(one: Observation, now: datetime) -> Observation:
    return msgspec.structs.replace(
        one,
        phase=Phase.SUCCEEDED,
        heard_at=now,
        installed="2.0.0",
        installed_phase=Phase.SUCCEEDED,
        reported_since=True,
    )


def by_the_engine(plan: Plan, seen: list[Observation]) -> list[int]:
    """How many devices each wave has brought when all has gone well; whoever was away has come back by then."""
    now = NOW
    for _ in range(40):
        found = decide(plan, seen, now)
        plan = approved(found.plan, now) or found.plan
        if plan.state is RolloutState.COMPLETE:
            waves = [mark.wave for mark in found.marks.values()]
            return [waves.count(number) for number in range(len(plan.waves))]
        assert plan.state is RolloutState.ACTIVE, plan.stopped
        now += timedelta(hours=13)
        starts = {device for device, mark in found.marks.items() if mark.verdict in {"pending", "late"}}
        seen = [done(one, now) if one.device in starts and one.online else one for one in seen]
        seen = [msgspec.structs.replace(one, online=True, last_seen=now) for one in seen]
    raise AssertionError(found)


def foreseen(plan: RolloutPlan, seen: list[Observation]) -> list[int]:
    sure = [certain_wave(plan, one.device, tags={}, facts={}) for one in seen]
    waves = foreseen_waves(plan, sure, len(seen))
    assert not any(wave.about for wave in waves)
    return [wave.devices for wave in waves]


fleets = st.lists(
    st.builds(Device, has_it=st.booleans(), away=st.booleans(), held=st.booleans()) | st.just(Device()),
    min_size=2,
    max_size=EXACT,
)


@pytest.mark.parametrize("name", READY)
@given(devices=fleets, seed=st.integers(0, 2**32))
def test_a_small_fleets_waves_bring_as_many_devices_as_were_foreseen(
    name: str, devices: list[Device], seed: int
) -> None:
    assume(not all(one.held for one in devices))
    plan, seen = ready_plan(name), observed(devices)
    assert by_the_engine(begun(plan, seen, seed), seen) == foreseen(plan, seen)


@given(number=st.integers(2, EXACT), seed=st.integers(0, 2**32))
def test_so_do_waves_that_are_shares_only(number: int, seed: int) -> None:
    seen = observed([Device()] * number)
    assert by_the_engine(begun(SHARES, seen, seed), seen) == foreseen(SHARES, seen)


def test_who_is_in_a_wave_is_a_matter_of_chance_still() -> None:
    seen = observed([Device()] * 5)
    plans = [begun(ready_plan("canary"), seen, seed) for seed in range(200)]
    first = [min(seen, key=lambda one: bucket(plan.rollout, one.device)).device for plan in plans]
    assert all(20 <= first.count(f"pi-{number}") <= 60 for number in range(1, 6))


def test_an_id_is_kept_where_nothing_is_drawn_or_there_are_many() -> None:
    for plan, number in ((ready_plan("all-at-once"), 5), (ready_plan("canary"), SMALL + 1), (SHARES, 1)):
        own = str(uuid.UUID(int=random.Random(7).getrandbits(128)))
        assert begun(plan, observed([Device()] * number), 7).rollout == own


def test_a_share_of_the_devices_is_drawn_as_large_as_it_should_be() -> None:
    seen = observed([Device()] * 10)
    for seed in range(20):
        plan = begun(ready_plan("all-at-once"), seen, seed, Targets(upto=BUCKETS * 3 // 10))
        assert sum(bucket(plan.rollout, one.device) < plan.base.upto for one in seen) == 3


@pytest.mark.parametrize("others", [0, SMALL])
def test_shares_of_devices_that_are_named_are_drawn_as_large_as_they_should_be(others: int) -> None:
    seen = observed([Device()] * (10 + others))
    named = Targets(upto=0, devices=[one.device for one in seen[:10]])
    halves = RolloutPlan(waves=[Wave(upto=50), Wave(upto=100)])
    for seed in range(20):
        assert by_the_engine(begun(halves, seen, seed, named), seen) == foreseen(halves, seen[:10]) == [5, 5]


def test_how_many_of_a_share_may_begin_at_a_time_does_not_matter() -> None:
    plan = RolloutPlan(waves=[Wave(upto=42, concurrency=1), Wave(devices=1), Wave(upto=100)])
    seen = observed([Device()] * 8)
    for seed in range(20):
        assert by_the_engine(begun(plan, seen, seed), seen) == foreseen(plan, seen) == [4, 1, 3]


def test_a_plan_of_many_waves_is_not_looked_at_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No id has it bring each wave what it should: all others wait for the release as long as it looks for one."""
    looks: list[int] = []
    real = drawing.let_in

    def counted(plan: Plan, wave: int, seen: Sequence[Observation], *rest: Any, **more: Any) -> dict[str, Any] | None:
        looks.append(len(seen))
        return real(plan, wave, seen, *rest, **more)

    monkeypatch.setattr(drawing, "let_in", counted)
    plan = RolloutPlan(waves=[*[Wave(devices=2)] * 18, Wave(upto=95), Wave(upto=100)])
    begun(plan, observed([Device(away=number % 3 == 0) for number in range(SMALL)]), 1)
    assert sum(looks) < 25_000


def test_only_where_it_is_sure_a_number_is_said_without_about() -> None:
    canary, by_tag = ready_plan("canary"), RolloutPlan(waves=[Wave(where={"site": "bern"}), Wave(upto=50)])
    many = RolloutPlan(waves=[Wave(upto=part) for part in (20, 40, 60, 80, 100)])
    two = RolloutPlan(waves=[Wave(devices=2), Wave(upto=100)])
    assert is_exact(canary, EXACT, of_share=False)
    assert is_exact(ready_plan("all-at-once"), 10_000, of_share=False)
    for plan, number, of_share in (
        (canary, EXACT + 1, False),
        (canary, 5, True),
        (by_tag, 5, False),
        (many, 5, False),
        (two, 5, False),
    ):
        assert not is_exact(plan, number, of_share=of_share)
    assert [wave.number_text for wave in foreseen_waves(two, [None] * 5, 5)] == ["about 2", "about 3"]
    few = RolloutPlan(waves=[Wave(upto=50, concurrency=4), Wave(upto=100)])
    waves = foreseen_waves(few, [None] * 40, 40)
    assert [wave.number_text for wave in waves] == ["about 20, 4 at a time", "about 20"]
    assert [wave.number_text for wave in foreseen_waves(few, [None] * 10, 10)] == ["5, 4 at a time", "5"]


def test_it_is_said_when_it_is_known_who_is_in_which_wave() -> None:
    drawn_then = "which devices a share has is drawn when it is released"
    picked = "a wave of so many devices picks them when it begins, of those that are there then"
    assert drawn_when(ready_plan("all-at-once"), [1, 1]) == ""
    assert drawn_when(SHARES, [None]) == drawn_then
    assert drawn_when(RolloutPlan(waves=[Wave(devices=2), Wave(upto=100)]), [None]) == picked
    assert drawn_when(ready_plan("canary"), [None]) == f"{drawn_then}; {picked}"
