"""When updates may start: the owner's windows and the rollout's, also on the days on which the clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.policy import Accept, Defer, DeviceView, decide
from schemas.messages import RolloutPolicy, Window
from schemas.windows import next_in_all, next_in_any, next_in_window
from tests.unit.agent_shell.fakes import NOW, announced

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = "2026-03-29", "2026-10-25"


def local(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("start", "end", "asked", "opens"),
    [
        # 02:00 to 03:00 does not exist on this day, so that window opens a day later
        ("02:00", "03:00", f"{SPRING}T00:00", "2026-03-30T02:00"),
        ("02:15", "02:45", f"{SPRING}T00:00", "2026-03-30T02:15"),
        # what begins in the hour that is skipped begins right after it
        ("02:30", "04:00", f"{SPRING}T00:00", f"{SPRING}T03:00"),
        # what would end in it has ended when it is skipped: at 03:00 it is over
        ("01:30", "02:30", f"{SPRING}T03:00", "2026-03-30T01:30"),
        ("01:30", "02:30", f"{SPRING}T01:59", f"{SPRING}T01:59"),
        ("04:00", "05:00", f"{SPRING}T00:00", f"{SPRING}T04:00"),
        ("04:00", "05:00", f"{AUTUMN}T00:00", f"{AUTUMN}T04:00"),
    ],
)
def test_hours_that_are_skipped(start: str, end: str, asked: str, opens: str) -> None:
    assert next_in_window(Window(start=start, end=end), local(asked), BERLIN) == local(opens)


def test_hours_that_come_twice() -> None:
    window = Window(start="02:00", end="03:00")
    assert next_in_window(window, local(f"{AUTUMN}T00:00"), BERLIN) == local(f"{AUTUMN}T02:00")
    again = local(f"{AUTUMN}T02:30", fold=1)
    assert next_in_window(window, again, BERLIN) == again
    # a quarter of an hour is not given twice: its first coming counts
    quarter = Window(start="02:15", end="02:30")
    assert next_in_window(quarter, local(f"{AUTUMN}T02:20", fold=1), BERLIN) == local("2026-10-26T02:15")


def test_a_weekly_window_that_is_skipped_opens_a_week_later() -> None:
    window = Window(start="02:00", end="03:00", days=[6])
    assert next_in_window(window, local(f"{SPRING}T00:00"), BERLIN) == local("2026-04-05T02:00")


clock = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
windows = st.builds(Window, start=clock, end=clock, days=st.lists(st.integers(0, 6), max_size=7))
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"])
near_changes = st.sampled_from(
    [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC)]
).flatmap(lambda moment: st.integers(-3000, 3000).map(lambda minutes: moment + timedelta(minutes=minutes)))


def shows_a_time_in(window: Window, moment: datetime) -> bool:
    """Worked out from what the clock on the wall shows, without the code under test."""
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (window.start, window.end))
    shown = moment.hour * 60 + moment.minute
    days = window.days or list(range(7))
    if start < end:
        return start <= shown < end and moment.weekday() in days
    return (shown >= start and moment.weekday() in days) or (shown < end and (moment.weekday() - 1) % 7 in days)


@given(windows, near_changes, zones)
def test_what_is_found_is_a_time_in_the_window_and_the_first_one(window: Window, moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    found = next_in_window(window, moment, zone)
    assert found >= moment
    assert next_in_window(window, found, zone) == found
    change = any(
        (moment + timedelta(minutes=m)).astimezone(zone).utcoffset() != moment.astimezone(zone).utcoffset()
        for m in range(-2880, 2880, 60)
    )
    if not change:
        assert shows_a_time_in(window, found.astimezone(zone))
        before = [moment + timedelta(minutes=m) for m in range(min(2880, int((found - moment).total_seconds() // 60)))]
        assert not any(shows_a_time_in(window, one.astimezone(zone)) for one in before)
    elif found > moment:
        # it opened then: what the clock showed a moment before was not in it
        shown = found.astimezone(zone)
        assert shows_a_time_in(window, shown)
        assert not shows_a_time_in(window, (found - timedelta(seconds=1)).astimezone(zone))


@given(st.lists(windows, max_size=3), st.lists(windows, max_size=3), near_changes, zones)
def test_both_sets_must_be_open(ours: list[Window], theirs: list[Window], moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    found = next_in_all([ours, theirs], moment, zone)
    assert found >= moment
    if found < moment + timedelta(days=15):
        assert next_in_any(ours, found, zone) == found
        assert next_in_any(theirs, found, zone) == found


def test_sets_that_are_never_open_together_are_waited_for_without_end() -> None:
    never = [[Window(start="02:00", end="03:00", days=[0])], [Window(start="02:00", end="03:00", days=[6])]]
    found = next_in_all(never, NOW, UTC)
    assert NOW + timedelta(days=15) <= found < NOW + timedelta(days=30)


def test_the_owners_windows_and_the_rollouts_must_both_allow_it() -> None:
    ours = (Window(start="01:00", end="03:00"), Window(start="22:00", end="23:00"))
    device = DeviceView(id="pi-1", channel="stable", windows=ours)
    assert decide(announced(), device=device, known=None, now=NOW) == Defer(NOW.replace(hour=22), "window")
    policy = RolloutPolicy(window=Window(start="02:00", end="04:00"))
    tomorrow = (NOW + timedelta(days=1)).replace(hour=2)
    assert decide(announced(policy=policy), device=device, known=None, now=NOW) == Defer(tomorrow, "window")
    assert decide(announced(policy=policy), device=device, known=None, now=tomorrow) == Accept()
