"""What went wrong in a rollout: by code and message, with whose words and log they are, and bounded."""

import pytest
from sqlalchemy import Engine

from controller.cli.fleet import failure_lines
from controller.fleet.intake_store import IntakeStore
from controller.rollouts import failing
from controller.rollouts.failing import MOST_TOLD, alike
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Failure
from schemas.messages import ErrorReport, Phase
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in

NEEDLE = "cannot place the needle: float division by zero"


def failed(engine: Engine, messages: dict[str, str]) -> list[Failure]:
    """What is said of a rollout in which these devices fail by these messages."""
    intake, store = IntakeStore(engine), RolloutStore(engine)
    for name in messages:
        intake.take_in([presence_in(name), reported_in(name)], NOW)
    made = store.create(package="tacho", version="2.0.0", channel="stable", repository=[], now=NOW)
    for name, message in messages.items():
        error = ErrorReport(code="health.http", message=message, log_tail=f"log of {name}")
        intake.take_in([event_in(name, 1, Phase.ROLLED_BACK, rollout=made.id, error=error)], NOW)
    store.evaluate(made.id, NOW)
    return RolloutReader(engine).failures(made.id, devices_shown=2)


def test_who_says_something_else_with_the_same_code_is_not_hidden(engine: Engine) -> None:
    simulated = {f"lab-{number}": f"lab-{number}: http://127.0.0.1:{8500 + number}/: 500" for number in range(1, 5)}
    many, real = failed(engine, {**simulated, "pi-real": NEEDLE})
    assert (many.code, many.count, many.devices) == ("health.http", 4, ["lab-1", "lab-2"])
    assert (many.said_by, many.message, many.log_tail) == ("lab-1", simulated["lab-1"], "log of lab-1")
    assert (real.code, real.count, real.devices, real.said_by) == ("health.http", 1, ["pi-real"], "pi-real")
    assert (real.message, real.log_tail) == (NEEDLE, "log of pi-real")
    assert list(failure_lines(many)) == [
        f"4 x health.http: {simulated['lab-1']}",
        "  on lab-1, lab-2 …; the words and the log are those of lab-1",
        "  | log of lab-1",
    ]
    assert list(failure_lines(real)) == [f"1 x health.http: {NEEDLE}", "  on pi-real", "  | log of pi-real"]


def test_messages_that_would_be_too_many_are_counted_together(engine: Engine) -> None:
    *told, others = failed(engine, {f"pi-{letter}": letter * 3 for letter in "abcdefgh"})
    assert [one.message for one in told] == ["aaa", "bbb", "ccc", "ddd", "eee"]
    assert len(told) == MOST_TOLD
    assert (others.count, others.devices, others.said_by) == (3, ["pi-f", "pi-g"], None)
    assert list(failure_lines(others)) == [
        "3 x health.http: messages that are not told apart here; flotilla device ID has each",
        "  on pi-f, pi-g …",
    ]


def test_of_very_many_devices_not_all_messages_are_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "MOST_READ", 3)
    read, unread = failed(engine, dict.fromkeys(("pi-1", "pi-2", "pi-3", "pi-4", "pi-5", "pi-6"), NEEDLE))
    assert (read.count, read.message) == (3, NEEDLE)
    assert (unread.count, unread.devices, unread.said_by) == (3, ["pi-4", "pi-5"], None)


def test_messages_are_alike_but_for_numbers_and_the_devices_own_name() -> None:
    assert alike("a: no answer on port 80", "a") == alike("e: no answer on port 8080", "e")
    assert alike("pi-11 is gone", "pi-1") != alike("pi-1 is gone", "pi-1")
