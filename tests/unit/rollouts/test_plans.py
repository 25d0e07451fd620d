"""Plans as people write them: files, the ready ones, flags; and one line for each that makes no sense."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.rollouts.plan_files import (
    CANARY_FROM,
    READY,
    default_plan,
    load_plan,
    parse_plan,
    plan_of_flags,
    ready_plan,
)
from controller.rollouts.waves import ALL_AT_ONCE, OnFailure, Wave, check_plan, seconds
from schemas.errors import OperatorError
from schemas.messages import Window


def test_the_ready_plans_can_be_read_and_are_what_they_are_called() -> None:
    for name in READY:
        plan = ready_plan(name)
        check_plan(plan)
        assert plan.name == name
        assert plan.waves[-1].upto == 100
        assert load_plan(name) == plan
    assert ready_plan("all-at-once") == ALL_AT_ONCE
    assert [wave.share for wave in ready_plan("canary").waves] == ["1 device", "up to 10 %", "up to 50 %", "everybody"]
    assert [wave.approval for wave in ready_plan("careful").waves] == [False, False, True, True]


def test_without_a_plan_the_number_of_devices_decides() -> None:
    assert default_plan(CANARY_FROM - 1).name == "all-at-once"
    assert default_plan(CANARY_FROM).name == "canary"


FILE = """
on_failure = "revert"
jitter = "1h30m"
not_before = 2026-03-01T22:00:00Z
window = { start = "22:00", end = "05:00", days = [0, 6] }

[[wave]]
devices = ["pi-1", "pi-2"]
soak = "10m"
deadline = "2h"

[[wave]]
where = { site = ["bern", "basel"] }
concurrency = 1
concurrency_per = "site"
approval = true

