"""One vocabulary for the log lines of both sides."""

import ast
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.logs import JsonFormatter, told
from device_agent import logs as agent_logs
from device_agent.decider import _fields, _names
from device_agent.logs import LogFormat, line, set_up_logging
from schemas.errors import OperatorError
from schemas.log_lines import FIELDS, as_json
from schemas.messages import Desired
from tests.unit.agent_shell.fakes import announced

ROOT = Path(__file__).parents[2]
WRITERS = {"device_agent": "line", "controller": "told"}


def calls(package: str) -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == WRITERS[package]:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


@pytest.mark.parametrize("package", sorted(WRITERS))
def test_no_line_has_a_field_that_the_vocabulary_lacks(package: str) -> None:
    found = list(calls(package))
    assert len(found) > 15
    for where, call in found:
        named = {keyword.arg for keyword in call.keywords if keyword.arg is not None} - {"message"}
        assert named <= FIELDS.keys(), f"{where}: {named - FIELDS.keys()}; add it to schemas/log_lines.py"


def test_nor_do_fields_that_are_made_elsewhere() -> None:
    desired = Desired(rev=1, channel="stable", pins={"tacho": "1.0.0"}, hold=True)
    assert _fields(desired).keys() | _fields(None).keys() | _names(announced()).keys() <= FIELDS.keys()


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    return logging.getLogger("controller.fleet.intake").makeRecord(
        "controller.fleet.intake", logging.WARNING, __file__, 1, message, arguments, None, **more
    )


def test_a_line_of_the_controller_has_its_sentence_and_its_facts() -> None:
    error = OperatorError("disk.full", "no room")
    extra = told("intake", error, device="pi-1", count=3, rollout=None)
    read = json.loads(JsonFormatter().format(record("device %s: %s", "pi-1", error, extra=extra)))
    assert read.pop("at").endswith("Z")
    assert read == {
        "level": "warning",
        "action": "intake",
        "message": "device pi-1: no room",
        "code": "disk.full",
        "device": "pi-1",
        "count": 3,
        "logger": "controller.fleet.intake",
    }


def test_a_line_that_names_nothing_still_has_an_action() -> None:
    assert json.loads(JsonFormatter().format(record("hm")))["action"] == "intake"


def test_a_traceback_stays_in_its_line() -> None:
    try:
        int("a\nb")
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = JsonFormatter().format(made)
    assert "\n" not in text
    assert "ValueError: invalid literal" in json.loads(text)["trace"]


def test_what_comes_from_outside_cannot_break_or_flood_a_line() -> None:
    text = as_json(0.0, "INFO", {"action": "x", "message": "a\nb\x1b[31m" + "c" * 10_000, "stranger": "gone"})
    read = json.loads(text)
    assert set(read) == {"at", "level", "action", "message"}
    assert read["message"].startswith("a b?[31mccc")
    assert len(text) < 5000
    assert read["at"] == "1970-01-01T00:00:00.000Z"


@pytest.fixture
def own_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    made = logging.Logger("flotilla of a test")
    monkeypatch.setattr(agent_logs, "logger", lambda: made)
    yield made
    made.handlers.clear()


def test_the_agent_writes_the_same_fields_as_json_and_as_text(
    own_logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    entry = line("staged", "all there", package="tacho", version="1.1.0", attempt=None)
    set_up_logging(log_format=LogFormat.JSON, device="pi-1")
    own_logger.warning(entry)
    own_logger.handlers.clear()
    set_up_logging()
    own_logger.warning(entry)
    as_object, as_text = capsys.readouterr().err.splitlines()
    read = json.loads(as_object)
    read.pop("at")
    assert read == {
        "level": "warning",
        "action": "staged",
        "message": "all there",
        "device": "pi-1",
        "package": "tacho",
        "version": "1.1.0",
    }
    assert as_text.endswith('Z WARNING action=staged package=tacho version=1.1.0 message="all there"')


class Told:
    """What a line is about; counts how often it was made a text."""

    times = 0

    def __str__(self) -> str:
        self.times += 1
        return "it"


def test_a_line_that_nobody_writes_is_not_made_up(
    own_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging()
    about = Told()
    own_logger.debug(line("staged", about))
    assert (about.times, capsys.readouterr().err) == (0, "")
    own_logger.info(line("staged", about))
    assert about.times == 1
    assert capsys.readouterr().err.endswith("action=staged message=it\n")
