"""A batch in the database: every event once, whatever comes twice, late, or from a journal that began again."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update

from controller.database import from_db, reading, writing
from controller.fleet.incoming import ClearedIn, Incoming
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.progress import SeqTrack
from controller.fleet.registry import DeviceRegistry
from controller.fleet.tables import device_packages, devices, events
from controller.rollouts.tables import rollout_devices
from device_agent.gate import MIB, Readings, facts_of
from schemas.messages import ErrorReport, FactValue, Phase, Progress
from tests.support.database import opened
from tests.unit.fleet.builders import NOW, ROLLOUT, an_id, event_in, installed, presence, presence_in, reported_in


def take_in(engine: Engine, *batch: Incoming, now: datetime = NOW) -> Outcome:
    return IntakeStore(engine).take_in(batch, now)


def stored(engine: Engine) -> list[tuple[Any, ...]]:
    with reading(engine) as connection:
        found = select(events.c.device, events.c.life, events.c.seq, events.c.update_id).order_by(events.c.id)
        return [tuple(row) for row in connection.execute(found)]


def device(engine: Engine, name: str = "pi-1") -> dict[str, Any]:
    with reading(engine) as connection:
        return dict(connection.execute(select(devices).where(devices.c.id == name)).mappings().one())


def words(engine: Engine) -> dict[str, Any]:
    with reading(engine) as connection:
        return dict(connection.execute(select(rollout_devices)).mappings().one())


def test_an_event_of_an_unknown_device_makes_it_known(engine: Engine) -> None:
    outcome = take_in(engine, event_in())
    assert stored(engine) == [("pi-1", 1, 1, an_id(1))]
    assert [(one.id, one.event.device) for one in outcome.stored] == [(1, "pi-1")]
    row = device(engine)
    assert (from_db(row["first_seen"]), from_db(row["last_seen"]), row["channel"]) == (NOW, NOW, None)


def test_an_event_is_taken_once_however_often_it_comes(engine: Engine) -> None:
    first = take_in(engine, event_in(seq=1), event_in(seq=2), event_in(seq=1))
    again = take_in(engine, event_in(seq=2), event_in(seq=1), event_in(seq=3))
    assert [row[2] for row in stored(engine)] == [1, 2, 3]
    assert (len(first.stored), first.repeated) == (2, 1)
    assert ([one.event.seq for one in again.stored], again.repeated) == ([3], 2)
    assert again.tracks == {"pi-1": SeqTrack(3)}


def test_a_gap_is_known_and_filled(engine: Engine) -> None:
    assert take_in(engine, event_in(seq=1), event_in(seq=4)).tracks["pi-1"] == SeqTrack(4, ((2, 3),))
    assert take_in(engine, event_in(seq=3)).tracks["pi-1"].contiguous == 1
    assert take_in(engine, event_in(seq=2)).tracks["pi-1"] == SeqTrack(4)


def test_a_report_beyond_what_came_makes_the_rest_missing(engine: Engine) -> None:
    outcome = take_in(engine, reported_in(seq=7), event_in(seq=1))
    assert outcome.tracks["pi-1"] == SeqTrack(7, ((2, 7),))


def test_a_journal_that_began_again_is_another_life_and_nothing_is_lost(engine: Engine) -> None:
    take_in(engine, *(event_in(seq=seq) for seq in (1, 2, 3)))
    new = [event_in(seq=seq, update=an_id(2)) for seq in (1, 2)]
    outcome = take_in(engine, *new)
    assert outcome.new_lives == {"pi-1": 2}
    assert stored(engine)[3:] == [("pi-1", 2, 1, an_id(2)), ("pi-1", 2, 2, an_id(2))]
    assert outcome.tracks["pi-1"] == SeqTrack(2)
    again = take_in(engine, event_in(seq=3), *new, event_in(seq=3, update=an_id(2)))
    assert ([one.event.seq for one in again.stored], again.repeated, again.new_lives) == ([3], 3, {})
    assert device(engine)["life"] == 2
    assert len(stored(engine)) == 6


def test_events_of_a_new_life_that_fell_into_a_gap_of_the_old_one_are_not_asked_for_for_ever(engine: Engine) -> None:
    take_in(engine, event_in(seq=3))
    take_in(engine, *(event_in(seq=seq, update=an_id(2)) for seq in (1, 2, 3)))
    outcome = take_in(engine, *(event_in(seq=seq, update=an_id(2)) for seq in (1, 2, 3)))
    assert outcome.stored == []
    assert outcome.tracks["pi-1"] == SeqTrack(3)
    assert len(stored(engine)) == 4


def test_a_late_event_of_an_old_update_goes_to_its_own_life(engine: Engine) -> None:
    take_in(engine, event_in(seq=1), event_in(seq=2, update=an_id(5)))
    take_in(engine, event_in(seq=1, update=an_id(2)), event_in(seq=2, update=an_id(2)))
    take_in(engine, event_in(seq=3, update=an_id(2)))
    outcome = take_in(engine, event_in(seq=3, update=an_id(5)))
    assert outcome.new_lives == {}
    assert ("pi-1", 1, 3, an_id(5)) in stored(engine)


def test_a_report_that_goes_back_tells_that_the_journal_began_again(engine: Engine) -> None:
    take_in(engine, event_in(seq=1), reported_in(seq=5))
    outcome = take_in(engine, reported_in(seq=2))
    assert outcome.journal_fell == {"pi-1"}
    assert outcome.tracks["pi-1"] == SeqTrack(2, ((2, 2),))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 15), max_size=8), max_size=6))
def test_whatever_comes_in_whatever_batches_is_there_once(batches: list[list[int]]) -> None:
    with TemporaryDirectory() as folder:
        engine = opened(Path(folder) / "flotilla.db")
        new = sum(
            len(IntakeStore(engine).take_in([event_in(seq=seq) for seq in batch], NOW).stored) for batch in batches
        )
        expected = sorted({seq for batch in batches for seq in batch})
        assert sorted(row[2] for row in stored(engine)) == expected
        assert new == len(expected)
        engine.dispose()


def test_presence_of_an_older_session_is_ignored_when_it_says_offline(engine: Engine) -> None:
    assert take_in(engine, presence_in(session=4)).presences == [presence(session=4)]
    assert take_in(engine, presence_in(session=4, live=False)).presences == []
    outcome = take_in(engine, presence_in(online=False, session=3))
    assert (device(engine)["online"], outcome.presences) == (True, [])
    take_in(engine, presence_in(online=False, session=4))
    assert device(engine)["online"] is False
    take_in(engine, presence_in(session=1))
    assert (device(engine)["online"], device(engine)["session"]) == (True, 1)


def test_what_the_broker_had_kept_is_no_sign_of_life(engine: Engine) -> None:
    later = NOW + timedelta(hours=1)
    take_in(engine, event_in())
    take_in(engine, presence_in(live=False), reported_in(seq=1, live=False), now=later)
    assert from_db(device(engine)["last_seen"]) == NOW
    take_in(engine, presence_in(), now=later)
    assert from_db(device(engine)["last_seen"]) == later


def test_times_that_a_wrong_clock_has_noted_are_put_right_by_the_next_sign_of_life(engine: Engine) -> None:
    ahead = NOW + timedelta(days=90)
    take_in(engine, event_in("pi-1"), presence_in("pi-1"), now=ahead)
    take_in(engine, reported_in("pi-1", 1))
    assert from_db(device(engine)["last_seen"]) == NOW
    assert from_db(words(engine)["heard_at"]) == NOW
    # clocks of two controllers differ a little
    take_in(engine, event_in("pi-1", 2), now=NOW + timedelta(seconds=2))
    take_in(engine, reported_in("pi-1", 2), now=NOW + timedelta(seconds=1))
    assert from_db(words(engine)["heard_at"]) == NOW + timedelta(seconds=2)


def test_a_report_replaces_what_is_known_of_packages(engine: Engine) -> None:
    def versions() -> dict[str, str]:
        with reading(engine) as connection:
            return {row.package: row.version for row in connection.execute(select(device_packages))}

    first = take_in(engine, reported_in(packages={"tacho": installed(), "radio": installed("3.0.0")}))
    assert (versions(), first.channels) == ({"tacho": "1.0.0", "radio": "3.0.0"}, {"stable": {"pi-1"}})
    again = take_in(engine, reported_in(packages={"tacho": installed(), "radio": installed("3.0.0")}))
    assert again.channels == {}
    moved = take_in(engine, reported_in(channel="beta", packages={"tacho": installed("2.0.0")}))
    assert (versions(), moved.channels) == ({"tacho": "2.0.0"}, {"stable": {"pi-1"}, "beta": {"pi-1"}})


def drifted(by: int) -> dict[str, FactValue]:
    """What an agent measures, and its free disk: all of it other than before."""
    readings = Readings(disk_free=by, memory_free=by * MIB, temperature_c=40.0 + by, clock_behind_s=by)
    return {**facts_of(readings), "disk_free": by, "boot_id": f"boot {by}"}


def test_facts_that_drift_give_rollouts_nothing_to_look_at(engine: Engine) -> None:
    take_in(engine, reported_in(facts={"model": "pi4", **drifted(1)}))
    assert take_in(engine, reported_in(facts={"model": "pi4", **drifted(2)})).channels == {}
    assert take_in(engine, reported_in(facts={"model": "pi5", **drifted(2)})).channels == {"stable": {"pi-1"}}


def test_tombstones_take_a_device_out_of_service_and_keep_its_history(engine: Engine) -> None:
    take_in(engine, event_in(), presence_in(session=9), reported_in(seq=1, packages={"tacho": installed()}))
    outcome = take_in(engine, ClearedIn("pi-1", "reported"), ClearedIn("pi-1", "status"))
    row = device(engine)
    assert (row["online"], row["channel"], row["facts"]) == (False, None, None)
    assert outcome.channels == {"stable": {"pi-1"}}
    assert len(stored(engine)) == 1
    with reading(engine) as connection:
        assert connection.execute(select(device_packages)).all() == []


def test_the_latest_word_about_a_rollout_is_kept_with_its_bytes(engine: Engine) -> None:
    fetching = event_in(seq=2, phase=Phase.FETCHING, progress=Progress(bytes_done=5, bytes_total=9))
    outcome = take_in(engine, event_in(seq=1), fetching, event_in(seq=3, phase=Phase.STAGED, detail={"wire_bytes": 7}))
    assert outcome.rollouts == {ROLLOUT: {"pi-1": Phase.STAGED}}
    failed = ErrorReport(code="hook.failed", message="hook said no")
    take_in(engine, event_in(seq=5, phase=Phase.FAILED, error=failed))
    take_in(engine, event_in(seq=4, phase=Phase.SWITCHED))
    word = words(engine)
    assert (word["phase"], word["seq"], word["error_code"]) == ("failed", 5, "hook.failed")
    assert (word["bytes_done"], word["bytes_total"], word["wire_bytes"]) == (5, 9, 7)


def test_the_bytes_of_one_update_are_not_those_of_the_next_in_the_same_batch(engine: Engine) -> None:
    fetching = event_in(seq=1, phase=Phase.FETCHING, progress=Progress(bytes_done=5, bytes_total=9))
    take_in(engine, event_in(seq=3, update=an_id(2)), event_in(seq=2, phase=Phase.FAILED), fetching)
    word = words(engine)
    assert (word["seq"], word["update_id"], word["bytes_done"], word["bytes_total"]) == (3, an_id(2), None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
        {"at": datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-12)))},
        {"attempt": 2**63, "progress": Progress(bytes_done=2**64 - 1, bytes_total=2**64 - 1)},
        {"seq": 2**53 - 1},
        {"boot_id": "a\0b", "version": "1.0.0\0"},
    ],
)
def test_values_that_no_column_can_hold_stop_nothing(engine: Engine, changes: dict[str, Any]) -> None:
    take_in(engine, event_in(**changes))
    assert len(stored(engine)) == 1
    with reading(engine) as connection:
        assert from_db(connection.scalar(select(events.c.at)) or 0).astimezone(UTC).year in {1, 2026, 9999}


def test_a_batch_that_fails_leaves_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("controller.fleet.intake_store.save_rows", broken)
    with pytest.raises(OSError, match="no space"):
        take_in(engine, event_in(), reported_in(packages={"tacho": installed()}))
    assert stored(engine) == []


def test_an_event_that_is_here_though_its_device_does_not_know_leaves_the_numbers_of_the_others_right(
    engine: Engine,
) -> None:
    """As where another controller took it in a moment ago."""
    first = take_in(engine, event_in(seq=1), event_in(seq=2))
    assert [one.id for one in first.stored] == [1, 2]
    with writing(engine) as connection:
        connection.execute(update(devices).values(highest=0, missing=None))
    second = take_in(engine, event_in(seq=2), event_in(seq=3))
    assert [(one.id, one.event.seq) for one in second.stored] == [(3, 3)]


def test_no_detail_is_kept_that_is_longer_than_any_use_of_it(engine: Engine) -> None:
    tail = "x" * 16_000
    report = ErrorReport(code="health.http", message="no answer", log_tail=tail)
    take_in(
        engine,
        event_in(seq=1, detail={"reason": "r" * 100_000}, error=report),
        event_in(seq=2, detail={"reason": "r" * 8000}, error=report),
    )
    first, second = (one.event for one in DeviceRegistry(engine).device_events("pi-1"))
    assert first.detail is not None
    assert first.detail == {"cut_bytes": 100_013}
    assert first.error == second.error == report
    assert second.detail == {"reason": "r" * 8000}
