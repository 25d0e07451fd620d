"""A rollout is named by the beginning of its id where no other begins so."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from controller.rollouts.plan import RolloutState
from controller.rollouts.reader import RolloutReader
from controller.rollouts.short_ids import TIME_PART, shortest
from controller.rollouts.store import RolloutStore
from schemas.errors import OperatorError
from schemas.ids import uuid7
from tests.unit.fleet.builders import NOW
from tests.unit.rollouts.test_waves_kept import create

LATER = NOW + timedelta(minutes=5)


def test_the_beginning_of_an_id_is_enough_where_it_is_unambiguous(engine: Engine) -> None:
    reader = RolloutReader(engine)
    rollout = create(engine)
    for beginning in (rollout.id, rollout.id[:13], rollout.id[:8], rollout.id[:2].upper()):
        assert reader.id_of(beginning) == rollout.id


def test_several_that_begin_so_are_named_and_nothing_is_guessed(engine: Engine) -> None:
    ids = [create(engine, package=f"p{number}").id for number in range(5)]
    with pytest.raises(OperatorError, match=r"flotilla rollouts$") as caught:
        RolloutReader(engine).id_of(ids[0][:8])
    assert caught.value.code == "rollout.ambiguous"
    assert caught.value.message.count(ids[0][:8]) == 4
    assert "\n" not in caught.value.message
    for rollout in ids:
        assert RolloutReader(engine).id_of(rollout) == rollout


@pytest.mark.parametrize("text", ["", "ffff", "%", "_", "0198'", "x" * 35, "a\nb", "-"])
def test_what_begins_none_is_unknown_and_says_where_they_are(engine: Engine, text: str) -> None:
    create(engine)
    with pytest.raises(OperatorError, match=r"flotilla rollouts$") as caught:
        RolloutReader(engine).id_of(text)
    assert caught.value.code == "rollout.unknown"


def test_commands_that_a_line_names_take_a_beginning_that_is_short_and_clear_among_those_of_the_same_moment(
    engine: Engine,
) -> None:
    store, reader = RolloutStore(engine), RolloutReader(engine)
    alone = create(engine)
    rollouts = [create(engine, package=f"p{number}", now=LATER) for number in range(5)]
    for rollout in (alone, *rollouts):
        said = store.set_state(rollout.id, RolloutState.PAUSED, LATER).advice
        (named,) = set(re.findall(r"flotilla \w+ (\S+)", said))
        assert said.count(named) == 2
        assert reader.id_of(named) == rollout.id
        assert (named == rollout.id[:TIME_PART]) is (rollout is alone)


@given(st.lists(st.binary(min_size=10, max_size=10), min_size=1, max_size=20, unique_by=lambda some: uuid7(0, some)))
def test_the_shortest_beginning_is_one_of_no_other_and_has_the_time(random_bytes: list[bytes]) -> None:
    ids = [uuid7(1_700_000_000_000, some) for some in random_bytes]
    for one in ids:
        named = shortest(one, ids)
        assert [other for other in ids if other.startswith(named)] == [one]
        assert len(named) >= TIME_PART
        assert not named.endswith("-")
        shorter = named[:-1].rstrip("-")
        assert len(shorter) < TIME_PART or sum(other.startswith(shorter) for other in ids) > 1
