"""What `flotilla revert` says and asks before it takes a release back, and what it says of one that is taken back."""

import io
import sys
from typing import Any

import pytest

from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import Takers
from schemas.messages import ReleaseSet, RolloutPolicy
from tests.support.answers import ROLLOUT, Answers, a_rollout, here
from tests.support.command import flotilla

THERE = here(connected=True)
LATER = "devices that join later have nothing announced"
TAKERS = [
    Takers(previous=None, count=1, devices=["pi-9"]),
    Takers(previous="0.9.0", count=6, devices=["pi-1", "pi-2", "pi-3", "pi-4", "pi-5"]),
    Takers(previous="0.8.0", count=1, devices=["pi-7"]),
]
LEFT = "flotilla: warning: 1 device had no tacho before and is left with none: pi-9\n"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def sit_down(words: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(words))
        monkeypatch.setattr("controller.cli.reverting.somebody_there", lambda: True)

    return sit_down


@pytest.mark.parametrize(
    ("takers", "took", "at_it", "says"),
    [
        ([], 0, 0, "0 devices have it and go back"),
        ([], 1, 0, "1 device has it and goes back"),
        ([], 6, 0, "6 devices have it and go back"),
        (TAKERS[1:2], 0, 0, "6 devices have it and go back to 0.9.0"),
        (TAKERS[:1], 0, 0, "1 device has it and goes back to nothing installed"),
        (TAKERS[1:2], 2, 0, "8 devices have it and go back (6 to 0.9.0, 2 to what was there before)"),
        (TAKERS, 0, 0, "8 devices have it and go back (1 to nothing installed, 6 to 0.9.0, 1 to 0.8.0)"),
        ([], 0, 2, "0 devices have it and go back, 2 at it stop or go back"),
        ([], 2, 1, "2 devices have it and go back, 1 more at it stops or goes back"),
        (TAKERS[1:], 0, 4, "7 devices have it and go back (6 to 0.9.0, 1 to 0.8.0), 4 more at it stop or go back"),
    ],
)
def test_a_revert_says_how_many_go_back_and_what_those_get_that_come_later(
    monkeypatch: pytest.MonkeyPatch, takers: list[Takers], took: int, at_it: int, says: str
) -> None:
    answers = Answers(monkeypatch, THERE, a_rollout(advice=LATER), takers=takers, took=took, at_it=at_it)
    said = flotilla("revert", ROLLOUT)
    assert said.text == f"tacho 1.0.0 on channel stable is reverted: {says}\n{LATER}\n"
    assert said.stderr == (LEFT if TAKERS[0] in takers else "")
    assert answers.sent == 1


def test_on_a_terminal_it_says_who_goes_back_to_what_and_asks(monkeypatch: pytest.MonkeyPatch, typed: Any) -> None:
    group = RolloutPolicy(set=ReleaseSet(id=ROLLOUT, packages={"tacho": "1.0.0", "needle": "2.0.0"}))
    made = a_rollout(policy=group, verdicts={Verdict.UPDATING: 10}, state=RolloutState.COMPLETE)
    answers = Answers(monkeypatch, THERE, made, takers=TAKERS, took=1, at_it=2)
    typed("n\n")
    said = flotilla("revert", ROLLOUT)
    assert (said.status, said.text, answers.sent) == (1, "", 0)
    for line in (
        LEFT,
        "tacho 1.0.0 on channel stable is complete; a revert is for good:\n",
        "  6 devices go back to 0.9.0: pi-1, pi-2, pi-3, pi-4, pi-5 …\n",
        "  1 device goes back to 0.8.0: pi-7\n",
        "  1 device just said to have taken it and goes back to what was there before\n",
        "  2 more at it stop or go back\n",
        "  what was released together with it is reverted too: needle\n",
        "Revert it? [y/N]: ",
        "flotilla: it is not reverted: nothing was changed\n",
    ):
        assert line in said.stderr
    typed("y\n")
    assert "is reverted: " in flotilla("revert", ROLLOUT).text
    assert answers.sent == 1


@pytest.mark.parametrize("option", ["--yes", "--json"])
def test_who_says_yes_or_wants_json_is_not_asked(monkeypatch: pytest.MonkeyPatch, typed: Any, option: str) -> None:
    answers = Answers(monkeypatch, THERE, takers=TAKERS)
    typed("")
    said = flotilla("revert", ROLLOUT, option)
    assert (said.status, said.stderr, answers.sent) == (0, LEFT, 1)


def test_whoever_reverts_what_cannot_be_is_not_asked_first(monkeypatch: pytest.MonkeyPatch, typed: Any) -> None:
    answers = Answers(monkeypatch, THERE, a_rollout(state=RolloutState.SUPERSEDED), takers=TAKERS)
    typed("")
    assert flotilla("revert", ROLLOUT).stderr == ""
    assert answers.sent == 1, "the controller says why"


@pytest.mark.parametrize(
    ("takers", "still"), [([], "no device has it now"), (TAKERS[:1], "1 device still has it"), (TAKERS, "8 devices")]
)
def test_what_is_reverted_already_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, takers: list[Takers], still: str
) -> None:
    made = a_rollout(state=RolloutState.REVERTED, changed_by="user:anna", advice=LATER)
    answers = Answers(monkeypatch, THERE, made, takers=takers)
    said = flotilla("revert", ROLLOUT)
    assert said.text.startswith("tacho 1.0.0 on channel stable is reverted already, since ")
    assert f" by user:anna: {still}" in said.text
    assert said.text.endswith(f"{LATER}\n")
    assert flotilla("revert", ROLLOUT, "--json").json()["state"] == "reverted"
    assert answers.sent == 0
