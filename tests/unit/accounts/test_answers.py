"""Answers that are kept for retries."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from controller.accounts import answers as module
from controller.accounts.answers import KEEP, MAX_ANSWER_BYTES, Answer, Answers, key_of
from controller.accounts.roles import Role, Who
from schemas.errors import OperatorError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANNA = Who(kind="user", name="anna", role=Role.OPERATOR)
BEN = Who(kind="user", name="ben", role=Role.OPERATOR)


def answer(body: bytes = b"{}") -> Answer:
    return Answer(request="r" * 64, status=201, headers=[("content-type", "application/json")], body=body)


@pytest.fixture
def answers(engine: Engine) -> Answers:
    return Answers(engine)


def test_an_answer_is_the_same_for_a_day(answers: Answers) -> None:
    answers.keep("k", answer(), NOW)
    assert answers.find("k", NOW + KEEP - timedelta(seconds=1)) == answer()
    assert answers.find("k", NOW + KEEP) is None
    assert answers.find("other", NOW) is None
    assert answers.forget_old(NOW + KEEP) == 1


def test_one_asker_s_key_means_nothing_for_another() -> None:
    assert key_of(ANNA, "k") == key_of(ANNA, "k") != key_of(BEN, "k")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(OperatorError) as caught:
        key_of(ANNA, key)
    assert caught.value.code == "input.bad"


def test_the_oldest_make_room(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 3)
    for number in range(5):
        answers.keep(f"k{number}", answer(), NOW + timedelta(seconds=number))
    kept = [number for number in range(5) if answers.find(f"k{number}", NOW + timedelta(minutes=1))]
    assert kept == [2, 3, 4]


def test_all_together_are_bounded_in_bytes(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    for number in range(5):
        answers.keep(f"k{number}", answer(b"x" * 400), NOW + timedelta(seconds=number))
    kept = [number for number in range(5) if answers.find(f"k{number}", NOW + timedelta(minutes=1))]
    assert kept == [3, 4]


def test_an_answer_that_is_too_large_is_not_kept(answers: Answers) -> None:
    answers.keep("k", answer(b"x" * (MAX_ANSWER_BYTES + 1)), NOW)
    assert answers.find("k", NOW) is None
