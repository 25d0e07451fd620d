"""Tokens of machines."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from controller.accounts.roles import Role
from controller.accounts.tables import api_tokens
from controller.accounts.tokens import Tokens
from controller.database import reading
from schemas.errors import OperatorError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def tokens(engine: Engine) -> Tokens:
    return Tokens(engine)


def test_a_token_stands_for_its_name_and_role(tokens: Tokens) -> None:
    who = tokens.who(tokens.add("ci", Role.PUBLISHER).token)
    assert who is not None
    assert (who.actor, who.role) == ("token:ci", Role.PUBLISHER)
    assert tokens.who("flotilla_made-up") is None


def test_it_is_told_once_and_kept_as_a_hash(engine: Engine, tokens: Tokens) -> None:
    made = tokens.add("ci", Role.PUBLISHER)
    assert len(made.token) > 40
    with reading(engine) as connection:
        assert made.token not in str(connection.execute(select(api_tokens)).all())
    assert made.token not in str(tokens.page())


def test_it_ends_when_it_was_said_to(tokens: Tokens) -> None:
    made = tokens.add("ci", Role.PUBLISHER, lasts=timedelta(days=1), now=NOW)
    assert tokens.who(made.token, NOW + timedelta(hours=23)) is not None
    assert tokens.who(made.token, NOW + timedelta(days=1)) is None


def test_a_revoked_token_is_good_for_nothing(tokens: Tokens) -> None:
    made, other = tokens.add("ci", Role.PUBLISHER), tokens.add("other", Role.VIEWER)
    tokens.revoke("ci")
    assert tokens.who(made.token) is None
    assert tokens.who(other.token) is not None
    # the name is free again, for another secret
    assert tokens.add("ci", Role.VIEWER).token != made.token
    assert tokens.who(made.token) is None


@pytest.mark.parametrize("name", ["api-token", "", "a b", "A"])
def test_a_name_that_can_be_none_is_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(OperatorError) as caught:
        tokens.add(name, Role.VIEWER)
    assert caught.value.code == "input.bad"


def test_one_name_one_token(tokens: Tokens) -> None:
    tokens.add("ci", Role.VIEWER)
    with pytest.raises(OperatorError) as caught:
        tokens.add("ci", Role.ADMIN)
    assert caught.value.code == "account.exists"
    with pytest.raises(OperatorError) as caught:
        tokens.revoke("nothing")
    assert caught.value.code == "account.unknown"
    with pytest.raises(OperatorError, match="data folder"):
        tokens.revoke("api-token")


def test_it_shows_when_it_was_used(tokens: Tokens) -> None:
    made = tokens.add("ci", Role.VIEWER, now=NOW)
    assert tokens.page()[0].used_at is None
    tokens.who(made.token, NOW + timedelta(hours=1))
    assert tokens.page()[0].used_at == NOW + timedelta(hours=1)
