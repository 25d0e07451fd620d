"""What commands print of rollouts."""

import pytest

from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import RolloutDevice
from tests.support.answers import ROLLOUT, Answers, a_rollout, here
from tests.support.command import flotilla

THERE = here(connected=True)
BOTH = f"flotilla resume {ROLLOUT} goes on with it; flotilla revert {ROLLOUT} sends back everybody who took it"


def test_what_can_be_done_about_a_rollout_that_was_stopped_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, THERE, a_rollout(state=RolloutState.HALTED, because="one failed", advice=BOTH))
    for command in (("rollout", ROLLOUT), ("top",), ("halt", ROLLOUT)):
        assert BOTH in " ".join(flotilla(*command).text.split()), command


def test_a_device_that_is_held_or_away_has_its_reason_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = RolloutDevice(
        device="pi-1", wave=1, verdict=Verdict.HELD, online=True, update=None, reason="pinned at 1.1.0"
    )
    Answers(monkeypatch, THERE, devices=[held])
    row = next(line for line in flotilla("rollout", ROLLOUT).text.splitlines() if line.startswith("pi-1"))
    assert row.split() == ["pi-1", "held", "-", "-", "-", "pinned", "at", "1.1.0"]
