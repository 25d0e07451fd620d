"""How facts look on the command line."""

import io
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import click
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.cli.common import clock_text, harmless_json, parse_day, print_json, print_table, size_text, time_text
from controller.cli.fleet import device_row, event_text, update_text, waiting_alike
from controller.cli.planning import counts_text
from controller.cli.releases import plan_lines
from controller.fleet.views import update_view
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import Rollout, RolloutDevice
from controller.rollouts.waves import RolloutPlan, Wave
from controller.web.rendering import ago, exact, iso
from schemas.messages import ErrorReport, Phase, Progress, RolloutPolicy, Targets
from tests.unit.fleet.builders import NOW, ROLLOUT, event


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
    ],
)
def test_sizes_have_binary_units(count: int | None, text: str) -> None:
    assert size_text(count) == text


def test_times_are_the_reader_s(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
    assert time_text(moment) == moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert time_text(None) == "-"


def test_dates_become_moments() -> None:
    assert parse_day(None, "--since") is None
    assert parse_day("2026-03-01T12:00:00Z", "--since") == "2026-03-01T12:00:00Z"
    assert parse_day("2026-03-01T12:00:00+02:00", "--since") == "2026-03-01T10:00:00Z"
    midnight = parse_day("2026-03-01", "--since")
    assert midnight is not None
    assert datetime.fromisoformat(midnight) == datetime(2026, 3, 1).astimezone(UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "01.03.2026", "2026-03-01T25:00"])
def test_what_is_no_date_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="2026-03-01"):
        parse_day(text, "--since")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_date_that_utc_does_not_have_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.BadParameter, match="2026-03-01"):
        parse_day(text, "--until")


def released(*waves: Wave) -> Rollout:
    plan = RolloutPlan(name="mine", waves=list(waves))
    return Rollout(
        id=ROLLOUT,
        package="tacho",
        version="2.0.0",
        channel="stable",
        state=RolloutState.ACTIVE,
        revision=1,
        targets=Targets(),
        policy=RolloutPolicy(),
        repository=[],
        created_at=NOW,
        changed_at=NOW,
        because="it waits",
        plan=plan,
        wave=1,
        waves=[],
        verdicts={},
        phases={},
    )


@pytest.mark.parametrize(
    ("waves", "lines"),
    [
        ([Wave(upto=100)], []),
        ([Wave(upto=100, soak="90m")], ["plan mine: everybody (soak 1h30m); it waits"]),
        (
            [Wave(devices=1, soak="600s"), Wave(upto=50), Wave(upto=100, soak="36h")],
            ["plan mine: 1 device (soak 10m) → up to 50 % → everybody (soak 1d12h); it waits"],
        ),
    ],
)
def test_what_is_announced_says_how_long_its_devices_have_to_stay_well(waves: list[Wave], lines: list[str]) -> None:
    assert list(plan_lines(released(*waves))) == lines


def test_counts_leave_out_what_is_none() -> None:
    assert counts_text({Verdict.SUCCEEDED: 5, Verdict.FAILED: 0, Verdict.PENDING: 1}) == "succeeded 5, pending 1"
    assert counts_text({Verdict.ENDED: 2, Verdict.ROLLED_BACK: 1}) == "not begun 2, rolled_back 1"
    assert counts_text({}) == "no device"


@pytest.mark.parametrize(
    ("phase", "newer", "what"),
    [
        (None, Verdict.HELD, "held in the newer rollout"),
        (None, None, "-"),
        (Phase.DEFERRED, Verdict.ROLLED_BACK, "tacho 2.0.0 deferred; rolled_back in the newer rollout"),
    ],
)
def test_a_device_that_had_not_begun_when_a_newer_rollout_came_is_shown_by_how_it_stands_there(
    phase: Phase | None, newer: Verdict | None, what: str
) -> None:
    word = update_view(event(phase=phase)) if phase else None
    one = RolloutDevice(device="pi-1", wave=2, verdict=Verdict.ENDED, online=True, update=word, newer=newer)
    row = device_row(one)
    assert (row[1], row[-1]) == ("not begun", what)


def test_an_update_is_told_in_a_few_words() -> None:
    def text(phase: Phase, **changes: Any) -> str:
        return update_text(update_view(event(phase=phase, **changes)))

    assert update_text(None) == "-"
    assert text(Phase.SUCCEEDED) == "tacho 2.0.0 succeeded"
    assert text(Phase.FETCHING, progress=Progress(bytes_done=1, bytes_total=4)) == "tacho 2.0.0 fetching 25 %"
    assert text(Phase.FETCHING, progress=Progress(bytes_done=0, bytes_total=0)) == "tacho 2.0.0 fetching"
    error = ErrorReport(code="health.http", message="503 and not 200")
    assert text(Phase.FAILED, error=error) == "tacho 2.0.0 failed: health.http: 503 and not 200"


UNTIL = NOW + timedelta(hours=10)
UNTIL_SAID = "2026-03-01T22:00:00Z"


def test_what_is_deferred_says_why_and_until_when() -> None:
    def both(**detail: Any) -> str:
        """What is said of an update; an event says the same of itself."""
        said = event(phase=Phase.DEFERRED, detail=detail)
        head, _, text = update_text(update_view(said)).partition(": ")
        assert (head, text) == ("tacho 2.0.0 deferred", event_text(said))
        return text

    assert both(reason="window", until=UNTIL_SAID) == f"window, until {time_text(UNTIL)}"
    assert both(reason="window", not_before=UNTIL_SAID, until=None) == f"window, until {time_text(UNTIL)}"
    assert both(reason="not ready", because="the robot\nmoves") == "not ready (the robot moves)"
    for nonsense in ("soon", "9999-12-31T23:59:59-12:00", "2026-03-01T22:00:00", 7):
        assert both(reason="hold", until=nonsense) == "hold"
    assert update_text(update_view(event(phase=Phase.DEFERRED))) == "tacho 2.0.0 deferred"
    error = ErrorReport(code="network.unreachable", message="no route")
    again = event(phase=Phase.DEFERRED, detail={"reason": "retry", "not_before": UNTIL_SAID}, error=error)
    told = f"tacho 2.0.0 deferred: retry, until {time_text(UNTIL)}; network.unreachable: no route"
    assert update_text(update_view(again)) == told
    assert update_view(event(phase=Phase.ACCEPTED, detail={"reason": "window"})).waits is None


