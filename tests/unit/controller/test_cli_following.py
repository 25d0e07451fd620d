"""Live views of the command line while the controller is away, as when it is restarted."""

import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from controller.cli import following
from controller.cli.following import GONE, Change, keep_following, why_gone
from controller.client import ControllerClient
from schemas.errors import FlotillaError, NetworkError, OperatorError
from tests.support.answers import Answers, a_rollout, here
from tests.support.command import flotilla
from transport.keeping import Backoff

AWAY = NetworkError("api.unreachable", "no controller answers")
FULL = OperatorError("watch.limit", "200 live views are open")
BAD_GATEWAY = OperatorError("api.refused", "http://fleet.example answered 502")
NEWS: Change = ("presence", {"device": "pi-1"})


class Longest(random.Random):
    """No chance: the longest wait that there may be."""

    def uniform(self, _a: float, b: float) -> float:
        return b


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        monkeypatch.setattr(following, "time", SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.now))
        monkeypatch.setattr("transport.keeping.Backoff", lambda limit_s: Backoff(limit_s=limit_s, rng=Longest()))

    def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now += wait_s


class Controller:
    """A client whose attempts to follow end so, one after the other, the last one for ever."""

    url = "http://fleet.example"

    def __init__(self, *views: list[Change] | FlotillaError) -> None:
        self._views = list(views)
        self.asked_after: list[list[str]] = []

    def follow(self, *_path: str, seen: list[str]) -> Iterator[Change]:
        self.asked_after.append(list(seen))
        view = self._views.pop(0) if len(self._views) > 1 else self._views[0]
        if isinstance(view, FlotillaError):
            raise view
        seen[:] = [str(len(self.asked_after))]
        return iter(view)


def given(controller: Controller, number: int) -> list[Change]:
    changes = keep_following(controller, "watch")  # type: ignore[arg-type]  # all that it needs of a client
    return [next(changes) for _ in range(number)]


def test_a_view_goes_on_when_the_controller_is_back_and_says_when_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, controller = Clock(monkeypatch), Controller([NEWS], AWAY, FULL, BAD_GATEWAY, [NEWS])
    first, gone, back, again = given(controller, 4)
    assert (first, again) == (NEWS, NEWS)
    assert gone == (GONE, {"answers": False, "error": "http://fleet.example ended the live view"})
    assert back == (GONE, {"answers": True, "error": None})
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]
    assert controller.asked_after == [[], ["1"], ["1"], ["1"], ["1"]]


def test_waits_grow_to_a_bound_and_after_ten_minutes_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    changes = keep_following(Controller([], AWAY), "watch")  # type: ignore[arg-type]  # all that it needs of a client
    assert why_gone(next(changes)[1]) == "http://fleet.example ended the live view"
    with pytest.raises(NetworkError, match=r"^gave up after 10 minutes: no controller answers$"):
        next(changes)
    assert clock.waits[:6] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert set(clock.waits[6:]) == {15.0}
    assert 600 <= clock.now < 615


def test_what_answers_and_hangs_up_at_once_is_no_controller_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with pytest.raises(NetworkError, match=r"^gave up after 10 minutes: "):
        for _ in keep_following(Controller([]), "watch"):  # type: ignore[arg-type]  # all that it needs of a client
            assert clock.now < 700
    assert clock.waits[-1] == 15.0


def test_a_view_that_lasted_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    changes = keep_following(Controller([NEWS]), "watch")  # type: ignore[arg-type]  # all that it needs of a client
    for kind, _ in changes:
        if kind == "presence":
            clock.now += following.LASTED_S
        if clock.now > following.PATIENCE_S * 3:
            break
    assert set(clock.waits) == {1.0}


def test_a_first_connection_that_fails_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for error in (AWAY, FULL, BAD_GATEWAY):
        with pytest.raises(FlotillaError) as caught:
            keep_following(Controller(error), "watch")  # type: ignore[arg-type]  # all that it needs of a client
        assert caught.value is error
    assert clock.waits == []


def test_a_controller_that_refuses_the_token_by_now_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    changes = keep_following(Controller([], OperatorError("auth.refused", "no such token")), "watch")  # type: ignore[arg-type]  # all that it needs of a client
    next(changes)
    with pytest.raises(OperatorError, match="no such token"):
        next(changes)
    assert len(clock.waits) == 1


def views(monkeypatch: pytest.MonkeyPatch, *changes: list[Change]) -> None:
    """A controller that goes away after each of these, is back before the next, and stays away after the last."""
    Answers(monkeypatch, here(connected=True), a_rollout(because="as asked"))
    Clock(monkeypatch)
    controller = Controller(*changes, AWAY)
    monkeypatch.setattr(ControllerClient, "follow", lambda _self, *path, seen: controller.follow(*path, seen=seen))
    monkeypatch.setattr("controller.cli.following.PATIENCE_S", 60.0)


def test_watching_says_in_one_line_that_the_controller_went_and_in_one_that_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views(monkeypatch, [], [])
    done = flotilla("watch", "--url", Controller.url)
    gone, back, gone_again = done.text.splitlines()
    assert gone.endswith(
        "  the controller does not answer (http://fleet.example ended the live view); it is asked again for 1 minute"
    )
    assert back.endswith("  the controller answers again")
    assert "  the controller does not answer (" in gone_again
    assert (done.status, done.stderr.splitlines()[-1]) == (1, "flotilla: gave up after 1 minute: no controller answers")


def test_programs_are_told_too_and_how_the_broker_is_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    views(monkeypatch, [], [])
    told: list[dict[str, Any]] = [json.loads(line) for line in flotilla("watch", "--json").text.splitlines()]
    assert [(one["kind"], one.get("answers", one.get("connected"))) for one in told] == [
        (GONE, False),
        (GONE, True),
        ("connection", True),
        (GONE, False),
    ]
