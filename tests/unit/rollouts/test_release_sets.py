"""Several packages announced as one set: in one transaction, with one set of conditions, and changed together."""

from typing import Any

import pytest
from sqlalchemy import Engine

from controller.rollouts import store
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.beginning import begin
from controller.rollouts.plan import RolloutState
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from schemas.codec import decode
from schemas.errors import OperatorError, PublisherError
from schemas.messages import Announcement, RolloutPolicy, Targets
from tests.unit.fleet.builders import NOW

TWO = {"engine": "2.0.0", "tacho": "2.1.0"}


def create_set(engine: Engine, packages: dict[str, str] = TWO, **more: Any) -> list[Rollout]:
    return RolloutStore(engine).create_set(
        packages=packages, channel="stable", repository=["http://127.0.0.1:1/repo"], now=NOW, **more
    )


def announced(engine: Engine) -> dict[str, Announcement]:
    topics = AnnouncementStore(engine).topics(changed_only=False)
    return {topic.package: decode(topic.payload, Announcement) for topic in topics if topic.payload is not None}


def states(engine: Engine) -> dict[str, str]:
    return {r.package + r.version: str(r.state) for r in RolloutReader(engine).rollouts(limit=100)}


def test_each_announcement_names_the_whole_set(engine: Engine) -> None:
    made = create_set(engine, policy=RolloutPolicy(retries=7))
    told = announced(engine)
    assert {name: one.version for name, one in told.items()} == TWO
    assert {one.rollout for one in told.values()} == {rollout.id for rollout in made}
    groups = [one.policy.set for one in told.values()]
    assert groups[0] == groups[1]
    assert groups[0] is not None
    assert groups[0].packages == TWO
    assert {one.policy.retries for one in told.values()} == {7}


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.HALTED, RolloutState.REVERTED])
def test_they_change_together(engine: Engine, state: RolloutState) -> None:
    one, _ = create_set(engine)
    RolloutStore(engine).set_state(one.id, state, NOW)
    assert {str(told.state) for told in announced(engine).values()} == {str(state)}


def test_who_was_superseded_stays_so(engine: Engine) -> None:
    one, _ = create_set(engine)
    RolloutStore(engine).create(
        package="tacho", version="3.0.0", channel="stable", repository=["http://127.0.0.1:1/repo"], now=NOW
    )
    RolloutStore(engine).set_state(one.id, RolloutState.HALTED, NOW)
    assert states(engine) == {"engine2.0.0": "halted", "tacho2.1.0": "superseded", "tacho3.0.0": "active"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"packages": {"engine": "2.0.0"}}, OperatorError),
        ({"packages": {"engine": "2.0.0", "tacho": "latest"}}, PublisherError),
        ({"packages": {"engine": "2.0.0", "No Name": "1.0.0"}}, OperatorError),
        ({"targets": Targets(upto=500)}, OperatorError),
    ],
)
def test_all_are_announced_or_none(engine: Engine, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        create_set(engine, **changes)
    assert announced(engine) == {}
    assert states(engine) == {}


def test_none_is_announced_where_the_database_takes_only_the_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin_one(*given: Any) -> Any:
        if begun:
            raise OperatorError("disk.full", "the disk is full")
        begun.append("one")
        return begin(*given)

    monkeypatch.setattr(store, "begin", begin_one)
    with pytest.raises(OperatorError, match="the disk is full"):
        create_set(engine)
    assert begun
    assert announced(engine) == {}
    assert states(engine) == {}
