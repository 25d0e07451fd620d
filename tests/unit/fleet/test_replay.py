"""When a device is asked to send events again."""

import itertools

from controller.fleet.progress import SeqTrack
from controller.fleet.replay import FIRST_WAIT_S, GRACE_S, LONGEST_WAIT_S, ReplayPlanner

GAP = SeqTrack(9, ((4, 6),))


def test_a_gap_is_given_a_moment_and_then_asked_for_from_the_last_whole_event_on() -> None:
    planner = ReplayPlanner()
    planner.note("pi-1", GAP, 0.0)
    assert planner.due(GRACE_S - 0.1) == []
    assert planner.next_due() == GRACE_S
    assert planner.due(GRACE_S) == [("pi-1", 3)]
    assert planner.due(GRACE_S + 1) == []


def test_a_gap_that_closes_by_itself_is_not_asked_for() -> None:
    planner = ReplayPlanner()
    planner.note("pi-1", GAP, 0.0)
    planner.note("pi-1", SeqTrack(9), 1.0)
    assert planner.due(1000.0) == []
    assert planner.next_due() is None


def test_a_device_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    planner = ReplayPlanner()
    planner.note("pi-1", GAP, 0.0)
    times = []
    while len(times) < 12:
        now = planner.next_due()
        assert now is not None
        assert planner.due(now) == [("pi-1", 3)]
        times.append(now)
        planner.note("pi-1", GAP, now)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert max(waits) == waits[-1] == LONGEST_WAIT_S


def test_a_device_that_is_answering_is_left_in_peace() -> None:
    planner = ReplayPlanner()
    planner.note("pi-1", GAP, 0.0)
    planner.due(GRACE_S)
    planner.note("pi-1", SeqTrack(9, ((5, 6),)), 20.0)
    assert planner.due(FIRST_WAIT_S + GRACE_S) == []
    assert planner.due(20.0 + FIRST_WAIT_S) == [("pi-1", 4)]


def test_a_device_that_comes_back_is_asked_soon() -> None:
    planner = ReplayPlanner()
    planner.note("pi-1", GAP, 0.0)
    for _ in range(8):
        planner.due(planner.next_due() or 0.0)
    now = (planner.next_due() or 0.0) - 1000.0
    planner.returned("pi-1", now)
    assert planner.due(now + GRACE_S) == [("pi-1", 3)]
    planner.returned("pi-2", now)
    assert planner.due(now + GRACE_S) == []


def test_a_journal_that_began_again_is_asked_for_everything_once() -> None:
    planner = ReplayPlanner()
    planner.demand("pi-1", 0.0)
    planner.note("pi-1", SeqTrack(2), 0.0)
    assert planner.next_due() == GRACE_S
    assert planner.due(GRACE_S) == [("pi-1", 0)]
    assert planner.next_due() is None
