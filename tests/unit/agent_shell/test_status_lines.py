"""What `flotilla-agent status` says of updates that wait, and of holds and pins."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from device_agent.cli.status import _lines, gather_status
from device_agent.config import AgentConfig
from device_agent.heard import Heard
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.updates import UpdateRequest, Waiting
from schemas.messages import Desired
from tests.unit.agent_shell.fakes import NOW, ROLLOUT

LATER = NOW + timedelta(hours=3)


def status_of(root: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    """The status and its lines, with one deferred update and whatever else was journaled."""
    with Journal(root, device="pi-1") as journal:
        request = UpdateRequest(package="tacho", version="1.1.0", not_before=LATER, reason="jitter")
        journal.begin(request, Outcome.DEFER, update=ROLLOUT, at=NOW)
        if changes:
            journal.change(ROLLOUT, **changes)
        Heard(journal).keep_desired(Desired(rev=1, pins={"camera": "2.0.0"}))
        Heard(journal).keep_hold(on=True)
    status = gather_status(AgentConfig(id="pi-1", root=root))
    return status, "\n".join(_lines(status))


def test_what_waits_is_shown_with_its_reason_and_until_when(tmp_path: Path) -> None:
    waiting = Waiting(reason="not ready", since=NOW, until=LATER, line="the robot moves")
    status, lines = status_of(tmp_path, waiting=waiting, staged=True, not_before=NOW)
    assert "under way: tacho 1.1.0 deferred, not ready (the robot moves), until 2026-03-10 15:00:00Z at 2026" in lines
    (update,) = status["under_way"]
    assert (update["reason"], update["because"], update["until"]) == ("not ready", "the robot moves", LATER)
    assert update["staged"] is True


def test_what_waits_for_its_time_and_what_waits_for_somebody(tmp_path: Path) -> None:
    _, lines = status_of(tmp_path / "time")
    assert "tacho 1.1.0 deferred, jitter, until 2026-03-10 15:00:00Z at 2026-03-10 12:00:00Z" in lines
    held = Waiting(reason="hold", since=NOW)
    _, lines = status_of(tmp_path / "hold", waiting=held, not_before=None)
    assert "tacho 1.1.0 deferred, hold, at 2026-03-10 12:00:00Z" in lines


def test_holds_and_pins_are_shown(tmp_path: Path) -> None:
    status, lines = status_of(tmp_path)
    assert (status["hold"], status["held_here"]) == (True, True)
    assert "on hold: no update is started (`flotilla-agent hold off` ends it)" in lines
    assert "pinned: camera stays at 2.0.0" in lines


def test_the_device_is_named_as_its_agent_says_whatever_the_command_was_told(tmp_path: Path) -> None:
    status_of(tmp_path)
    assert gather_status(AgentConfig(id="this-machine", root=tmp_path))["device"] == "pi-1"


def test_a_device_that_has_said_nothing_has_the_configured_name(tmp_path: Path) -> None:
    with Journal(tmp_path, device="pi-1"):
        pass
    assert gather_status(AgentConfig(id="pi-2", root=tmp_path))["device"] == "pi-2"
