"""What commands print of what a controller answers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controller.accounts.roles import Role
from controller.accounts.views import AuditEntry
from controller.cli.common import clock_text, time_text
from controller.cli.fleet import device_lines
from controller.cli.planning import length_of_time
from controller.client import ControllerClient
from controller.fleet.views import Device, TakenEvent
from controller.http.views import ControllerView, FoundReleases, ListedRelease, Page
from controller.preflight.views import Estimate, Preflight
from controller.rollouts.plan import RolloutState
from schemas.messages import Desired, ErrorReport, Phase, UpdateEvent
from tests.support.answers import Answers, a_device
from tests.support.command import flotilla
from tests.unit.fleet.builders import NOW, event

PLAN = '{"waves":[' + ",".join(['{"upto":10,"soak_s":600}'] * 50) + "]}"


HERE = ControllerView(version="1.0.0", broker="mqtt://b", connected=True, topic_root="flotilla/v1", repository=[])


def answer(monkeypatch: pytest.MonkeyPatch, facts: Any) -> None:
    for method in ("get", "send"):
        monkeypatch.setattr(
            ControllerClient, method, lambda _self, *args, **_more: HERE if ControllerView in args else facts
        )


def test_a_row_of_the_audit_log_is_cut_for_people_and_whole_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = AuditEntry(
        id=1,
        at=datetime(2026, 3, 1, tzinfo=UTC),
        actor="user:anna",
        role=Role.ADMIN,
        address=None,
        via="cli",
        action="release.create",
        target="tacho 1.0.0 stable",
        result="done",
        status=200,
        detail=PLAN,
    )
    answer(monkeypatch, Page(items=[entry], next=None))
    shown = flotilla("audit").text
    assert PLAN[:60] in shown
    assert PLAN not in shown
    assert "…" in shown
    assert flotilla("audit", "--json").json()[0]["detail"] == PLAN


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "nothing was changed yet"),
        (("--action", "device.pin"), "no change fits\n"),
        (("--action", "device.pinn"), "no change fits; no change is called 'device.pinn': did you mean device.pin"),
        (("--action", "pinning"), "no change is called 'pinning': there are device.cancel, device.check, "),
        (("--actor", "a"), "no change fits"),
    ],
)
def test_an_audit_log_of_which_nothing_fits_is_not_called_empty(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], said: str
) -> None:
    answer(monkeypatch, Page(items=[], next=None))
    assert said in flotilla("audit", *given).text


@pytest.mark.parametrize("warnings", [[], ["no device that was heard of follows channel nochannel"]])
def test_a_release_that_would_mean_nobody_is_warned_of(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    seen = Preflight(
        package="tacho",
        version="1.0.0",
        channel="nochannel",
        meant=0 if warnings else 3,
        ready=0,
        starting=0,
        later=0,
        bytes=0,
        routes={},
        obstacles={},
        plan="all-at-once",
        waves=[],
        estimate=Estimate(basis="nothing to go by"),
        warnings=warnings,
        devices=[],
    )
    answer(monkeypatch, seen)
    done = flotilla("release", "tacho", "1.0.0", "--channel", "nochannel", "--dry-run")
    assert done.status == 0
    assert done.stderr.splitlines() == [f"flotilla: warning: {line}" for line in warnings]


def test_a_channel_that_points_at_what_was_reverted_there_is_listed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ListedRelease(
        package="tacho",
        version="1.1.0",
        platform="any",
        manifest="a" * 64,
        description="",
        tags=[],
        size=1,
        packed=1,
        files=1,
        created_at=NOW,
        channels=["beta", "stable"],
        stopped={"stable": RolloutState.REVERTED},
    )
    answer(monkeypatch, FoundReleases(items=[one], next=None))
    assert "beta, stable (reverted)" in flotilla("packages").text
    assert flotilla("packages", "--json").json()[0]["stopped"] == {"stable": "reverted"}


def test_a_package_that_is_not_there_is_told_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, FoundReleases(items=[], near=["tacho"]))
    assert flotilla("packages", "tahco").text == "no release fits; did you mean tacho?\n"
    assert flotilla("packages", "tahco", "--json").json() == []


def with_log(seq: int, log: str, phase: Phase = Phase.ROLLED_BACK, **more: Any) -> UpdateEvent:
    """A device's last word about an update, with the end of a log."""
    return event(seq=seq, phase=phase, error=ErrorReport(code="hook.failed", message="no", log_tail=log), **more)


