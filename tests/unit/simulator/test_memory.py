"""The journal in memory writes and answers what the agent's own does, for whatever life an update has."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_agent import lifecycle
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.simulator.memory import KEPT_EVENTS, MemoryJournal
from device_agent.updates import Install, Release, UpdateRequest
from schemas.codec import decode
from schemas.messages import LAST_WORDS, ErrorReport, Phase, Progress, UpdateEvent
from tests.unit.agent.device import rollout

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ERROR = ErrorReport(code="disk.full", message="no room", log_tail="the last line")


def in_memory() -> MemoryJournal:
    return MemoryJournal(
        device="pi-1",
        boot_id="boot-1",
        on_begun=lambda: None,
        on_event=lambda _event: None,
        on_confirmed=lambda _count, _size: None,
    )


def live(journal: Journal | MemoryJournal, lives: list[list[int]]) -> None:
    """One update after the other, each led through the life-cycle table by a list of choices."""
    for number, choices in enumerate(lives):
        at = NOW + timedelta(minutes=number)
        version = f"1.{number}.0"
        request = UpdateRequest(package="tacho", version=version, rollout=rollout(number), reason="jitter")
        begins = sorted(lifecycle.ENTRIES)
        row = journal.begin(request, begins[choices[0] % len(begins)], update=rollout(100 + number), at=at)
        for choice in choices:
            outcomes = sorted(outcome for phase, outcome in lifecycle.TRANSITIONS if phase is row.phase)
            if not outcomes:
                break
            outcome = outcomes[choice % len(outcomes)]
            release = Release(version=version, manifest=f"{number:064x}", rollout=rollout(number), installed_at=at)
            installs = row.phase is Phase.STAGED and outcome is Outcome.DONE
            row = journal.advance(
                row.id,
                outcome,
                at=at,
                error=ERROR if outcome in (Outcome.FAIL, Outcome.REJECT, Outcome.GO_BACK) else None,
                detail={"choice": choice, "empty": ""},
                progress=Progress(bytes_done=choice, bytes_total=99) if row.phase is Phase.FETCHING else None,
                changes={"manifest": release.manifest} if outcome is Outcome.START else None,
                install=Install(package="tacho", current=release) if installs else None,
                uninstall=row.phase is Phase.ROLLING_BACK,
            )
        if row.phase not in LAST_WORDS:
            journal.tell(row.id, at=at, progress=Progress(bytes_done=1, bytes_total=2))


def installing() -> list[int]:
    """Choices of an update that installs its release: whatever goes well, in each phase."""
    begins = sorted(lifecycle.ENTRIES)
    phase = lifecycle.ENTRIES[Outcome.ACCEPT]
    outcomes: list[list[Outcome]] = []
    wanted: list[Outcome] = []
    for outcome in (Outcome.START, Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.DONE):
        if (phase, outcome) not in lifecycle.TRANSITIONS:
            break
        outcomes.append(sorted(one for before, one in lifecycle.TRANSITIONS if before is phase))
        wanted.append(outcome)
        phase = lifecycle.TRANSITIONS[phase, outcome]
    first = next(
        number
        for number in range(1000)
        if begins[number % len(begins)] is Outcome.ACCEPT and outcomes[0][number % len(outcomes[0])] is wanted[0]
    )
    return [first, *(some.index(one) for some, one in zip(outcomes[1:], wanted[1:], strict=True))]


@settings(deadline=None, max_examples=40)
@example([installing(), installing()])
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), max_size=5))
def test_it_says_what_the_real_one_says(lives: list[list[int]]) -> None:
    memory = in_memory()
    live(memory, lives)
    with tempfile.TemporaryDirectory() as name, Journal(Path(name), device="pi-1", boot_id="boot-1") as real:
        live(real, lives)
        assert memory.unsent(1000) == real.unsent(1000)
        assert memory.last_seq() == real.last_seq()
        assert memory.installed() == real.installed()
        assert memory.installs() == real.installs()
        assert memory.unfinished() == real.unfinished()
        for number in range(len(lives)):
            key = ("tacho", rollout(number), f"1.{number}.0")
            assert memory.verdict(*key) == real.verdict(*key)


def test_what_is_not_confirmed_is_kept_and_what_is_confirmed_makes_room() -> None:
    journal = in_memory()
    request = UpdateRequest(package="tacho", version="1.0.0")
    update = journal.begin(request, Outcome.ACCEPT, update=rollout(1), at=NOW).id
    for number in range(2 * KEPT_EVENTS):
        journal.tell(update, at=NOW, progress=Progress(bytes_done=number, bytes_total=number))
    last = 2 * KEPT_EVENTS + 1
    assert [event.seq for event in journal.unsent(10_000)] == list(range(1, last + 1))
    journal.mark_sent([2, 3])
    assert [event.seq for event in journal.unsent(3)] == [1, 4, 5]
    journal.mark_sent(range(1, last + 1))
    assert (journal.unsent(), journal.all_sent(), journal.last_seq()) == ([], True, last)
    kept = journal.events_after(0, 10_000)
    assert [event.seq for event in kept] == list(range(last - KEPT_EVENTS + 1, last + 1))
    assert decode(kept[-1].payload, UpdateEvent).seq == last
