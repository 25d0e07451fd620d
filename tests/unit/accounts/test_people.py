"""Accounts, their passwords and their sessions."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from controller.accounts import passwords
from controller.accounts.people import ABSOLUTE, IDLE, MAX_SESSIONS, People
from controller.accounts.roles import Role
from controller.accounts.tables import sessions, users
from controller.database import reading
from schemas.errors import OperatorError

PASSWORD = "correct horse battery"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def people(engine: Engine) -> People:
    made = People(engine)
    made.add("anna", Role.OPERATOR, PASSWORD)
    return made


def log_in(people: People, password: str = PASSWORD, now: datetime = NOW) -> str:
    return people.log_in("anna", password, "192.0.2.1", now)[0]


def test_a_password_is_kept_as_argon2id_of_the_recommended_cost() -> None:
    kept = passwords.hash_password(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.is_right(kept, PASSWORD)
    assert not passwords.is_right(kept, PASSWORD + " ")
    assert not passwords.is_outdated(kept)


def test_the_same_letters_are_the_same_password_however_they_were_typed() -> None:
    kept = passwords.hash_password("zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf Stra\N{LATIN SMALL LETTER SHARP S}en")
    assert passwords.is_right(kept, "zwo\N{COMBINING DIAERESIS}lf Stra\N{LATIN SMALL LETTER SHARP S}en")


def test_neither_password_nor_session_is_readable_in_the_database(engine: Engine, people: People) -> None:
    secret = log_in(people)
    with reading(engine) as connection:
        rows = [*connection.execute(select(users)).all(), *connection.execute(select(sessions)).all()]
    assert len(rows) == 2
    assert PASSWORD not in str(rows)
    assert secret not in str(rows)


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_password_has_a_length(people: People, password: str) -> None:
    with pytest.raises(OperatorError, match="12 to 1024"):
        people.add("ben", Role.VIEWER, password)


@pytest.mark.parametrize("name", ["", "Anna", "a b", "-a", "a" * 64, "a\n", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
def test_a_name_that_can_be_none_is_refused(people: People, name: str) -> None:
    with pytest.raises(OperatorError) as caught:
        people.add(name, Role.VIEWER, PASSWORD)
    assert caught.value.code == "input.bad"


def test_a_name_is_given_once(people: People) -> None:
    with pytest.raises(OperatorError) as caught:
        people.add("anna", Role.VIEWER, PASSWORD)
    assert caught.value.code == "account.exists"
    assert people.get("anna").role is Role.OPERATOR


def test_a_wrong_password_and_an_unknown_name_are_refused_alike(people: People) -> None:
    refusals = []
    for name, password in (("anna", "wrong horse battery"), ("nobody", PASSWORD), ("", ""), ("anna", "")):
        with pytest.raises(OperatorError) as caught:
            people.log_in(name, password, "192.0.2.1")
        refusals.append((caught.value.code, caught.value.message))
    assert set(refusals) == {("auth.refused", "the name or the password is wrong")}


def test_an_unknown_name_costs_the_same_work(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    real = passwords._hasher

    class Counting:
        def verify(self, kept: str, password: str) -> bool:
            checked.append(kept[:10])
            return real.verify(kept, password)

        def hash(self, password: str) -> str:
            return real.hash(password)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    for name in ("anna", "nobody"):
        with pytest.raises(OperatorError):
            people.log_in(name, "wrong horse battery", "192.0.2.1")
    assert len(checked) == 2


def test_a_session_stands_for_its_account(people: People) -> None:
    who = people.who(log_in(people), NOW)
    assert who is not None
    assert (who.actor, who.role) == ("user:anna", Role.OPERATOR)
    assert people.who("made up", NOW) is None


def test_a_session_that_is_not_used_is_over(people: People) -> None:
    secret = log_in(people)
    assert people.who(secret, NOW + IDLE - timedelta(seconds=1)) is not None
    # used just then, so it lasts as long again
    assert people.who(secret, NOW + 2 * IDLE - timedelta(seconds=2)) is not None
    assert people.who(secret, NOW + 3 * IDLE) is None


def test_a_session_that_is_used_all_the_time_is_over_too(people: People) -> None:
    secret = log_in(people)
    now = NOW
    while now < NOW + ABSOLUTE - IDLE:
        now += IDLE / 2
        assert people.who(secret, now) is not None
    assert people.who(secret, NOW + ABSOLUTE) is None


def test_a_session_ends_with_its_logout(people: People) -> None:
    first, second = log_in(people), log_in(people)
    who = people.who(first, NOW)
    assert who is not None
    assert who.session is not None
    people.log_out(who.session)
    assert people.who(first, NOW) is None
    assert people.who(second, NOW) is not None


@pytest.mark.parametrize("change", ["password", "role", "remove"])
def test_a_change_of_the_account_ends_its_sessions(people: People, change: str) -> None:
    secret = log_in(people)
    match change:
        case "password":
            people.set_password("anna", "another horse battery")
        case "role":
            people.set_role("anna", Role.VIEWER)
        case _:
            people.remove("anna")
    assert people.who(secret, NOW) is None


def test_the_oldest_sessions_of_an_account_make_room(people: People) -> None:
    secrets = [log_in(people, now=NOW + timedelta(seconds=number)) for number in range(MAX_SESSIONS + 3)]
    alive = [people.who(secret, NOW + timedelta(minutes=1)) is not None for secret in secrets]
    assert alive == [False] * 3 + [True] * MAX_SESSIONS


def test_rows_of_sessions_that_are_over_are_removed(engine: Engine, people: People) -> None:
    log_in(people)
    last = log_in(people, now=NOW + IDLE)
    assert people.forget_old_sessions(NOW + IDLE) == 1
    assert people.who(last, NOW + IDLE) is not None


def test_accounts_come_in_pages(people: People) -> None:
    people.add("ben", Role.VIEWER, PASSWORD)
    assert [one.name for one in people.page(limit=1)] == ["anna"]
    assert [one.name for one in people.page(after="anna")] == ["ben"]
    for call in (
        lambda: people.get("carl"),
        lambda: people.remove("carl"),
        lambda: people.set_role("carl", Role.ADMIN),
    ):
        with pytest.raises(OperatorError) as caught:
            call()
        assert caught.value.code == "account.unknown"