def shown_of(monkeypatch: pytest.MonkeyPatch, *events: UpdateEvent) -> str:
    """What `flotilla device` prints of a device that said this."""
    taken = [TakenEvent(id=one.seq, life=1, received_at=NOW, event=one) for one in events]
    view = Device(
        id="pi-1",
        online=True,
        session=1,
        first_seen=NOW,
        last_seen=NOW,
        agent_version="1.0.0",
        boot_id=None,
        reported_at=None,
        channel="stable",
        tags={},
        facts={},
        packages={},
        life=1,
        seq=3,
        missing=0,
        update=None,
    )
    answers = {"controller": HERE, "desired": Desired(rev=0), "events": Page(items=taken, next=None)}
    monkeypatch.setattr(ControllerClient, "get", lambda _self, _type, *path, **_more: answers.get(path[-1], view))
    return flotilla("device", "pi-1").text


def test_a_devices_newest_log_is_under_its_events_with_its_release_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_of(monkeypatch, with_log(1, "old", Phase.FAILED), with_log(2, "a\nb\n"), event(seq=3))
    assert shown.endswith(f"log of event 2, tacho 2.0.0 rolled_back at {time_text(NOW)}:\n  | a\n  | b\n")
    assert "old" not in shown


def test_a_log_of_what_is_mended_since_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    mended = event(seq=2, phase=Phase.SUCCEEDED, version="2.0.1")
    assert "log of" not in shown_of(monkeypatch, with_log(1, "old"), mended)
    again = with_log(3, "new", version="2.1.0")
    assert "| new" in shown_of(monkeypatch, with_log(1, "old"), mended, again)
    other = with_log(1, "of the other", package="needle")
    assert "| of the other" in shown_of(monkeypatch, other, mended)


