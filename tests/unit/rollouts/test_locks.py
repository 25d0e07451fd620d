"""In which order rows are locked: what holds two of them takes them in the same order, or PostgreSQL ends one of them.

SQLite has one writer at a time and no such locks, so this looks at the order in which the rows are asked for.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql

from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from schemas.messages import Phase
from tests.unit.fleet.builders import NOW, event_in
from tests.unit.rollouts.test_waves_kept import fleet, take_in

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


def test_topics_that_were_published_are_noted_one_at_a_time(engine: Engine) -> None:
    """The broker takes them in any order, and whoever turns a set has several of them locked."""
    released_as_a_set(RolloutStore(engine), "")
    store = AnnouncementStore(engine)
    published = store.topics(changed_only=True)
    done: list[int] = []

    def begun(_connection: Any) -> None:
        done.append(0)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE announcements"):
            done[-1] += 1

    event.listen(engine, "begin", begun)
    event.listen(engine, "before_cursor_execute", note)
    store.mark_published(published)
    assert done == [1, 1]
    assert store.topics(changed_only=True) == []


def test_what_a_device_says_while_it_is_asked_to_retry_counts_after_that(engine: Engine) -> None:
    """Its row is locked before the number of its last word is read, and taken back: a newer word waits for the end."""
    fleet(engine, 1)
    store = RolloutStore(engine)
    rollout = release(store, "1.0.0")
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout))
    asked: list[str] = []

    def note(_connection: Any, statement: Any, *_: Any) -> None:
        if not (statement.is_select or statement.is_update):
            return
        text = " ".join(str(statement.compile(dialect=postgresql.dialect())).split())
        if "FROM rollout_devices WHERE" in text and text.endswith("FOR UPDATE"):
            asked.append("locked")
        elif "rollout_devices.seq" in text and "rollout_asks" not in text:
            asked.append("read")
        elif text.startswith("UPDATE rollout_devices"):
            asked.append("taken back")

    event.listen(engine, "before_execute", note)
    store.retry(rollout, now=NOW)
    assert asked[: asked.index("taken back") + 1] == ["locked", "read", "taken back"]
