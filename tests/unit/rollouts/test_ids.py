"""A rollout is named by the beginning of its id where no other begins so."""

import pytest
from sqlalchemy import Engine

from controller.rollouts.reader import RolloutReader
from schemas.errors import OperatorError
from tests.unit.rollouts.test_waves_kept import create


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