def test_facts_that_are_bytes_are_shown_as_people_say_them(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, str | int | float | bool | None] = {
        "disk_free": 69_207_064_576,
        "memory": 8 << 30,
        "memory_free": 512 << 20,
        "uptime": 69_207_064_576,
        "x": "1",
    }
    view = Device(
        id="pi-1",
        online=True,
        session=1,
        first_seen=NOW,
        last_seen=NOW,
        agent_version=None,
        boot_id=None,
        reported_at=None,
        channel=None,
        tags={},
        facts=facts,
        packages={},
        life=1,
        seq=0,
        missing=0,
        update=None,
    )
    answers: dict[str, Any] = {"controller": HERE, "devices/pi-1": view, "devices/pi-1/desired": Desired(rev=0)}
    empty: Page[TakenEvent] = Page(items=[], next=None)
    monkeypatch.setattr(
        ControllerClient, "get", lambda _self, _type, *path, **_more: answers.get("/".join(path), empty)
    )
    shown = flotilla("device", "pi-1").text
    assert "facts   disk_free=64.5 GiB, memory=8.0 GiB, memory_free=512.0 MiB, uptime=69207064576, x=1\n" in shown
    assert flotilla("device", "pi-1", "--json").json()["device"]["facts"] == facts


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("devcies", "there is no command 'devcies'; did you mean devices or device? (see flotilla --help)"),
        ("relase", "there is no command 'relase'; did you mean release or resume? (see flotilla --help)"),
        ("xyzzy", "there is no command 'xyzzy' (see flotilla --help)"),
    ],
)
def test_what_is_no_command_gets_the_nearest_one(word: str, says: str) -> None:
    done = flotilla(word)
    assert (done.status, done.stderr) == (2, f"flotilla: {says}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--url http://x packages", "--url goes after the command: flotilla packages --url URL"),
        ("--url=http://x packages tacho", "--url goes after the command: flotilla packages --url URL"),
        ("--token packages rollouts", "--token goes after the command: flotilla rollouts --token TOKEN"),
        ("--limit rollout rollouts", "--limit goes after the command: flotilla rollouts --limit N"),
        ("--json devices", "--json goes after the command: flotilla devices --json"),
        ("--url http://x user list", "--url goes after the command: flotilla user list --url URL"),
        ("user --url http://x list", "--url goes after the command: flotilla user list --url URL"),
        ("--nonsense packages", "No such option '--nonsense' (see flotilla --help)"),
        ("--zzz packages", "No such option '--zzz' (see flotilla --help)"),
        ("--url http://x", "--url goes after a command, as in: flotilla devices --url URL"),
        ("--url=http://x", "--url goes after a command, as in: flotilla devices --url URL"),
        ("--json", "--json goes after a command, as in: flotilla devices --json"),
        ("--url http://x packags", "--url goes after a command, as in: flotilla devices --url URL"),
        ("user --url http://x", "No such option '--url' (see flotilla user --help)"),
        ("--nonsense", "No such option '--nonsense' (see flotilla --help)"),
        ("--devices 20 simulate", "--devices goes after the command: flotilla simulate --devices"),
        ("--devices=20 simulate --seed 1", "--devices goes after the command: flotilla simulate --devices"),
        ("packages --nonsense", "No such option '--nonsense' (see flotilla packages --help)"),
        (
            "publish app --channel beta --dry-run",
            (
                "--dry-run is an option of release; build and push the package first, then: "
                "flotilla release NAME VERSION --channel CHANNEL --dry-run"
            ),
        ),
        (
            "publish app --where site=bern",
            (
                "--where is an option of release; build and push the package first, then: "
                "flotilla release NAME VERSION --channel CHANNEL --where KEY=VALUE"
            ),
        ),
        ("publish app --zzz", "No such option '--zzz' (see flotilla publish --help)"),
        ("push --dry-run app", "No such option '--dry-run' (see flotilla push --help)"),
    ],
)
def test_an_option_before_its_command_is_told_its_place(arguments: str, says: str) -> None:
    done = flotilla(*arguments.split())
    assert (done.status, done.stderr) == (2, f"flotilla: {says}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("tacho@1.2.0", "write the version as a word of its own: flotilla release tacho 1.2.0 --channel CHANNEL"),
        (
            "--channel beta tacho@1.2.0",
            "write the version as a word of its own: flotilla release tacho 1.2.0 --channel beta",
        ),
        (
            "--set tacho@1.2.0 --channel beta",
            "--set is for two packages or more; to release one: flotilla release tacho 1.2.0 --channel beta",
        ),
        (
            "--set tacho",
            "--set is for two packages or more; to release one: flotilla release tacho VERSION --channel CHANNEL",
        ),
        ("tacho", "Missing argument 'VERSION': those that there are show in: flotilla packages tacho"),
        ("", "Missing argument 'NAME'"),
        ("--set", "Missing argument 'NAME'"),
    ],
)
def test_a_release_that_lacks_a_word_is_told_what_to_type(arguments: str, says: str) -> None:
    assert flotilla("release", *arguments.split()).complaint(2) == f"{says} (see flotilla release --help)"


def test_several_packages_without_set_are_told_of_it() -> None:
    said = flotilla("release", "tacho@1.2.0", "needle@1.0.0", "--channel", "beta").complaint()
    assert said == "'tacho@1.2.0' is no package name; several packages as NAME@VERSION need --set"
    assert flotilla("release", "--help").text.startswith(
        "Usage: flotilla release [OPTIONS] NAME VERSION [NAME@VERSION]"
    )


