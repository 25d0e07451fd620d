"""What the page works out before it shows it."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.http import deeds
from controller.repository.comparing import compare
from controller.rollouts import phases
from controller.rollouts.pace import MOST_POINTS, Tally, bucket_s, pace
from controller.rollouts.plan import RolloutState, Verdict
from controller.web.actions import ASK, MOVE_ACTIONS, OF_VERSION, ON_DEVICE, ON_ROLLOUT, moves_from, notice
from controller.web.fleet_reading import Numbers
from controller.web.models import WIDTH, chart, lasting, legend, readings, segments
from controller.web.release_dialog import fields_and_facts
from controller.web.rendering import ago, count, duration, have_it, percent, plural
from device_agent.gate import Readings, facts_of
from schemas.manifest import FileEntry, Health, LinkEntry, Manifest
from schemas.messages import Phase

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
tallies = st.lists(st.builds(Tally, good=st.integers(0, 500), bad=st.integers(0, 500)), max_size=MOST_POINTS)


def manifest(version: str, files: dict[str, tuple[str, int]], **parts: object) -> Manifest:
    """Files by path: content (a letter) and size."""
    entries = [FileEntry(path=path, size=size, sha256=letter * 64) for path, (letter, size) in sorted(files.items())]
    return Manifest(format=1, package="tacho", version=version, platform="any", files=entries, **parts)


def test_what_changed_is_told_by_path_and_content() -> None:
    old = manifest("1.0.0", {"app": ("a", 10), "gone": ("b", 20), "kept": ("c", 30), "moved": ("d", 40)})
    new = manifest("1.1.0", {"app": ("e", 11), "kept": ("c", 30), "elsewhere": ("d", 40), "new": ("f", 50)})
    found = compare(old, new)
    assert [(one.path, one.before, one.after) for one in found.changed] == [("app", 10, 11)]
    assert [(one.path, one.after) for one in found.added] == [("elsewhere", 40), ("new", 50)]
    assert [(one.path, one.before) for one in found.removed] == [("gone", 20), ("moved", 40)]
    assert found.same == 1
    # what only moved costs nothing
    assert found.new_bytes == 11 + 50
    assert found.parts == []


def test_what_changed_besides_files_is_named() -> None:
    old = manifest("1.0.0", {})
    new = manifest("1.1.0", {}, health=Health(retries=9), links=[LinkEntry(path="a", target="b")], tags=["x"])
    assert compare(old, new).parts == ["health", "links and folders", "tags"]


def test_the_same_release_changes_nothing() -> None:
    one = manifest("1.0.0", {"app": ("a", 10)})
    found = compare(one, one)
    assert (found.added, found.removed, found.changed, found.same, found.parts) == ([], [], [], 1, [])


def test_pace_is_what_was_finished_lately_and_ends_where_the_rest_is_done() -> None:
    found = pace([Tally(good=600), *[Tally()] * 10, Tally(good=8, bad=2)], 60, rest=30, now=NOW)
    assert found.per_minute == 1.0
    assert found.ends == NOW + timedelta(minutes=30)


def test_there_is_no_estimate_where_nobody_finished_lately_or_nobody_is_left() -> None:
    assert pace([Tally(good=5), *[Tally()] * 10], 60, rest=3, now=NOW).per_minute is None
    assert pace([Tally(good=5)], 60, rest=0, now=NOW).ends is None


@given(tallies, st.integers(5, 3600), st.integers(0, 10_000))
def test_an_estimate_is_never_in_the_past(found: list[Tally], width_s: int, rest: int) -> None:
    ends = pace(found, width_s, rest=rest, now=NOW).ends
    assert ends is None or ends >= NOW


@given(st.integers(0, 10**7))
def test_a_time_line_never_has_too_many_points(seconds: int) -> None:
    until = NOW + timedelta(seconds=seconds)
    assert seconds // bucket_s(NOW, until) <= MOST_POINTS


@given(tallies, st.integers(0, 1000))
def test_a_chart_stays_within_its_frame_and_only_grows(found: list[Tally], meant: int) -> None:
    drawn = chart(found, meant)
    heights = [float(point.partition(",")[2]) for point in drawn.good.split()]
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= height <= 200 for height in heights)


@given(st.text(alphabet="".join(phases.LOOKS), max_size=300))
def test_every_cell_is_counted_once_in_the_legend_and_in_the_bar(cells: str) -> None:
    letters = phases.letters_of(cells)
    assert letters == Counter(cells)
    assert sum(entry.number for entry in legend(letters)) == len(cells)
    counted = phases.kinds(letters)
    assert sum(counted.values()) == len(cells)
    assert sum(part.width for part in segments(counted)) == pytest.approx(WIDTH if cells else 0, abs=0.1)


def test_every_verdict_and_phase_has_a_shape_of_its_own() -> None:
    for verdict in set(Verdict) - {Verdict.NOT_MEANT, Verdict.UPDATING}:
        assert verdict.value in phases.VERDICTS
    assert set(phases.PHASES) == set(Phase)
    assert set(phases.LEGEND) == set(phases.LOOKS)
    assert len(phases.LEGEND) == len(set(phases.LEGEND))
    labels = [look.label for look in phases.LOOKS.values()]
    assert len(labels) == len(set(labels))
    assert set(phases.STATES) == set(RolloutState)


def test_a_device_that_updates_is_shown_by_its_own_word() -> None:
    assert phases.look_of("updating", "probation").label == "probation"
    assert phases.look_of(None, "fetching").label == "fetching"
    assert phases.look_of("soaking", "succeeded").label == "soaking"
    assert phases.look_of("nobody knows", None) is phases.UNKNOWN


def test_only_what_a_state_allows_is_offered() -> None:
    assert [move.name for move in moves_from(RolloutState.HALTED)] == ["resume", "revert"]
    assert moves_from(RolloutState.REVERTED) == []


def test_the_page_has_a_button_for_each_name_that_the_rules_know() -> None:
    assert {move.state: move.name for move in MOVE_ACTIONS} == deeds.TO_STATE
    assert {verb: action.name for verb, action in ASK.items()} == deeds.ASKS
    assert [action.name for action in ON_ROLLOUT] == [deeds.APPROVE, deeds.RETRY_FAILED, deeds.CANCEL_ALL]
    assert sorted(action.name for action in ON_DEVICE) == sorted(deeds.ON_DEVICE)
    assert [action.name for action in OF_VERSION] == list(deeds.OF_VERSION)


def test_whoever_lets_a_rollout_go_on_is_told_what_that_accepts() -> None:
    resume, _ = moves_from(RolloutState.HALTED)
    for said in ("that is accepted: the next devices start", "A retry after that", "revert it instead"):
        assert said in resume.explained


def test_only_what_an_action_says_can_be_put_into_a_page_by_its_address() -> None:
    assert notice("pause") == "Paused: nobody new starts."
    assert notice("<b>you won</b>") is None
    assert notice(None) is None


def test_values_are_written_for_people() -> None:
    assert ago(NOW - timedelta(seconds=2), NOW) == "just now"
    assert ago(NOW - timedelta(minutes=61), NOW) == "1 h ago"
    assert ago(NOW + timedelta(minutes=5), NOW) == "in 5 min"
    assert ago(None) == "never"
    assert duration(86_400 * 3) == "3 d"
    assert count(12345) == "12\N{NARROW NO-BREAK SPACE}345"
    assert percent(0.999) == "99 %"
    assert (plural(1, "device"), plural(0, "device")) == ("1 device", "0 devices")
    assert (have_it(0, 1), have_it(1, 2, " of this wave")) == (
        "0 of 1 device has it",
        "1 of 2 devices of this wave have it",
    )


def test_a_release_is_told_how_many_follow_each_channel() -> None:
    numbers = Numbers(
        devices=4,
        online=0,
        channels={"beta": 1, "stable": 2, None: 1},
        versions={},
        troubled=0,
        troubles=[],
        away=0,
        away_longest=[],
    )
    _, facts, _ = fields_and_facts({}, numbers, set())
    assert facts == ["1 device follows beta.", "2 devices follow stable."]


def test_what_agents_measure_is_shown_as_health_and_the_rest_as_facts() -> None:
    every = Readings(memory_free=1 << 30, temperature_c=61.2, under_voltage=False, throttled=True, clock_behind_s=90.0)
    measured = facts_of(every)
    assert len(measured) == 5
    assert readings({"model": "pi5", "memory": 8 << 30, **measured}) == measured
    assert lasting({"model": "pi5", "memory": 8 << 30, **measured}) == {"model": "pi5", "memory": 8 << 30}
