"""What to do about an announcement: each question of the policy, and what must hold for all of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.policy import (
    Accept,
    Defer,
    DeviceView,
    Halt,
    Ignore,
    Known,
    Pause,
    Revert,
    decide,
    is_older,
    jitter_of,
)
from schemas.messages import Announcement, Desired, ReleaseState, RolloutPolicy, Targets, Window
from schemas.windows import next_in_window

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)  # a Tuesday
OLD = "0195816a-0000-7000-8000-000000000000"
NEW = "0195816b-0000-7000-8000-000000000000"
PI = DeviceView(id="pi-1", channel="stable", tags={"site": "harbour"}, facts={"model": "Pi 4"})


def announced(**changes: Any) -> Announcement:
    fields: dict[str, Any] = {
        "rollout": NEW,
        "revision": 5,
        "package": "tacho",
        "version": "1.1.0",
        "channel": "stable",
        "state": ReleaseState.ACTIVE,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": [],
        "published_at": NOW,
    }
    return Announcement(**(fields | changes))


def known(rollout: str = NEW, revision: int = 5, ago_s: float = 0) -> Known:
    return Known(rollout=rollout, revision=revision, heard_at=NOW - timedelta(seconds=ago_s))


def test_an_active_announcement_for_everybody_is_accepted() -> None:
    assert decide(announced(), device=PI, known=None, now=NOW) == Accept()


def test_a_complete_rollout_is_taken_by_a_device_that_comes_later() -> None:
    assert decide(announced(state=ReleaseState.COMPLETE), device=PI, known=None, now=NOW) == Accept()


def test_the_same_announcement_gets_the_same_answer_again() -> None:
    assert decide(announced(), device=PI, known=known(), now=NOW) == Accept()


@pytest.mark.parametrize(
    ("seen", "older"),
    [
        (known(NEW, 5), False),
        (known(NEW, 6), True),
        (known(NEW, 4), False),
        (known(OLD, 4), False),
        # a controller that was set up anew counts from 1 again
        (known(OLD, 9), False),
        # one that is older by revision and by time
        (known("0195816c-0000-7000-8000-000000000000", 6), True),
        # the topic's next revision, from a controller whose clock went back
        (known("0195816c-0000-7000-8000-000000000000", 4), False),
        (None, False),
    ],
)
def test_older_ones_are_ignored(seen: Known | None, older: bool) -> None:
    assert is_older(announced(), seen) is older
    assert (decide(announced(), device=PI, known=seen, now=NOW) == Ignore("older than what is known")) is older


@pytest.mark.parametrize(
    ("state", "decision"),
    [(ReleaseState.PAUSED, Pause()), (ReleaseState.HALTED, Halt()), (ReleaseState.REVERTED, Revert())],
)
def test_what_stops_a_rollout_goes_before_targets_pins_and_time(state: ReleaseState, decision: object) -> None:
    said = announced(
        state=state,
        targets=Targets(upto=0),
        policy=RolloutPolicy(not_before=NOW + timedelta(days=1)),
        version="no version",
    )
    pinned = PI.told(Desired(rev=1, pins={"tacho": "1.0.0"}))
    assert decide(said, device=pinned, known=None, now=NOW) == decision


def test_for_a_device_that_is_excluded_the_rollout_is_halted() -> None:
    assert decide(announced(targets=Targets(exclude=["pi-1"])), device=PI, known=None, now=NOW) == Halt(
        "the rollout leaves this device out now"
    )
    assert decide(announced(targets=Targets(exclude=["pi-2"])), device=PI, known=None, now=NOW) == Accept()
    # who took it before goes back with the others
    gone_back = announced(targets=Targets(exclude=["pi-1"]), state=ReleaseState.REVERTED)
    assert decide(gone_back, device=PI, known=None, now=NOW) == Revert()


def test_another_channel_and_other_packages_are_not_ours() -> None:
    assert decide(announced(channel="beta"), device=PI, known=None, now=NOW) == Ignore("this device follows stable")
    named = DeviceView(id="pi-1", channel="stable", packages=frozenset({"camera"}), every_package=False)
    assert decide(announced(), device=named, known=None, now=NOW) == Ignore("not among this device's packages")
    has_it = DeviceView(id="pi-1", channel="stable", every_package=False, installed=frozenset({"tacho"}))
    assert decide(announced(), device=has_it, known=None, now=NOW) == Accept()


def test_desired_changes_channel_tags_and_pins_but_only_where_it_says_so() -> None:
    assert PI.told(None) is PI
    assert PI.told(Desired(rev=1)) == PI
    told = PI.told(Desired(rev=1, channel="beta", tags={}, pins={"tacho": "1.0.0"}))
    assert (told.channel, told.tags, told.pins) == ("beta", {}, {"tacho": "1.0.0"})
    assert decide(announced(channel="beta"), device=told, known=None, now=NOW) == Ignore("pinned to 1.0.0")
    assert told.followed_packages() == {"tacho"}


@pytest.mark.parametrize(
    ("targets", "meant"),
    [
        (Targets(upto=0), False),
        (Targets(upto=0, devices=["pi-1"]), True),
        (Targets(where={"site": "harbour", "model": ["Pi 4", "Pi 5"]}), True),
        (Targets(where={"site": "airport"}), False),
        (Targets(where={"site": "airport"}, devices=["pi-1"]), False),
    ],
)
def test_targets_decide_who_is_meant(targets: Targets, meant: bool) -> None:
    expected = Accept() if meant else Ignore("not among the targets")
    assert decide(announced(targets=targets), device=PI, known=None, now=NOW) == expected


def test_a_version_that_is_none_is_ignored_with_its_problem() -> None:
    decision = decide(announced(version="latest"), device=PI, known=None, now=NOW)
    assert isinstance(decision, Ignore)
    assert "latest" in decision.reason


def test_nobody_starts_after_the_deadline() -> None:
    policy = RolloutPolicy(deadline=NOW - timedelta(seconds=1))
    assert isinstance(decide(announced(policy=policy), device=PI, known=None, now=NOW), Ignore)
    policy = RolloutPolicy(deadline=NOW)
    assert decide(announced(policy=policy), device=PI, known=None, now=NOW) == Accept()


def test_not_before_is_waited_for() -> None:
    due = NOW + timedelta(hours=1)
    said = announced(policy=RolloutPolicy(not_before=due))
    assert decide(said, device=PI, known=None, now=NOW) == Defer(due, "not_before")
    assert decide(said, device=PI, known=known(), now=due) == Accept()


def test_jitter_counts_from_when_the_rollout_was_first_heard_of() -> None:
    said = announced(policy=RolloutPolicy(jitter_s=600))
    wait = jitter_of(NEW, "pi-1", 600)
    assert decide(said, device=PI, known=None, now=NOW) == Defer(NOW + wait, "jitter")
    started_anew = NOW + wait / 2
    assert decide(said, device=PI, known=known(), now=started_anew) == Defer(NOW + wait, "jitter")
    assert decide(said, device=PI, known=known(), now=NOW + wait) == Accept()
    of_another_rollout = known(OLD, 4, ago_s=10_000)
    assert decide(said, device=PI, known=of_another_rollout, now=NOW) == Defer(NOW + wait, "jitter")


def test_jitter_is_spread_after_not_before() -> None:
    due = NOW + timedelta(hours=1)
    said = announced(policy=RolloutPolicy(not_before=due, jitter_s=600))
    assert decide(said, device=PI, known=known(), now=NOW) == Defer(due + jitter_of(NEW, "pi-1", 600), "jitter")


def test_the_window_is_in_the_devices_own_zone() -> None:
    tokyo = DeviceView(id="pi-1", channel="stable", zone=ZoneInfo("Asia/Tokyo"))  # 21:00 there
    said = announced(policy=RolloutPolicy(window=Window(start="02:00", end="04:00")))
    assert decide(said, device=tokyo, known=None, now=NOW) == Defer(datetime(2026, 3, 10, 17, 0, tzinfo=UTC), "window")
    said = announced(policy=RolloutPolicy(window=Window(start="20:00", end="04:00")))
    assert decide(said, device=tokyo, known=None, now=NOW) == Accept()


@pytest.mark.parametrize(
    ("window", "moment", "opens"),
    [
        (Window(start="11:00", end="13:00"), "10T12:00", "10T12:00"),
        (Window(start="13:00", end="14:00"), "10T12:00", "10T13:00"),
        (Window(start="10:00", end="12:00"), "10T12:00", "11T10:00"),
        (Window(start="23:00", end="02:00"), "10T01:00", "10T01:00"),
        (Window(start="23:00", end="02:00"), "10T02:00", "10T23:00"),
        (Window(start="00:00", end="00:00"), "10T12:00", "10T12:00"),
        (Window(start="11:00", end="13:00", days=[2]), "10T12:00", "11T11:00"),
        (Window(start="11:00", end="13:00", days=[1]), "10T13:00", "17T11:00"),
        # a window past midnight belongs to the day on which it starts: Monday's is still open on Tuesday
        (Window(start="23:00", end="02:00", days=[0]), "10T01:00", "10T01:00"),
        (Window(start="23:00", end="02:00", days=[1]), "10T01:00", "10T23:00"),
    ],
)
def test_windows(window: Window, moment: str, opens: str) -> None:
    def at(text: str) -> datetime:
        return datetime.fromisoformat(f"2026-03-{text}:00+00:00")

    assert next_in_window(window, at(moment), UTC) == at(opens)


def test_a_window_keeps_its_hour_when_the_clocks_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")  # summer time begins on 29 March 2026 at 02:00
    window = Window(start="04:00", end="05:00")
    before = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    assert next_in_window(window, before, berlin) == datetime(2026, 3, 29, 2, 0, tzinfo=UTC)


clock = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
moments = st.datetimes(datetime(2025, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"])


@given(clock, clock, st.lists(st.integers(0, 6), max_size=7), moments, zones)
def test_the_next_opening_is_never_in_the_past_and_is_in_the_window(
    start: str, end: str, days: list[int], moment: datetime, zone: str
) -> None:
    window = Window(start=start, end=end, days=days)
    found = next_in_window(window, moment, ZoneInfo(zone))
    assert moment <= found <= moment + timedelta(days=9)
    assert next_in_window(window, found, ZoneInfo(zone)) == found


@given(st.uuids(), st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,20}\Z"), st.floats(0, 86_400))
def test_jitter_is_within_its_bound_and_stable(rollout: Any, device: str, jitter_s: float) -> None:
    wait = jitter_of(str(rollout), device, jitter_s)
    assert timedelta(0) <= wait <= timedelta(seconds=jitter_s)
    assert jitter_of(str(rollout), device, jitter_s) == wait


def test_jitter_spreads_a_fleet_evenly() -> None:
    waits = [jitter_of(NEW, f"pi-{n}", 100).total_seconds() for n in range(2000)]
    tenths = [sum(1 for wait in waits if low <= wait < low + 10) for low in range(0, 100, 10)]
    assert min(tenths) > 140
    assert max(tenths) < 260


@given(
    moments,
    st.floats(0, 3600),
    st.one_of(st.none(), moments),
    st.one_of(st.none(), st.builds(Window, start=clock, end=clock)),
)
def test_what_was_deferred_is_accepted_when_its_time_has_come(
    heard: datetime, jitter_s: float, not_before: datetime | None, window: Window | None
) -> None:
    said = announced(policy=RolloutPolicy(jitter_s=jitter_s, not_before=not_before, window=window))
    seen = Known(rollout=NEW, revision=5, heard_at=heard)
    decision = decide(said, device=PI, known=seen, now=heard)
    if isinstance(decision, Defer):
        assert decision.until > heard
        assert decide(said, device=PI, known=seen, now=decision.until) == Accept()
    else:
        assert decision == Accept()


@pytest.mark.parametrize("never", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "9999-12-20T00:00:00+12:00"])
@pytest.mark.parametrize(
    "rest", [{}, {"jitter_s": 86_400}, {"window": Window(start="02:00", end="04:00", days=[NOW.weekday()])}]
)
def test_a_time_that_stands_for_never_is_only_far_away(never: str, rest: dict[str, Any]) -> None:
    policy = RolloutPolicy(not_before=datetime.fromisoformat(never), **rest)
    decision = decide(announced(policy=policy), device=PI, known=known(), now=NOW)
    assert isinstance(decision, Defer)
    assert decision.until.year > 9000


def test_times_at_the_beginning_of_the_calendar_are_over() -> None:
    long_ago = datetime.fromisoformat("0001-01-01T00:00:00+12:00")
    policy = RolloutPolicy(not_before=long_ago, window=Window(start="00:00", end="00:00"), jitter_s=0)
    assert decide(announced(policy=policy), device=PI, known=known(), now=NOW) == Accept()
    over = announced(policy=RolloutPolicy(deadline=long_ago))
    assert isinstance(decide(over, device=PI, known=known(), now=NOW), Ignore)