def test_what_happens_now_has_only_its_time_on_a_terminal_and_a_date_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert clock_text(NOW, NOW) == time_text(NOW)
    monkeypatch.setattr("controller.cli.common.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    assert clock_text(NOW, NOW) == time_text(NOW).split()[1]
    # as what a device tells that was away for long
    earlier = NOW - timedelta(days=2)
    assert clock_text(earlier, NOW) == time_text(earlier)


def test_a_folder_to_push_is_told_what_makes_a_package_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "an app").mkdir()
    monkeypatch.chdir(tmp_path)
    done = flotilla("push", "an app")
    assert done.status == 2
    assert done.stderr == (
        "flotilla: an app is a folder, not a package file; flotilla build DIR makes one of it, and "
        "flotilla publish DIR --channel CHANNEL builds, pushes and releases it in one (see flotilla push --help)\n"
    )


@pytest.mark.parametrize(
    ("given", "length"), [("600", 600), ("0.5", 0.5), ("10m", 600), ("1h30m", 5400), ("24h", 86_400)]
)
def test_a_jitter_is_seconds_or_a_length_as_in_plan_files(given: str, length: float) -> None:
    assert length_of_time("24h")(given) == length


@pytest.mark.parametrize(
    ("given", "says"),
    [
        *(
            (text, f"{text!r} is no length of time such as 90s, 10m or 1h30m, and no number of seconds")
            for text in ("ten", "10 m", "-5", "nan", "1e3", "10min", "")
        ),
        ("25h", "25h is longer than 24h"),
        ("86400.1", "86400.1 is longer than 24h"),
    ],
)
def test_what_is_no_jitter_is_told_what_is_one(given: str, says: str) -> None:
    said = flotilla("release", "tacho", "1.0.0", "--channel", "stable", f"--jitter={given}").complaint(2)
    assert said == f"Invalid value for '--jitter': {says} (see flotilla release --help)"


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("report", "what it reports anew shows in: flotilla device pi-1"),
        (
            "check",
            (
                "in some seconds the line `check` of `flotilla device pi-1` says ok, or what is wrong with its"
                " configuration, broker, repository, disk or clock"
            ),
        ),
        ("retry --package tacho", "what comes of it shows in: flotilla device pi-1"),
    ],
)
def test_whoever_asks_a_device_is_told_where_what_comes_of_it_shows(
    monkeypatch: pytest.MonkeyPatch, verb: str, says: str
) -> None:
    Answers(monkeypatch, HERE)
    assert flotilla("ask", "pi-1", *verb.split()).text == f"asked pi-1 to {verb.split(maxsplit=1)[0]}; {says}\n"


@pytest.mark.parametrize("found", ["ok", "clock: is 3 h behind", None])
def test_what_a_check_found_is_a_line_of_its_own(found: str | None) -> None:
    facts = {"model": "pi4", **({"check": found} if found else {})}
    view = msgspec.structs.replace(a_device(), facts=facts, reported_at=NOW)
    lines = list(device_lines(view))
    assert "facts   model=pi4" in lines
    checks = [f"check   {found}; reported {time_text(NOW)}"] if found else []
    assert [line for line in lines if line.startswith("check")] == checks


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "token add ci --role viewer --expires never",
            "--expires takes a number of days over 0 up to 3660; 'never' is none",
        ),
        (
            "ask pi-1 check --expires 0.5",
            "--expires takes a number of seconds from 1 up to 604800; '0.5' is none",
        ),
        ("devices --limit many", "--limit takes a whole number from 1; 'many' is none"),
        ("devices --limit 0", "--limit takes a whole number from 1; '0' is none"),
        ("top --limit 51", "--limit takes a whole number from 1 up to 50; '51' is none"),
        (
            "serve --embedded-port x",
            "--embedded-port takes a whole number from 1 up to 65535; 'x' is none",
        ),
    ],
)
def test_an_option_that_takes_a_number_says_which(arguments: str, says: str) -> None:
    assert flotilla(*arguments.split()).complaint(2).partition(" (see ")[0] == says
