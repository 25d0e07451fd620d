"""What commands say where the controller is not connected to the broker."""

from pathlib import Path
from typing import Any

import pytest

from controller.client import ControllerClient
from controller.database import utc_now
from controller.fleet.views import Device
from controller.http.views import Announced, Asked, ControllerView, Page, RolloutDetail, Told
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.errors import NetworkError
from schemas.messages import Desired, RolloutPolicy, Targets, Verb
from tests.support.command import Finished, flotilla
from tests.support.repository import make_package

ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
RELEASE = ("release", "tacho", "1.0.0", "--channel", "stable")
STORED = "flotilla: warning: stored; the broker is away (no answer), so devices hear of it when it is back\n"
AS_OF_THEN = (
    "flotilla: warning: the controller is not connected to the broker (no answer): what is shown is as of when it last"
    " was\n"
)


def rollout(**more: Any) -> Rollout:
    now = utc_now()
    facts = {
        "id": ROLLOUT,
        "package": "tacho",
        "version": "1.0.0",
        "channel": "stable",
        "state": RolloutState.ACTIVE,
        "revision": 1,
        "targets": Targets(),
        "policy": RolloutPolicy(),
        "repository": [],
        "created_at": now,
        "changed_at": now,
        "because": "it waits",
        "plan": RolloutPlan(waves=[Wave(upto=100)]),
        "wave": 1,
        "waves": [],
        "verdicts": {},
        "phases": {},
    }
    return Rollout(**{**facts, **more})


def device() -> Device:
    now = utc_now()
    return Device(
        id="pi-1",
        online=True,
        session=1,
        first_seen=now,
        last_seen=now,
        agent_version=None,
        boot_id=None,
        reported_at=None,
        channel=None,
        tags={},
        facts={},
        packages={},
        life=1,
        seq=0,
        missing=0,
        update=None,
    )


class Answers:
    """A controller that answers everything, and says this of its broker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, view: ControllerView | Exception) -> None:
        self._view = view
        monkeypatch.setattr(ControllerClient, "get", lambda _self, type_, *path, **_more: self.get(type_, *path))
        monkeypatch.setattr(ControllerClient, "send", lambda _self, _method, type_, *_path, **_more: self.made(type_))

    def get(self, type_: Any, *path: str) -> Any:
        if type_ is ControllerView:
            assert path == ("controller",)
            if isinstance(self._view, Exception):
                raise self._view
            return self._view
        return self.made(type_)

    def made(self, type_: Any) -> Any:
        now = utc_now()
        known = {
            Rollout: rollout,
            list[Rollout]: lambda: [rollout()],
            Announced: lambda: Announced(**{name: getattr(rollout(), name) for name in Rollout.__struct_fields__}),
            Asked: lambda: Asked(
                id=ROLLOUT, device="pi-1", verb=Verb.CHECK, args={}, created_at=now, expires_at=now, sent_at=None
            ),
            Told: lambda: Told(rev=1),
            Desired: lambda: Desired(rev=0),
            Device: device,
            RolloutDetail: lambda: RolloutDetail(
                rollout=rollout(), devices=Page(items=[], next=None), failures=[], unanswered=0
            ),
        }
        return known[type_]() if type_ in known else Page(items=[], next=None)


def view(*, connected: bool) -> ControllerView:
    error = None if connected else "no answer"
    return ControllerView(
        version="1.0.0", broker="mqtt://b", connected=connected, error=error, topic_root="flotilla/v1", repository=[]
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
    Answers(monkeypatch, view(connected=False))
    done = flotilla(*arguments)
    assert (done.status, done.stderr) == (0, STORED)
    programs = flotilla(*arguments, "--json")
    assert programs.json()
    assert programs.stderr == STORED
    Answers(monkeypatch, view(connected=True))
    assert flotilla(*arguments).stderr == ""


def test_publishing_says_so_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Answers(monkeypatch, view(connected=False))

    class Pushed:
        release = type("Record", (), {"package": "tacho", "version": "1.0.0"})

    monkeypatch.setattr("controller.cli.uploading.push_file", lambda *_: Pushed)
    done = flotilla("publish", make_package(tmp_path, "tacho", "1.0.0", {"a": "a"}), "--channel", "stable")
    assert (done.status, done.stderr) == (0, STORED)


@pytest.mark.parametrize("arguments", QUESTIONS, ids=words)
def test_what_is_shown_of_devices_is_said_to_be_old(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    Answers(monkeypatch, view(connected=False))
    shown = flotilla(*arguments)
    assert (shown.status, shown.stderr) == (0, AS_OF_THEN)
    Answers(monkeypatch, view(connected=True))
    assert flotilla(*arguments).stderr == ""


def test_a_change_that_was_made_is_told_though_the_controller_then_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, NetworkError("api.unreachable", "gone"))
    done: Finished = flotilla(*RELEASE)
    assert (done.status, done.stderr) == (0, "")
    assert done.text.startswith("announced tacho 1.0.0")
