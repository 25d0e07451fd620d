"""What commands print of rollouts."""

import pytest

from controller.rollouts.plan import RolloutState
from tests.support.answers import ROLLOUT, Answers, a_rollout, here
from tests.support.command import flotilla

THERE = here(connected=True)
BOTH = f"flotilla resume {ROLLOUT} goes on with it; flotilla revert {ROLLOUT} sends back everybody who took it"


def test_what_can_be_done_about_a_rollout_that_was_stopped_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, THERE, a_rollout(state=RolloutState.HALTED, because="one failed", advice=BOTH))
    for command in (("rollout", ROLLOUT), ("top",), ("halt", ROLLOUT)):
        assert BOTH in " ".join(flotilla(*command).text.split()), command
