"""Who is who in a simulated fleet: the shares asked for, and the same for the same seed."""

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from device_agent.simulator.course import FAILURES, SLOW_FACTOR, Course, Kind, course_of, kinds_of
from device_agent.simulator.fleet import members_of
from schemas.messages import Phase

SPECIAL = (Kind.FAILING, Kind.SLOW, Kind.SILENT, Kind.FLAPPING, Kind.DUPLICATED)
SHARES = st.fixed_dictionaries({kind: st.floats(0, 0.2) for kind in SPECIAL})


@example(83, {**dict.fromkeys(SPECIAL, 0.19921875), Kind.FAILING: 0.1875}, 0)
@given(st.integers(1, 300), SHARES, st.integers())
def test_every_share_is_there_and_the_same_again(count: int, rates: dict[Kind, float], seed: int) -> None:
    kinds = kinds_of(count, rates, seed)
    assert len(kinds) == count
    assert kinds == kinds_of(count, rates, seed)
    found = Counter(kinds)
    if count >= 30:  # room for at least one of each
        wanted = {kind: max(1, round(rate * count)) if rate > 0 else 0 for kind, rate in rates.items()}
        if sum(wanted.values()) > count:  # all rounded up: who is asked for last is short of the rest
            last = [kind for kind in wanted if wanted[kind]][-1]
            wanted[last] -= sum(wanted.values()) - count
        assert {kind: found[kind] for kind in wanted} == wanted


def test_another_seed_makes_others_special() -> None:
    rates = {Kind.FAILING: 0.1}
    assert kinds_of(100, rates, 1) != kinds_of(100, rates, 2)


def test_a_duplicated_device_is_there_twice_and_all_others_once() -> None:
    members = members_of(50, {Kind.DUPLICATED: 0.04}, prefix="pi", seed=3)
    names = Counter(one.name for one in members)
    assert sorted(names.values(), reverse=True) == [2, 2] + [1] * 48
    assert {one.kind for one in members if one.twin} == {Kind.DUPLICATED}


def course(kind: Kind, *, version: str = "1.0.0", bad: bool = False) -> Course:
    return course_of("pi-1", kind, package="tacho", version=version, bad=bad, pace_s=10, seed=1)


def test_each_kind_has_its_own_course() -> None:
    healthy = course(Kind.HEALTHY)
    assert (healthy.failure, healthy.silent) == (None, False)
    assert 5 <= healthy.fetch_s + healthy.switch_s + healthy.probation_s <= 15
    assert course(Kind.SLOW).fetch_s == healthy.fetch_s * SLOW_FACTOR
    assert course(Kind.SILENT).silent
    assert course(Kind.FAILING).failure is not None


def test_failing_devices_fail_in_several_ways_and_a_bad_release_in_one() -> None:
    failures = [course(Kind.FAILING, version=f"1.{number}.0").failure for number in range(40)]
    assert {failure.error.code for failure in failures if failure} == {
        "health.http",
        "service.crashed",
        "disk.full",
        "requires.hardware",
    }
    bad = course(Kind.HEALTHY, bad=True).failure
    assert bad is not None
    assert (bad.phase, bad.error.code) == (Phase.PROBATION, "health.http")


def test_a_made_up_failure_says_that_it_is() -> None:
    assert all(one.error.message.startswith("simulated: ") for one in FAILURES)
