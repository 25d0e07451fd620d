"""In which order rows are locked: what holds two of them takes them in the same order, or PostgreSQL ends one of them.

SQLite has one writer at a time and no such locks, so this looks at the order in which the rows are asked for.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event

from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from tests.unit.fleet.builders import NOW

SITE = ["http://127.0.0.1:1/repo"]


def release(store: RolloutStore, version: str) -> str:
    return store.create(package="tacho", version=version, channel="stable", repository=SITE, now=NOW).id


def released_anew(store: RolloutStore, _: str) -> None:
    release(store, "1.1.0")


def released_as_a_set(store: RolloutStore, _: str) -> None:
    packages = {"zebra": "1.0.0", "tacho": "1.1.0"}
    store.create_set(packages=packages, channel="stable", repository=SITE, now=NOW)


def withdrawn(store: RolloutStore, _: str) -> None:
    store.withdraw("stable", "tacho", NOW)


def paused(store: RolloutStore, rollout: str) -> None:
    store.set_state(rollout, RolloutState.PAUSED, NOW)


@pytest.mark.parametrize("change", [released_anew, released_as_a_set, withdrawn, paused])
def test_the_rollout_is_locked_before_its_topic(engine: Engine, change: Callable[[RolloutStore, str], None]) -> None:
    store = RolloutStore(engine)
    rollout = release(store, "1.0.0")
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "FROM rollouts" in statement and rollout in values:
            asked.append("rollout")
        elif "announcements" in statement and statement.startswith(("INSERT", "UPDATE")) and "tacho" in values:
            asked.append("topic")

    event.listen(engine, "before_cursor_execute", note)
    change(store, rollout)
    assert "topic" in asked
    assert asked[0] == "rollout"