[[wave]]
upto = 100
success = 95
max_failures = 3
max_failures_percent = 5
min_results = 20
"""


def test_a_plan_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(FILE)
    plan = load_plan(str(path))
    assert (plan.name, plan.on_failure, plan.jitter_s) == ("night", OnFailure.REVERT, 5400)
    assert plan.not_before == datetime(2026, 3, 1, 22, tzinfo=UTC)
    assert plan.window == Window(start="22:00", end="05:00", days=[0, 6])
    first, second, third = plan.waves
    assert first == Wave(devices=["pi-1", "pi-2"], soak="10m", deadline="2h")
    assert (second.share, second.concurrency, second.concurrency_per) == ("site=bern|basel", 1, "site")
    assert (third.success, third.max_failures, third.max_failures_percent, third.min_results) == (95, 3, 5, 20)


def test_durations_add_up() -> None:
    assert [seconds(text) for text in ("90s", "10m", "2h", "1d", "1h30m")] == [90, 600, 7200, 86_400, 5400]


def test_flags_say_the_same_as_a_file() -> None:
    plan = plan_of_flags(
        (
            "devices=1,soak=10m,max_failures=0",
            "where.site=bern,where.site=basel",
            "devices=pi-1,devices=pi-2",
            "upto=100",
        ),
        "pause",
    )
    assert plan.on_failure is OnFailure.PAUSE
    assert plan.waves == [
        Wave(devices=1, soak="10m", max_failures=0),
        Wave(where={"site": ["bern", "basel"]}),
        Wave(devices=["pi-1", "pi-2"]),
        Wave(upto=100),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "wave"),
        ("[[wave", "is no TOML"),
        ("[[wave]]\nupto = 0", "upto"),
        ("[[wave]]\nupto = 101", "upto"),
        ("[[wave]]\nuppto = 5", "did you mean 'upto'"),
        ("[[wave]]\nupto = 5\nsoak = '10'", "soak"),
        (
            "[[wave]]\nupto = 5\nsoak = '10 minutes'",
            "wave 1: soak = '10 minutes'; it must be .* such as 90s, 10m, 2h or 1h30m",
        ),
        ("[[wave]]\nupto = 5\nsoak = '9999d'", "longer than a year"),
        ("[[wave]]\nupto = 5\nwhere = { a = 'b' }", "exactly one of"),
        ("[[wave]]\nsoak = '1h'", "has none"),
        ("[[wave]]\nupto = 5\n[[wave]]\nupto = 5", "wave 2: upto = 5 is not more than the 5"),
        ("[[wave]]\nupto = 5\nsoak = '2h'\ndeadline = '2h'", "deadline, 2h, is over before its soak"),
        ("[[wave]]\ndevices = ['pi-1', 'pi-1']", "listed twice"),
        ("[[wave]]\ndevices = ['../x']", "devices"),
        ("[[wave]]\ndevices = 4000", "devices"),
        ("[[wave]]\nupto = 5\nconcurrency_per = 'site'", "how many"),
        ("on_failure = 'pray'\n[[wave]]\nupto = 5", "on_failure = 'pray'; it must be one of pause, halt, revert"),
        ("not_before = 2026-03-01T22:00:00\n[[wave]]\nupto = 5", "a time with its offset"),
        ("[[wave]]\nupto = 1\n" * 21, "wave"),
    ],
)
def test_a_plan_that_makes_no_sense_gets_one_line(text: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says) as caught:
        parse_plan(text, "night.toml")
    assert caught.value.code == "input.bad"
    assert "\n" not in str(caught.value)


TWO_BRACKETS = "a wave begins with [[wave]], two brackets each"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[wave]\nupto = 5\n[wave]\nupto = 100", f"(at line 3, column 6): {TWO_BRACKETS}"),
        ("[[wave]\nupto = 5", f"(at line 1, column 7): {TWO_BRACKETS}"),
        ("[[wave]]\nupto = 5 %", "(at line 2, column 10): more stands behind the value; text is in double quotes"),
        ("[[wave]]\nsoak = 10m", "(at line 2, column 10): more stands behind the value; text is in double quotes"),
        (
            "[[wave]]\nsoak = ten",
            "(at line 2, column 8): what stands behind = is no value; text is written in double quotes",
        ),
        ('[[wave]]\nsoak = "10m\n', "(at line 2, column 12): a text is not closed on its line"),
        (
            "[[wave]]\nsoak = '10m\n",
            "(at end of document): a text is not closed; it ends with the quotes that it begins with",
        ),
        ("[[wave]]\nsoak '10m'", "(at line 2, column 6): behind the key an = is missing"),
        (
            "[[wave]]\nupto = 5\nupto = 9\n",
            "(at line 3, column 9): a key is there for the second time; each wave begins with a line of its own",
        ),
        ("[[wave]]\n* upto = 5", "(at line 2, column 1): a line is KEY = VALUE, or [[wave]] where a wave begins"),
        (
            "[wave.x]\n[wave.x]",
            "(at line 2, column 8): Cannot declare ('wave', 'x') twice; https://toml.io shows how it is written",
        ),
    ],
)
def test_a_plan_that_is_no_toml_is_told_where_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_plan(text, "night.toml")
    assert (caught.value.code, caught.value.message) == ("input.bad", f"plan night.toml is no TOML {says}")


def test_lists_within_lists_are_no_plan() -> None:
    with pytest.raises(OperatorError) as caught:
        parse_plan("a = " + 5000 * "[", "night.toml")
    assert caught.value.message == "plan night.toml: lists within lists, too many of them"


PERCENTAGE = "a percentage over 0 and up to 100, e.g. 10"
IDS = "ids of a-z, 0-9 and '-', first a letter or digit, at most 63"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[wave]]\nupto = 10\n[[wave]]\nupto = 150", f"wave 2: upto = 150; it must be {PERCENTAGE}"),
        ("[[wave]]\nupto = '10%'", f"wave 1: upto = '10%'; it must be {PERCENTAGE}"),
        (
            "[[wave]]\ndevices = ['A b']",
            f'wave 1: devices = [\'A b\']; it must be how many, 1 to 3000, or a list of {IDS}, e.g. ["pi-1", "pi-2"]',
        ),
        (
            "[[wave]]\nwhere = 'bern'",
            (
                "wave 1: where = 'bern'; it must be a table of tags and facts, e.g. { site = \"bern\" }, "
                "where a list means any of its values"
            ),
        ),
        ("[[wave]]\nupto = 5\n[[wave]]\nupt = 9", "unknown key 'upt' in wave 2; did you mean 'upto'?"),
        ("[[wave]]\napproval = 'yes'", "wave 1: approval = 'yes'; it must be true or false"),
        ("wave = []", "wave must be 1 to 20 waves, each under a line [[wave]]"),
        ("wave = 3", "wave must be 1 to 20 waves, each under a line [[wave]]"),
        ("wave = [3]", "wave 1: wave must be 1 to 20 waves, each under a line [[wave]]"),
        (
            "",
            "it has no wave; begin each with a line [[wave]] and say below it for whom it is, e.g. upto = 10",
        ),
        (
            "[[wave]]\nupto = 5\n[window]\nstart = '25:00'\nend = '4:30'",
            (
                "window = {'start': '25:00', 'end': '4:30'}; it must be a daily time such as "
                '{ start = "22:00", end = "04:30" }, maybe with days, where 0 is Monday'
            ),
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_wave_its_key_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_plan(text, "night.toml")
    assert caught.value.message == f"plan night.toml: {says}"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("upto=10", "upto=150"), f"wave 2: upto='150'; it must be {PERCENTAGE}"),
        (
            ("where=site=bern",),
            (
                "wave 1: where='site=bern'; it must be written where.TAG=VALUE, e.g. where.site=bern; "
                "several values are where.site=bern,where.site=thun"
            ),
        ),
        (
            ("devices=sim-0004 pi-1",),
            (
                f"wave 1: devices=['sim-0004 pi-1']; it must be how many, 1 to 3000, or {IDS}, "
                "each with its own key: devices=pi-1,devices=pi-2"
            ),
        ),
        (("pto=10",), "unknown key 'pto' in wave 1; did you mean 'upto'?"),
    ],
)
def test_a_wave_given_as_an_option_is_told_how_options_are_written(flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(OperatorError) as caught:
        plan_of_flags(flags, None)
    assert caught.value.message == f"--wave: {says}"


def test_a_plan_without_a_name_is_called_by_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text("[[wave]]\nsoak = '1h'")
    with pytest.raises(OperatorError) as caught:
        load_plan(str(path))
    assert caught.value.message.startswith(f"plan {path}, wave 1: it takes exactly one of")
    with pytest.raises(OperatorError, match=r"^--wave, wave 1: it takes exactly one of"):
        plan_of_flags(("soak=1h",), None)


@pytest.mark.parametrize("flag", ["upto", "upto=", "=5", "upto=5,upto=6", "upto=ten", "soak=1h"])
def test_a_flag_that_makes_no_sense_gets_one_line(flag: str) -> None:
    with pytest.raises(OperatorError) as caught:
        plan_of_flags((flag,), None)
    assert caught.value.code == "input.bad"


@pytest.mark.parametrize("read", [load_plan, ready_plan])
def test_who_misspells_a_plan_is_told_the_one_that_was_meant(read: Callable[[str], object]) -> None:
    with pytest.raises(OperatorError, match=r"; did you mean careful\?$"):
        read("Carefull")
    with pytest.raises(OperatorError) as refused:
        read("waves.toml")
    assert "did you mean" not in refused.value.message


def test_files_that_are_none_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 21))
    for name, says in (("missing.toml", "neither a file"), ("binary.toml", "no text"), ("large.toml", "larger")):
        with pytest.raises(OperatorError, match=says):
            load_plan(str(tmp_path / name))
    with pytest.raises(OperatorError, match="ready are"):
        ready_plan("reckless")
