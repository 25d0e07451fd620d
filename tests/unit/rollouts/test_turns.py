"""Deadlines and turns: who is given up on, who takes a place, and what a connection that breaks changes."""

from datetime import timedelta

from msgspec.structs import replace as changed

from controller.rollouts.engine import decide
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.standing import Standing
from controller.rollouts.waves import RolloutPlan, Wave
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
    gone,
    in_waves,
    next_look,
    plan,
)


def test_a_forgiven_late_device_whose_connection_breaks_does_not_stop_the_rollout_again() -> None:
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", soak="0s")]))
    late = device("pi-1", phase=Phase.FETCHING, last_seen=after(7200))
    seen = [done("pi-2"), late]
    paused = decide(bounded, seen, after(7201))
    assert paused.state is RolloutState.PAUSED
    now = decide(*going_on(paused, seen, after(7210)), after(7210))
    assert now.marks["pi-1"].forgiven
    assert now.state is RolloutState.COMPLETE
    # hours later: the connection breaks for some seconds, and comes back
    off = [seen[0], changed(late, online=False, last_seen=after(20_000))]
    now = next_look(now, off, after(20_001))
    on = [seen[0], changed(late, online=True, last_seen=after(20_010))]
    now = next_look(now, on, after(20_011))
    assert now.state is RolloutState.COMPLETE, now.plan.stopped


def test_a_late_device_whose_connection_breaks_reopens_nothing() -> None:
    """There at the deadline, so late: it did not go away right before it."""
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h", success=50)]))
    late = device("pi-1", phase=Phase.FETCHING, last_seen=after(7200))
    first = decide(bounded, [done("pi-2"), late], after(7201))
    assert (first.state, first.verdicts["pi-1"]) == (RolloutState.COMPLETE, Verdict.LATE)
    off = decide(first.plan, [done("pi-2"), changed(late, online=False, last_seen=after(90_000))], after(90_001))
    assert (off.state, off.verdicts["pi-1"]) == (RolloutState.COMPLETE, Verdict.LATE)


def test_who_comes_to_meet_a_waves_condition_after_its_deadline_has_as_long_again() -> None:
    waves = in_waves(Wave(where={"site": "bern"}, deadline="1h"), Wave(upto=100))
    there = device("pi-1", tags={"site": "bern"}, online=False, last_seen=NOW - timedelta(days=8))
    now = decide(waves, [there], NOW)
    now = next_look(now, [there], after(7200))
    assert (now.state, now.plan.begun) == (RolloutState.ACTIVE, 1)
    comes = device("pi-2", tags={"site": "bern"}, last_seen=after(7200))
    now = next_look(now, [there, comes], after(7201))
    assert (now.state, now.verdicts["pi-2"]) == (RolloutState.ACTIVE, Verdict.PENDING)
    comes = changed(comes, last_seen=after(10_802))
    now = next_look(now, [there, comes], after(10_802))
    assert now.state is RolloutState.PAUSED
    assert now.plan.stopped.endswith("0 of 1 devices succeeded, 100 % must; 1 late")


def test_who_is_away_in_an_earlier_wave_begins_in_its_turn_when_a_later_wave_has_begun() -> None:
    waves = in_waves(Wave(upto=50, concurrency=1, success=50, deadline="1h"), Wave(upto=100, concurrency=1, success=50))
    names = sorted((f"pi-{one}" for one in range(1, 41)), key=lambda one: bucket(ROLLOUT, one))
    half = [one for one in names if bucket(ROLLOUT, one) < 5000]
    away = set(half[2:])
    seen = [gone(name) if name in away else device(name) for name in names]
    now = decide(waves, seen, NOW)
    for step in range(4):
        going = {one for one, mark in now.marks.items() if mark.place}
        seen = [done(one.device) if one.device in going else one for one in seen]
        now = decide(now.plan, seen, after(3601 + step))
        if now.plan.begun == 2:
            break
    assert now.plan.begun == 2
    seen = [device(one.device, last_seen=after(4000)) if one.device in away else one for one in seen]
    # back before anything is said: how many of wave 1 may start at a time?
    back = decide(now.plan, seen, after(4000))
    may = [one for one in away if one in back.targets.devices or bucket(ROLLOUT, one) < back.targets.upto]
    assert len(may) <= 1, (len(may), len(away), back.targets.upto)


def test_so_does_it_without_a_deadline() -> None:
    waves = in_waves(Wave(upto=50, concurrency=1, success=10), Wave(upto=100, concurrency=1))
    names = sorted((f"pi-{one}" for one in range(1, 41)), key=lambda one: bucket(ROLLOUT, one))
    half = [one for one in names if bucket(ROLLOUT, one) < 5000]
    away = set(half[3:])
    seen = [gone(name) if name in away else device(name) for name in names]
    now = decide(waves, seen, NOW)
    while now.plan.begun < 2:
        going = {one for one, mark in now.marks.items() if mark.place}
        assert going
        seen = [done(one.device) if one.device in going else one for one in seen]
        now = decide(now.plan, seen, NOW)
    seen = [device(one.device) if one.device in away else one for one in seen]
    back = decide(now.plan, seen, NOW)
    pending = [one for one in away if back.verdicts[one] is Verdict.PENDING]
    assert len(pending) <= 1, (len(pending), len(away))