def deferred(device: str, wave: int, reason: str = "window", until: str = UNTIL_SAID) -> RolloutDevice:
    word = update_view(event(device, phase=Phase.DEFERRED, detail={"reason": reason, "until": until}))
    return RolloutDevice(device=device, wave=wave, verdict=Verdict.DEFERRED, online=True, update=word)


def test_a_wave_says_what_all_of_its_deferred_devices_wait_for() -> None:
    some = [deferred("pi-1", 1), deferred("pi-2", 1), deferred("pi-3", 2), deferred("pi-4", 2, "hold")]
    window = f"window, until {time_text(UNTIL)}"
    assert waiting_alike(some) == {1: window}
    assert waiting_alike(some[:3]) == {1: window, 2: window, None: window}
    later = deferred("pi-5", 1, until="2026-03-01T22:00:30Z")
    assert waiting_alike([some[0], later]) == dict.fromkeys((1, None), f"{window} to {time_text(UNTIL)[:-2]}30")
    silent = RolloutDevice(device="pi-6", wave=1, verdict=Verdict.DEFERRED, online=True, update=None)
    assert waiting_alike([some[0], silent]) == waiting_alike([]) == {}
    counts = {Verdict.DEFERRED: 2, Verdict.PENDING: 1}
    assert counts_text(counts, deferred=window) == f"deferred 2 ({window}), pending 1"


def test_an_event_adds_to_its_phase() -> None:
    assert event_text(event()) == ""
    assert event_text(event(progress=Progress(bytes_done=1024, bytes_total=2048))) == "1.0 KiB of 2.0 KiB"
    assert event_text(event(detail={"b": 2, "a": 1})) == "a=1, b=2"
    assert event_text(event(error=ErrorReport(code="disk.full", message="no room"))) == "disk.full: no room"


def test_what_devices_say_cannot_steer_the_terminal() -> None:
    nasty = ErrorReport(code="hook.failed", message="\x1b[2J\x1b]0;mine\x07 line\nforged line")
    for text in (event_text(event(error=nasty)), event_text(event(detail={"x\x1b": "\x1b[31m\ny"}))):
        assert text.isprintable(), text
    assert update_text(update_view(event(phase=Phase.FAILED, error=nasty))).isprintable()


def test_tables_are_not_cut_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "TEXT"), [("a", "x" * 200), ("b", "[bold]not markup[/bold]")], empty="none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "TEXT"]
    assert lines[1].split() == ["a", "x" * 200]
    assert lines[2].split(maxsplit=1) == ["b", "[bold]not markup[/bold]"]
    print_table(("NAME",), [], empty="nothing yet")
    assert capsys.readouterr().out == "nothing yet\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> str:
    """A table as a person sees it."""
    rollout = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
    row = (rollout, "tacho", "1.1.0", "-", "complete", "2026-11-29 03:20:00", "succeeded 21, rolled_back 1")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "0")  # plain text, and as wide as COLUMNS says, however the tests are run
    print_table(("ROLLOUT", "PACKAGE", "VERSION", "CHANNEL", "STATE", "BEGUN", "DEVICES"), [row], empty="none")
    return terminal.getvalue()


def test_a_table_that_a_terminal_has_no_room_for_is_shown_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(monkeypatch, 60).splitlines() == [
        "0198a1b2-c3d4-7e5f-8a6b-0123456789ab",
        "  package: tacho  version: 1.1.0  state: complete",
        "  begun: 2026-11-29 03:20:00",
        "  devices: succeeded 21, rolled_back 1",
    ]


@pytest.mark.parametrize("width", [110, 200])
def test_a_table_never_breaks_what_a_row_is_about(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    heading, first, *_ = on_a_terminal(monkeypatch, width).splitlines()
    assert heading.split()[:2] == ["ROLLOUT", "PACKAGE"]
    assert first.startswith("0198a1b2-c3d4-7e5f-8a6b-0123456789ab  tacho    1.1.0")


def test_json_is_indented_and_has_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"at": datetime(2026, 3, 1, tzinfo=UTC), "for": timedelta(seconds=5).total_seconds()})
    printed = capsys.readouterr().out
    assert msgspec.json.decode(printed) == {"at": "2026-03-01T00:00:00Z", "for": 5.0}
    assert printed.startswith('{\n  "at"')


ZONES = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)


@given(st.datetimes(timezones=ZONES), st.integers())
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), 10**400)
@example(datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-14))), -(10**400))
def test_whatever_moment_or_number_a_device_tells_of_can_be_shown(moment: datetime, number: int) -> None:
    for show in (iso, exact, ago, time_text, clock_text):
        assert show(moment)
    assert size_text(number).endswith("B")


@given(st.text(st.characters(codec="utf-8")))
@example("\x1b[31m \x9b31m \u202e \U000e0001 \x7f é 😀")
def test_json_is_the_same_and_steers_no_terminal(said: str) -> None:
    shown = harmless_json(msgspec.json.encode({"said": said}))
    assert msgspec.json.decode(shown) == {"said": said}
    assert all(one.isprintable() for one in shown)
    if said.isprintable():
        assert shown == msgspec.json.encode({"said": said}).decode()
