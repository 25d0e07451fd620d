"""When a device usually is there: what is noted, and what follows from it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from controller.database import reading, to_db
from controller.fleet.hour_keeping import HourKeeper
from controller.fleet.hours import WEEKS, hour_number, marked, next_hour, usually_away
from controller.fleet.intake_store import IntakeStore
from controller.fleet.tables import devices
from tests.unit.fleet.builders import NOW, presence_in, reported_in

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def history(*moments: datetime) -> str | None:
    made: str | None = None
    for moment in moments:
        made = marked(made, hour_number(to_db(moment)))
    return made


def office_hours(weeks: int) -> str | None:
    """There from 8 to 18 on five days of each of the weeks before."""
    return history(
        *(
            MONDAY - timedelta(weeks=week) + timedelta(days=day, hours=hour)
            for week in range(weeks, 0, -1)
            for day in range(5)
            for hour in range(8, 18)
        )
    )


def test_away_at_night_is_usual_for_one_that_works_by_day() -> None:
    known = office_hours(2)
    assert usually_away(known, MONDAY + timedelta(hours=3))
    assert usually_away(known, MONDAY + timedelta(days=6, hours=12))
    assert not usually_away(known, MONDAY + timedelta(hours=9, minutes=59))
    assert not usually_away(known, MONDAY + timedelta(hours=17))
    assert usually_away(known, MONDAY + timedelta(hours=18))


def test_nothing_is_usual_before_two_weeks_are_known() -> None:
    assert not usually_away(None, MONDAY)
    assert not usually_away(office_hours(1), MONDAY + timedelta(hours=3))


def test_a_device_that_was_there_once_at_this_hour_is_not_away_as_usual() -> None:
    both = history(
        MONDAY - timedelta(weeks=3) + timedelta(hours=3),
        *(MONDAY - timedelta(weeks=week) + timedelta(hours=9) for week in (2, 1)),
    )
    assert not usually_away(both, MONDAY + timedelta(hours=3))


def test_what_is_older_than_the_weeks_kept_is_forgotten() -> None:
    known = office_hours(2)
    assert usually_away(known, MONDAY + timedelta(weeks=WEEKS - 3, hours=3))
    assert not usually_away(known, MONDAY + timedelta(weeks=WEEKS, hours=3))


@given(hours=st.lists(st.integers(400_000, 402_000), max_size=30))
def test_a_history_stays_small_and_knows_its_last_hour(hours: list[int]) -> None:
    made: str | None = None
    for hour in sorted(hours):
        made = marked(made, hour)
        assert len(made) <= 180
        assert marked(made, hour) == made


def test_the_answer_can_change_with_the_hour() -> None:
    assert next_hour(MONDAY + timedelta(minutes=59)) == MONDAY + timedelta(hours=1)


def test_devices_that_are_online_and_quiet_are_noted_too(engine: Engine) -> None:
    IntakeStore(engine).take_in([presence_in("pi-1"), presence_in("pi-2", online=False), reported_in("pi-1")], NOW)
    later = NOW + timedelta(hours=5)
    keeper = HourKeeper(engine, lambda: later)
    assert keeper.note() == 1
    assert keeper.note() == 0
    with reading(engine) as connection:
        hours = {row.id: row.hours for row in connection.execute(select(devices.c.id, devices.c.hours))}
    assert hours["pi-1"] == history(NOW, later)
    assert hours["pi-2"] == history(NOW)
