"""What commands say where the controller is not connected to the broker."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.cli.following import GONE
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import WaveState
from schemas.errors import NetworkError
from tests.support.answers import ROLLOUT, Answers, a_rollout, here
from tests.support.command import Finished, flotilla
from tests.support.repository import make_package
from tests.unit.controller.test_cli_rollouts import a_wave

BOUND_S = 20.0
IN_A_TERMINAL = {"FORCE_COLOR": "1", "COLUMNS": "200", "TERM": "xterm"}
RELEASE = ("release", "tacho", "1.0.0", "--channel", "stable")
STORED = "flotilla: warning: stored; the broker is away (no answer), so devices hear of it when it is back\n"
AS_OF_THEN = (
    "flotilla: warning: the controller is not connected to the broker (no answer): what is shown is as of when it last"
    " was\n"
)

CHANGES = [
    RELEASE,
    ("release", "--set", "tacho@1.0.0", "needle@1.0.0", "--channel", "stable"),
    ("withdraw", "tacho", "--channel", "stable"),
    ("ask", "pi-1", "check"),
    ("tell", "pi-1", "--hold"),
    ("cancel", ROLLOUT),
    ("cancel", ROLLOUT, "--device", "pi-1"),
    ("retry", ROLLOUT),
    *((name, ROLLOUT) for name in ("pause", "resume", "halt", "revert", "approve")),
]
QUESTIONS = [("devices",), ("device", "pi-1"), ("rollouts",), ("rollout", ROLLOUT), ("top",)]


def words(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments[:2])


@pytest.mark.parametrize("arguments", CHANGES, ids=words)
def test_a_change_says_that_devices_hear_of_it_later(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    before = a_rollout(state=RolloutState.PAUSED) if "resume" in arguments else None
    Answers(monkeypatch, here(connected=False), before=before)
    done = flotilla(*arguments)
    assert (done.status, done.stderr) == (0, STORED)
    Answers(monkeypatch, here(connected=False), before=before)
    programs = flotilla(*arguments, "--json")
    assert programs.json()
    assert programs.stderr == STORED
    Answers(monkeypatch, here(connected=True), before=before)
    assert flotilla(*arguments).stderr == ""


def test_publishing_says_so_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Answers(monkeypatch, here(connected=False))

    class Pushed:
        release = type("Record", (), {"package": "tacho", "version": "1.0.0"})

    monkeypatch.setattr("controller.cli.uploading.push_file", lambda *_: Pushed)
    done = flotilla("publish", make_package(tmp_path, "tacho", "1.0.0", {"a": "a"}), "--channel", "stable")
    assert (done.status, done.stderr) == (0, STORED)


@pytest.mark.parametrize("arguments", QUESTIONS, ids=words)
def test_what_is_shown_of_devices_is_said_to_be_old(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    Answers(monkeypatch, here(connected=False))
    shown = flotilla(*arguments)
    assert (shown.status, shown.stderr) == (0, AS_OF_THEN)
    Answers(monkeypatch, here(connected=True))
    assert flotilla(*arguments).stderr == ""


def test_a_change_that_was_made_is_told_though_the_controller_then_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, NetworkError("api.unreachable", "gone"))
    done: Finished = flotilla(*RELEASE)
    assert (done.status, done.stderr) == (0, "")
    assert done.text.startswith("announced tacho 1.0.0")


Change = tuple[str, dict[str, Any]]


def connection(error: str | None) -> Change:
    return "connection", {"connected": error is None, "error": error}


def until_screen(has: str, lacks: str = "nothing of it") -> None:
    """Wait until what was drawn last by a command in this process has a text, and lacks another."""
    give_up = time.monotonic() + BOUND_S
    while True:
        printed = sys.stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]  # in memory, see `flotilla`
        screen = printed.rpartition("\x1b[H")[2]
        if has in screen and lacks not in screen:
            return
        assert time.monotonic() < give_up, screen
        time.sleep(0.02)


def test_the_live_view_of_rollouts_says_it_as_long_as_it_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def changes() -> Iterator[Change]:
        until_screen("not connected to the broker (no answer): what is shown is as of when it last was")
        yield connection(None)
        until_screen("tacho 1.0.0", lacks="not connected")
        yield connection("it was killed")
        until_screen("not connected to the broker (it was killed)")

    Answers(monkeypatch, here(connected=False), changes=changes())
    assert "ended the live view" in flotilla("top", env=IN_A_TERMINAL).stderr


def test_the_live_view_of_rollouts_shows_the_last_word_though_nothing_follows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changes() -> Iterator[Change]:
        for number in range(5):
            yield "rollout", msgspec.to_builtins(a_rollout(because=f"word {number}"))
        until_screen("word 4")

    Answers(monkeypatch, here(connected=True), changes=changes())
    assert "ended the live view" in flotilla("top", env=IN_A_TERMINAL).stderr


def test_the_live_view_of_rollouts_says_when_the_controller_is_away_and_reads_them_anew_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changes(*_: object) -> Iterator[Change]:
        until_screen("as it was")
        yield GONE, {"answers": False, "error": "it was killed"}
        until_screen("the controller does not answer (it was killed)")
        monkeypatch.setattr("controller.cli.top._first", lambda *_: [a_rollout(because="as it is")])
        yield GONE, {"answers": True, "error": None}
        until_screen("as it is", lacks="does not answer")

    Answers(monkeypatch, here(connected=True), a_rollout(because="as it was"))
    monkeypatch.setattr("controller.cli.top.keep_following", changes)
    assert flotilla("top", env=IN_A_TERMINAL).status == 0


@pytest.mark.parametrize("arguments", [(), ("--device", "pi-1"), ("--package", "tacho")], ids=words)
def test_whoever_watches_is_told_when_the_broker_goes_and_comes(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    told = [connection("killed"), connection("refused"), connection(None), connection(None)]
    Answers(monkeypatch, here(connected=True), changes=told)
    first, second, _ended = flotilla("watch", *arguments).text.splitlines()
    assert first.endswith("  the broker is away (killed): nothing is heard of devices until it is back")
    assert second.endswith("  the broker is there again")
    Answers(monkeypatch, here(connected=True), changes=told)
    lines = [json.loads(line) for line in flotilla("watch", "--json", *arguments).text.splitlines()[:-1]]
    assert [(line["kind"], line["connected"], line["error"]) for line in lines] == [
        ("connection", False, "killed"),
        ("connection", False, "refused"),
        ("connection", True, None),
        ("connection", True, None),
    ]


def test_whoever_watches_is_told_of_a_rollout_when_its_state_or_reason_changes_and_of_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(state: RolloutState, because: str, wave: WaveState = WaveState.RUNNING) -> Change:
        waves = [a_wave(1, {}, state=wave)]
        return "rollout", msgspec.to_builtins(a_rollout(state=state, because=because, waves=waves))

    active, halted = RolloutState.ACTIVE, RolloutState.HALTED
    heldup = "wave 2 of 3 (10 %): waits for pi-{}, which is on hold; 3 succeeded"
    changes = [
        changed(active, "wave 1 of 3 (1 device): waits for 1 updating, 2 pending; 0 succeeded"),
        changed(active, "wave 1 of 3 (1 device): waits for 1 updating; 1 succeeded, 1 rolled back"),
        changed(active, "wave 1 of 3 (1 device): waits for 3 to stay well for 10m and be heard of; 0 succeeded"),
        changed(active, "wave 1 of 3 (1 device): waits for 2 to stay well for 10m and be heard of; 1 succeeded"),
        changed(active, "wave 2 of 3 (10 %): waits for 1 updating, 2 pending; 0 succeeded"),
        changed(active, heldup.format(1)),
        changed(active, heldup.format(2)),
        changed(halted, "wave 2: 2 failed of 3"),
        changed(halted, "wave 2: 2 failed of 3", WaveState.FAILED),
        changed(halted, "wave 2: 2 failed of 3", WaveState.STOPPED),
        changed(active, heldup.format(2)),
    ]
    Answers(monkeypatch, here(connected=True), changes=changes)
    *lines, _ended = flotilla("watch").text.splitlines()
    told = [changes[number][1] for number in (0, 2, 4, 5, 6, 7, 10)]
    assert [line.partition("  ")[2] for line in lines] == [
        f"rollout tacho 1.0.0 on stable: {one['state']}, {one['because']}" for one in told
    ]


def test_whoever_watches_from_when_the_broker_is_away_is_told_once_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Answers(monkeypatch, here(connected=False), changes=[connection("refused"), connection(None)])
    done = flotilla("watch")
    assert done.stderr.startswith(AS_OF_THEN)
    line, _ended = done.text.splitlines()
    assert line.endswith("  the broker is there again")
