"""What commands say where the controller is not connected to the broker."""

from pathlib import Path

import pytest

from schemas.errors import NetworkError
from tests.support.answers import ROLLOUT, Answers, here
from tests.support.command import Finished, flotilla
from tests.support.repository import make_package

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
    Answers(monkeypatch, here(connected=False))
    done = flotilla(*arguments)
    assert (done.status, done.stderr) == (0, STORED)
    programs = flotilla(*arguments, "--json")
    assert programs.json()
    assert programs.stderr == STORED
    Answers(monkeypatch, here(connected=True))
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
