"""The life-cycle tables: complete, without dead ends, and the documents drawn from them are current."""

from pathlib import Path

import pytest

from device_agent import lifecycle
from device_agent.lifecycle import (
    COUNTED_PHASES,
    ENTRIES,
    MAX_FETCH_RESTARTS,
    MAX_RESTARTS,
    RESUME,
    TRANSITIONS,
    WATCHED_PHASES,
    IllegalMoveError,
    Outcome,
    Step,
)
from schemas.messages import LAST_WORDS, Phase

DOCUMENT = Path(__file__).parents[3] / "docs/lifecycle.md"


def test_every_phase_is_reached() -> None:
    assert {*ENTRIES.values(), *TRANSITIONS.values()} == set(Phase)


def test_nothing_follows_a_last_word() -> None:
    assert {phase for phase, _ in TRANSITIONS}.isdisjoint(LAST_WORDS)


@pytest.mark.parametrize("phase", sorted(Phase))
def test_every_phase_leads_to_a_last_word(phase: Phase) -> None:
    reached, seen = {phase}, set[Phase]()
    while reached - seen:
        one = (reached - seen).pop()
        seen.add(one)
        reached |= {follows for (before, _), follows in TRANSITIONS.items() if before is one}
    assert reached & LAST_WORDS


def test_what_has_changed_things_ends_only_well_or_by_going_back() -> None:
    for phase in (Phase.SWITCHED, Phase.PROBATION):
        follows = {after for (before, _), after in TRANSITIONS.items() if before is phase}
        assert follows <= {Phase.PROBATION, Phase.SUCCEEDED, Phase.ROLLING_BACK}


@pytest.mark.parametrize("phase", sorted(Phase))
@pytest.mark.parametrize("outcome", sorted(Outcome))
def test_a_move_that_the_table_lacks_is_an_error(phase: Phase, outcome: Outcome) -> None:
    if (phase, outcome) in TRANSITIONS:
        assert lifecycle.allows(phase, outcome)
        assert lifecycle.advance(phase, outcome) is TRANSITIONS[phase, outcome]
    else:
        assert not lifecycle.allows(phase, outcome)
        with pytest.raises(IllegalMoveError, match=f"phase '{phase}' has no outcome '{outcome}'"):
            lifecycle.advance(phase, outcome)


def test_from_an_unknown_phase_the_only_way_is_back() -> None:
    assert lifecycle.read_phase("polishing") is None
    assert lifecycle.advance(None, Outcome.GO_BACK) is Phase.ROLLING_BACK
    assert [outcome for outcome in Outcome if lifecycle.allows(None, outcome)] == [Outcome.GO_BACK]
    with pytest.raises(IllegalMoveError):
        lifecycle.advance(None, Outcome.DONE)


@pytest.mark.parametrize("outcome", sorted(Outcome))
def test_only_some_outcomes_begin_an_update(outcome: Outcome) -> None:
    if outcome in ENTRIES:
        assert lifecycle.begin(outcome) is ENTRIES[outcome]
    else:
        with pytest.raises(IllegalMoveError):
            lifecycle.begin(outcome)


def test_every_journaled_phase_has_a_step() -> None:
    assert set(RESUME) == set(Phase)
    assert {phase for phase, step in RESUME.items() if step is Step.NOTHING} == LAST_WORDS
    assert lifecycle.step_for(None) is Step.ROLLBACK


@pytest.mark.parametrize("phase", sorted(Phase))
def test_too_many_restarts_roll_back_what_is_watched(phase: Phase) -> None:
    assert lifecycle.step_for(phase, MAX_RESTARTS) is RESUME[phase]
    expected = Step.ROLLBACK if phase in WATCHED_PHASES else RESUME[phase]
    assert lifecycle.step_for(phase, MAX_RESTARTS + 1) is expected


@pytest.mark.parametrize("phase", sorted(Phase))
def test_restarts_without_end_are_broken_off_wherever_something_is_done(phase: Phase) -> None:
    expected = dict.fromkeys(WATCHED_PHASES, Outcome.GO_BACK) | {
        Phase.FETCHING: Outcome.FAIL,
        Phase.ROLLING_BACK: Outcome.FAIL,
    }
    assert set(expected) == COUNTED_PHASES
    few = MAX_FETCH_RESTARTS if phase is Phase.FETCHING else MAX_RESTARTS
    assert lifecycle.break_off(phase, few) is None
    assert lifecycle.break_off(phase, few + 1) is expected.get(phase)
    assert lifecycle.break_off(None, 0) is Outcome.GO_BACK
    if phase in expected:
        assert lifecycle.allows(phase, expected[phase])


def test_the_diagram_and_the_table_in_the_documentation_are_current() -> None:
    text = DOCUMENT.read_text()
    assert lifecycle.refresh_document(text) == text, "run: make contract"
    assert f"```mermaid\n{lifecycle.render_diagram()}```\n" in text
    with pytest.raises(ValueError, match="no place for the diagram"):
        lifecycle.refresh_document("nothing here")


def test_the_diagram_has_every_move_once() -> None:
    lines = lifecycle.render_diagram().splitlines()[1:]
    assert len(lines) == len(set(lines)) == len(ENTRIES) + len(TRANSITIONS) + len(LAST_WORDS)