def test_after_the_deadline_no_more_than_concurrency_begin_at_a_time() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1, deadline="1h", success=0))
    seen = fleet(10, last_seen=after(3600))
    now = decide(waves, seen, NOW)
    later = decide(now.plan, seen, after(3601))
    may = [
        one.device
        for one in seen
        if one.device in later.targets.devices or bucket(ROLLOUT, one.device) < later.targets.upto
    ]
    assert later.state not in (RolloutState.PAUSED, RolloutState.HALTED)
    assert len(may) <= 2, (len(may), later.state, later.verdicts)


def test_who_is_back_after_the_deadline_begins_in_its_turn() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1, deadline="1h", success=0))
    seen = [device("pi-1"), *(gone(f"pi-{one}") for one in range(2, 12))]
    now = decide(waves, seen, NOW)
    seen[0] = done("pi-1")
    now = decide(now.plan, seen, after(3601))
    seen = [seen[0], *(device(f"pi-{one}", last_seen=after(4000)) for one in range(2, 12))]
    back = decide(now.plan, seen, after(4000))
    may = [
        one.device
        for one in seen[1:]
        if one.device in back.targets.devices or bucket(ROLLOUT, one.device) < back.targets.upto
    ]
    assert back.state not in (RolloutState.PAUSED, RolloutState.HALTED)
    assert len(may) <= 1, (len(may), back.state, back.verdicts)


def test_who_is_back_after_the_deadline_is_late_at_once() -> None:
    """Only those that are listened for are looked at because of a sign of life."""
    bounded = plan(plan=RolloutPlan(waves=[Wave(upto=100, deadline="2h")]))
    off = device("pi-1", phase=Phase.FETCHING, online=False, last_seen=after(7100))
    now = decide(bounded, [done("pi-2"), off], after(7201))
    standing = Standing(None, now.plan, now.marks)
    assert now.verdicts["pi-1"] is Verdict.UPDATING
    assert (
        decide(now.plan, [done("pi-2"), changed(off, online=True, last_seen=after(7300))], after(7300)).verdicts["pi-1"]
        is Verdict.LATE
    )
    assert "pi-1" in standing.listening


def test_a_late_device_whose_connection_breaks_takes_no_place_again() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1, deadline="1h", success=0))
    late = device("pi-1", phase=Phase.FETCHING, last_seen=after(3600))
    now = decide(waves, [late], after(0))
    now = decide(now.plan, [late], after(3601))
    assert not now.marks["pi-1"].place
    off = decide(now.plan, [changed(late, online=False, last_seen=after(9000))], after(9001))
    assert not off.marks["pi-1"].place


def test_who_was_let_in_while_away_takes_no_place() -> None:
    """A site's uplink broke a minute ago, and the list would be too long: the others must not wait ten minutes."""
    waves = in_waves(Wave(upto=100, concurrency=300, success=10))
    seen = [
        changed(one, online=False, last_seen=NOW - timedelta(minutes=1)) if number % 2 else one
        for number, one in enumerate(fleet(1600))
    ]
    now = decide(waves, seen, NOW)
    away = {one.device for one in seen if not one.online}
    seen = [done(one.device) if now.marks[one.device].place else one for one in seen]
    now = decide(now.plan, seen, NOW)
    assert sum(mark.place for mark in now.marks.values()) <= 300
    assert not [one for one, mark in now.marks.items() if mark.place and one in away]


def test_who_gets_its_turn_after_the_deadline_has_as_long_as_the_wave_had() -> None:
    """What an operator goes on in spite of is forgiven; those after it begin in turn, and are not late at once."""
    waves = in_waves(Wave(upto=100, concurrency=1, deadline="1h"))
    seen = [changed(one, last_seen=after(3600)) for one in fleet(3)]
    now = decide(waves, seen, NOW)
    (stuck,) = (name for name, mark in now.marks.items() if mark.place)
    now = decide(now.plan, seen, after(3601))
    (second,) = (name for name, mark in now.marks.items() if mark.place)
    assert (now.state, now.verdicts[stuck], now.verdicts[second]) == (
        RolloutState.ACTIVE,
        Verdict.LATE,
        Verdict.PENDING,
    )
    # the first one is no success, and the others have had their turn: it is time to say so
    seen = [done(second, at=after(3700)) if one.device == second else one for one in seen]
    now = decide(now.plan, seen, after(3701))
    (third,) = (name for name, mark in now.marks.items() if mark.place)
    busy = decide(now.plan, seen, after(7301))
    assert (busy.state, busy.verdicts[third]) == (RolloutState.ACTIVE, Verdict.PENDING)
    over = decide(now.plan, seen, after(7302))
    assert over.state is RolloutState.PAUSED
    assert "2 late" in over.plan.stopped


def test_who_was_away_in_its_turn_is_not_late() -> None:
    waves = in_waves(Wave(upto=100, concurrency=1, deadline="1h"))
    seen = [device("pi-1"), device("pi-2", online=False, last_seen=after(60))]
    now = decide(waves, seen, after(60))
    now = decide(now.plan, [done("pi-1", at=after(120)), seen[1]], after(3661))
    assert now.verdicts["pi-2"] is Verdict.UNREACHED
    assert now.state is RolloutState.COMPLETE
