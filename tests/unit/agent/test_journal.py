"""agent.db: what is in it after a commit, what is not after an error, and numbers that never go back."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_agent import journal as journal_module
from device_agent import outbox
from device_agent.agent_db import DATABASE, SCHEMA_VERSION
from device_agent.journal import Journal
from device_agent.lifecycle import IllegalMoveError, Outcome
from device_agent.reports import MAX_LOG, detail, report
from device_agent.updates import Install, Origin, Release, UpdateRequest
from schemas.codec import decode
from schemas.errors import DeviceError, OperatorError
from schemas.messages import ErrorReport, Phase, Progress, UpdateEvent
from tests.unit.agent.device import rollout

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REQUEST = UpdateRequest(package="tacho", version="1.0.0", rollout=rollout(1))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path, device="pi-1", boot_id="boot-1") as opened:
        yield opened


def begin(journal: Journal, number: int = 1, outcome: Outcome = Outcome.ACCEPT) -> str:
    return journal.begin(REQUEST, outcome, update=rollout(1000 + number), at=NOW).id


def end(journal: Journal, update: str, outcome: Outcome = Outcome.FAIL, code: str = "disk.io") -> None:
    journal.advance(update, outcome, at=NOW, error=ErrorReport(code=code, message="it did not work"))


def test_a_phase_and_its_event_are_there_together(journal: Journal, tmp_path: Path) -> None:
    update = begin(journal)
    journal.advance(
        update,
        Outcome.START,
        at=NOW,
        progress=Progress(bytes_done=0, bytes_total=7),
        detail={"objects": 1, "empty": ""},
        changes={"manifest": "ab" * 32},
    )
    journal.close()
    with Journal(tmp_path, read_only=True) as again:
        (row,) = again.unfinished()
        events = [decode(kept.payload, UpdateEvent) for kept in again.unsent()]
    assert (row.id, row.phase, row.manifest, row.request) == (update, Phase.FETCHING, "ab" * 32, REQUEST)
    assert [event.phase for event in events] == [Phase.ACCEPTED, Phase.FETCHING]
    assert (events[1].progress, events[1].detail) == (Progress(bytes_done=0, bytes_total=7), {"objects": 1})
    assert {(e.device, e.boot_id, e.rollout, e.attempt) for e in events} == {("pi-1", "boot-1", rollout(1), 1)}


def test_an_illegal_move_changes_nothing(journal: Journal) -> None:
    update = begin(journal)
    with pytest.raises(IllegalMoveError):
        journal.advance(update, Outcome.DUE, at=NOW, uninstall=True)
    assert [row.phase for row in journal.unfinished()] == [Phase.ACCEPTED]
    assert journal.last_seq() == 1


def test_an_event_that_cannot_be_written_takes_its_phase_with_it(journal: Journal) -> None:
    update = begin(journal)
    with journal._transaction() as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError):
        journal.advance(update, Outcome.START, at=NOW, changes={"manifest": "ab" * 32})
    assert [(row.phase, row.manifest) for row in journal.unfinished()] == [(Phase.ACCEPTED, None)]


def test_what_is_installed_changes_with_the_phase(journal: Journal) -> None:
    install = Install(package="tacho", current=Release(version="1.0.0", manifest="ab" * 32, installed_at=NOW))
    update = begin(journal)
    journal.advance(update, Outcome.START, at=NOW)
    journal.advance(update, Outcome.DONE, at=NOW, changes={"manifest": "ab" * 32})
    journal.advance(update, Outcome.DONE, at=NOW, install=install)
    assert journal.installs() == {"tacho": install}
    told = journal.installed()["tacho"]
    assert (told.version, told.phase, told.previous, told.rollout) == ("1.0.0", Phase.SWITCHED, None, None)
    journal.advance(update, Outcome.GO_BACK, at=NOW)
    assert journal.installed()["tacho"].phase is Phase.ROLLING_BACK
    journal.advance(update, Outcome.DONE, at=NOW, uninstall=True)
    assert journal.installs() == {}


def installed_in(journal: Journal, phase: Phase) -> Phase:
    """Install 1.0.0 up to `phase`; gives the phase told once another release of it was turned down."""
    current = Release(version="1.0.0", manifest="ab" * 32, installed_at=NOW)
    update = begin(journal)
    journal.advance(update, Outcome.START, at=NOW)
    journal.advance(update, Outcome.DONE, at=NOW, changes={"manifest": current.manifest, "switch_begun": True})
    journal.advance(update, Outcome.DONE, at=NOW, install=Install(package="tacho", current=current))
    ways = {Phase.SWITCHED: 0, Phase.PROBATION: 1, Phase.SUCCEEDED: 2}
    for _ in range(ways[phase]):
        journal.advance(update, Outcome.DONE, at=NOW)
    other = UpdateRequest(package="tacho", version="1.1.0", rollout=rollout(2))
    error = ErrorReport(code="trust.signatures", message="not signed")
    journal.begin(other, Outcome.REJECT, update=rollout(1002), at=NOW, error=error)
    journal.begin(REQUEST, Outcome.REJECT, update=rollout(1003), at=NOW, error=error)
    return journal.installed()["tacho"].phase


@pytest.mark.parametrize("phase", [Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED])
def test_the_phase_of_what_is_installed_is_that_of_its_own_installation(journal: Journal, phase: Phase) -> None:
    assert installed_in(journal, phase) is phase


def test_a_release_that_was_gone_back_to_has_proven_itself(journal: Journal) -> None:
    assert installed_in(journal, Phase.SUCCEEDED) is Phase.SUCCEEDED
    one = journal.installs()["tacho"]
    two = Release(version="1.1.0", manifest="cd" * 32, installed_at=NOW)
    request = UpdateRequest(package="tacho", version="1.1.0", rollout=rollout(3))
    update = journal.begin(request, Outcome.ACCEPT, update=rollout(1004), at=NOW).id
    journal.advance(update, Outcome.START, at=NOW)
    journal.advance(update, Outcome.DONE, at=NOW, changes={"manifest": two.manifest, "switch_begun": True})
    assert journal.installed()["tacho"].phase is Phase.SUCCEEDED
    journal.advance(update, Outcome.DONE, at=NOW, install=Install(package="tacho", current=two, previous=one.current))
    assert journal.installed()["tacho"].phase is Phase.SWITCHED
    journal.advance(update, Outcome.GO_BACK, at=NOW)
    assert journal.installed()["tacho"].phase is Phase.ROLLING_BACK
    journal.advance(update, Outcome.DONE, at=NOW, install=one)
    told = journal.installed()["tacho"]
    assert (told.version, told.phase) == ("1.0.0", Phase.SUCCEEDED)


def test_why_it_is_rolled_back_outlives_a_restart_with_its_output(tmp_path: Path) -> None:
    error = ErrorReport(code="service.crashed", message="web ended with 1", log_tail="x" * MAX_LOG)
    with Journal(tmp_path, device="pi-1", boot_id="boot-1") as journal:
        update = begin(journal)
        journal.advance(update, Outcome.GO_BACK, at=NOW, error=error)
    with Journal(tmp_path, device="pi-1", boot_id="boot-2") as journal:
        journal.advance(update, Outcome.DONE, at=NOW)
        last = decode(journal.unsent(10)[-1].payload, UpdateEvent)
        assert (last.phase, last.error) == (Phase.ROLLED_BACK, error)


def test_the_numbers_of_events_never_go_back(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1") as journal:
        end(journal, begin(journal))
        assert journal.last_seq() == 2
        journal.mark_sent([1, 2])
        journal.forget_through(2)
        assert journal.events_after(0) == []
    with Journal(tmp_path, device="pi-1") as journal:
        assert journal.last_seq() == 2
        begin(journal, 2)
        assert [kept.seq for kept in journal.unsent()] == [3]


def test_under_another_name_events_begin_anew_and_what_is_installed_stays(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-thre") as journal:
        assert journal.belong_to("pi-thre") is None
        update = begin(journal)
        end(journal, update)
        installs = journal.installs()
    with Journal(tmp_path, device="pi-three") as journal:
        assert journal.belong_to("pi-three") == "pi-thre"
        assert (journal.unsent(), journal.events_after(0), journal.last_seq()) == ([], [], 0)
        assert [one.id for one in journal.history()] == [update]
        assert journal.installs() == installs
        begin(journal, 2)
        (kept,) = journal.unsent()
        assert (kept.seq, decode(kept.payload, UpdateEvent).device) == (1, "pi-three")
    with Journal(tmp_path, device="pi-three") as journal:
        assert journal.belong_to("pi-three") is None
        assert journal.last_seq() == 1


def test_a_journal_that_does_not_say_whose_it_is_belongs_to_whom_its_last_event_names(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1") as journal:
        begin(journal)
    with Journal(tmp_path, device="pi-1") as journal:
        assert journal.belong_to("pi-1") is None
        assert journal.last_seq() == 1
        journal.set_note("device", None)
    with Journal(tmp_path, device="pi-2") as journal:
        assert journal.belong_to("pi-2") == "pi-1"
        assert journal.last_seq() == 0


def test_back_under_its_old_name_a_device_counts_on_and_what_failed_under_another_is_tried(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1") as journal:
        journal.belong_to("pi-1")
        for number in (1, 2):
            end(journal, begin(journal, number))
        journal.set_note("desired", "{}")
        assert journal.last_seq() == 4
    with Journal(tmp_path, device="pi-2") as journal:
        assert journal.belong_to("pi-2", without=["desired"]) == "pi-1"
        assert journal.get_note("desired") is None
        assert journal._rows("SELECT COUNT(*) FROM verdicts") == [(0,)]
        begin(journal, 3)
        assert (journal.last_seq(), journal.speaker) == (1, "pi-2")
    with Journal(tmp_path, device="pi-1") as journal:
        assert journal.belong_to("pi-1") == "pi-2"
        begin(journal, 4)
        assert [kept.seq for kept in journal.unsent()] == [5]
    with Journal(tmp_path, device="pi-2") as journal:
        assert journal.belong_to("pi-2") == "pi-1"
        assert journal.last_seq() == 1


def test_events_stay_until_the_controller_has_them(journal: Journal) -> None:
    for number in range(3):
        end(journal, begin(journal, number))
    assert [kept.seq for kept in journal.unsent(limit=4)] == [1, 2, 3, 4]
    journal.mark_sent([2, 1])
    assert [kept.seq for kept in journal.unsent()] == [3, 4, 5, 6]
    assert [kept.seq for kept in journal.events_after(0, limit=3)] == [1, 2, 3]
    assert [kept.seq for kept in journal.events_after(4)] == [5, 6]
    journal.forget_through(1)
    assert [kept.seq for kept in journal.events_after(0)] == [2, 3, 4, 5, 6]


def test_too_many_events_go_oldest_confirmed_first(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_EVENTS", 4)
    for number in range(2):
        end(journal, begin(journal, number))
    journal.mark_sent([2, 3])
    begin(journal, 2)
    assert [kept.seq for kept in journal.events_after(0)] == [1, 3, 4, 5]
    end(journal, journal.unfinished()[0].id)
    assert [kept.seq for kept in journal.events_after(0)] == [1, 4, 5, 6]
    begin(journal, 3)
    assert [kept.seq for kept in journal.events_after(0)] == [4, 5, 6, 7]


def test_old_updates_go_and_their_verdicts_stay(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_UPDATES", 2)
    waiting = begin(journal, 0)
    for number in range(1, 6):
        end(journal, begin(journal, number))
    assert [row.id for row in journal.history()] == [rollout(1005), rollout(1004), waiting]
    assert journal.history("engine") == []
    verdict = journal.verdict("tacho", rollout(1), "1.0.0")
    assert verdict is not None
    assert (verdict.phase, verdict.code) == (Phase.FAILED, "disk.io")


@pytest.mark.parametrize("code", ["conflict.superseded", "conflict.halted", "conflict.deadline"])
def test_an_end_that_says_nothing_about_the_release_is_no_verdict(journal: Journal, code: str) -> None:
    end(journal, begin(journal), Outcome.CANCEL, code)
    assert journal.verdict("tacho", rollout(1), "1.0.0") is None


def test_verdicts_are_forgiven_on_request(journal: Journal) -> None:
    end(journal, begin(journal), Outcome.CANCEL, "conflict.cancelled")
    assert journal.verdict("tacho", rollout(1), "1.0.0") is not None
    assert journal.verdict("tacho", rollout(2), "1.0.0") is None
    journal.forgive("engine")
    assert journal.verdict("tacho", rollout(1), "1.0.0") is not None
    journal.forgive("tacho")
    assert journal.verdict("tacho", rollout(1), "1.0.0") is None


def test_a_cancelled_way_back_is_no_verdict(journal: Journal) -> None:
    request = UpdateRequest(package="tacho", version="1.0.0", rollout=rollout(1), origin=Origin.ROLLBACK)
    update = journal.begin(request, Outcome.ACCEPT, update=rollout(1000), at=NOW)
    end(journal, update.id, Outcome.CANCEL, "conflict.cancelled")
    assert journal.verdict("tacho", rollout(1), "1.0.0") is None


def test_sessions_and_notes_survive(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert [journal.next_session(), journal.next_session()] == [1, 2]
        journal.set_note("revision/stable/tacho", "7")
        journal.set_note("revision/stable/engine", "1")
        journal.set_note("revision/stable/engine", None)
        journal.set_note("other", "x")
    with Journal(tmp_path) as journal:
        assert journal.next_session() == 3
        assert journal.get_note("revision/stable/tacho") == "7"
        assert journal.get_note("nothing") is None
        assert journal.notes("revision/") == {"revision/stable/tacho": "7"}


async def test_whoever_waits_for_events_is_woken_from_any_thread(journal: Journal) -> None:
    assert not await journal.wait_for_events(0, 0.01)
    waiting = asyncio.create_task(journal.wait_for_events(0, 10))
    await asyncio.sleep(0)
    thread = threading.Thread(target=begin, args=(journal,))
    thread.start()
    assert await waiting
    thread.join(10)
    assert await journal.wait_for_events(0, 10)
    assert journal._listeners == []


def test_listeners_hear_of_each_commit_until_they_leave(journal: Journal) -> None:
    heard: list[tuple[int, Phase | None]] = []
    leave = journal.on_event(lambda phase: heard.append((journal.last_seq(), phase)))
    update = begin(journal)
    journal.tell(update, at=NOW, progress=Progress(bytes_done=1, bytes_total=2))
    journal.change(update, restarts=1)
    leave()
    end(journal, update)
    assert heard == [(1, Phase.ACCEPTED), (2, Phase.ACCEPTED)]


def test_nothing_is_told_of_an_update_that_has_ended(journal: Journal) -> None:
    update = begin(journal)
    end(journal, update)
    journal.tell(update, at=NOW, progress=Progress(bytes_done=1, bytes_total=2))
    assert journal.last_seq() == 2


def test_one_process_writes_and_others_may_look(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1") as journal:
        with pytest.raises(DeviceError, match="another process works on") as refused:
            Journal(tmp_path)
        assert refused.value.code == "conflict.busy"
        begin(journal)
        with Journal(tmp_path, read_only=True) as looking:
            assert [row.phase for row in looking.history()] == [Phase.ACCEPTED]
            with pytest.raises(DeviceError, match="readonly"):
                looking.set_note("a", "b")
    with Journal(tmp_path):
        pass


def test_there_may_be_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no agent has ever run there") as refused:
        Journal(tmp_path / "nowhere", read_only=True)
    assert refused.value.code == "data.bad"
    assert not (tmp_path / "nowhere").exists()


def test_a_newer_agents_journal_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, journal._transaction() as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(OperatorError, match="written by a newer agent") as refused:
        Journal(tmp_path)
    assert refused.value.code == "data.bad"


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database, whatever it is called" * 100)
    with pytest.raises(DeviceError, match="file is not a database") as refused:
        Journal(tmp_path)
    assert refused.value.code == "disk.io"
    (tmp_path / DATABASE).unlink()
    with Journal(tmp_path):  # the lock was let go
        pass


def test_a_full_disk_is_called_that(journal: Journal) -> None:
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DeviceError) as refused:
        for number in range(10_000):
            journal.set_note(f"note {number}", "x" * 4000)
    assert refused.value.code == "disk.full"


def test_every_commit_is_flushed(journal: Journal) -> None:
    assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_programs_print_is_made_fit_for_an_event() -> None:
    error = DeviceError("hook.failed", "two\nlines", log_tail="\udcff" + "x" * 2 * MAX_LOG)
    made = report(error)
    assert (made.message, len(made.log_tail)) == ("two lines", MAX_LOG)
    assert detail({"text": "\udcff", "none": None, "zero": 0}) == {"text": "?", "zero": 0}
    assert detail({"text": ""}) is None
