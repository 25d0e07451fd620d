"""What devices said long ago is forgotten step by step; the last word of each update stays."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select

from controller.database import reading, to_db, writing
from controller.fleet import pruning
from controller.fleet.intake_store import IntakeStore
from controller.fleet.pruning import Pruned, Pruner
from controller.fleet.tables import events
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_devices
from schemas.messages import Phase
from tests.support.database import opened
from tests.unit.fleet.builders import NOW, an_id, event_in

DAY = timedelta(days=1)
STEPS = ("accepted", "fetching", "staged", "switched", "probation", "succeeded")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = opened(tmp_path / "flotilla.db")
    yield made
    made.dispose()


def say(engine: Engine, update: int, phases: tuple[str, ...], days_ago: int) -> None:
    with writing(engine) as connection:
        highest = connection.scalar(select(func.max(events.c.seq))) or 0
        for number, phase in enumerate(phases, start=1):
            row = {"device": "pi-1", "life": 1, "seq": highest + number, "update_id": an_id(update), "package": "tacho"}
            when = to_db(NOW - days_ago * DAY)
            row |= {"version": "1.0.0", "phase": phase, "at": when, "received_at": when, "payload": "{}"}
            connection.execute(insert(events).values(**row))


def said(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.scalars(select(events.c.phase).order_by(events.c.id)))


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_old_steps_go_and_last_words_stay(engine: Engine, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(pruning, "BATCH", batch)
    say(engine, 1, STEPS, 40)
    say(engine, 2, ("accepted", "fetching", "failed"), 35)
    say(engine, 3, STEPS, 5)
    pruner = Pruner(engine)
    assert pruner.prune(30 * DAY, NOW) == Pruned(events=7, rollout_devices=0)
    assert said(engine) == ["succeeded", "failed", *STEPS]
    assert pruner.prune(30 * DAY, NOW).events == 0
    assert pruner.prune(30 * DAY, NOW + 30 * DAY).events == 5
    assert said(engine) == ["succeeded", "failed", "succeeded"]


def test_an_update_without_a_last_word_keeps_what_it_said(engine: Engine) -> None:
    say(engine, 1, ("accepted", "fetching"), 40)
    assert Pruner(engine).prune(30 * DAY, NOW).events == 0
    assert said(engine) == ["accepted", "fetching"]


def test_devices_of_rollouts_that_are_long_over_go(engine: Engine) -> None:
    store = RolloutStore(engine)
    ids = []
    for number, days_ago in enumerate((100, 50, 10)):
        made = store.create(
            package="tacho",
            version=f"1.{number}.0",
            channel="stable",
            repository=["http://r"],
            targets=None,
            policy=None,
            now=NOW - days_ago * DAY,
        )
        ids.append(made.id)
    with writing(engine) as connection:
        for rollout in ids:
            for device, phase in (("pi-1", "succeeded"), ("pi-2", "fetching"), ("pi-3", None)):
                row = {"rollout": rollout, "device": device, "life": 1, "seq": 1, "phase": phase}
                connection.execute(insert(rollout_devices).values(**row))
    # the first was over 50 days ago, the second 10 days ago, the third is announced
    assert Pruner(engine).prune(30 * DAY, NOW).rollout_devices == 2
    with reading(engine) as connection:
        left = connection.execute(select(rollout_devices.c.rollout, rollout_devices.c.device)).all()
    assert (ids[0], "pi-2") in left
    assert len(left) == 7


def test_what_was_forgotten_is_not_taken_in_again_and_a_new_journal_is_still_told_apart(engine: Engine) -> None:
    store = IntakeStore(engine)
    old = [event_in(seq=1), event_in(seq=2, phase=Phase.FETCHING), event_in(seq=3, phase=Phase.SUCCEEDED)]
    assert len(store.take_in(old, NOW - 40 * DAY).stored) == 3
    assert Pruner(engine).prune(30 * DAY, NOW).events == 2
    again = store.take_in(old, NOW)
    assert (list(again.stored), again.new_lives) == ([], {})
    outcome = store.take_in([event_in(seq=1, update=an_id(2)), event_in(seq=2, update=an_id(2))], NOW)
    assert (len(outcome.stored), dict(outcome.new_lives)) == (2, {"pi-1": 2})


def test_a_batch_takes_no_longer_for_a_device_with_much_to_say(engine: Engine) -> None:
    """Intake waits for each batch."""
    when = to_db(NOW - 40 * DAY)
    row = {"device": "pi-1", "life": 1, "package": "tacho", "version": "1.0.0", "payload": "{}"}
    rows = [
        row | {"seq": number, "update_id": an_id(number // len(STEPS)), "phase": STEPS[number % len(STEPS)]}
        for number in range(2000 * len(STEPS))
    ]
    with writing(engine) as connection:
        connection.execute(insert(events), [one | {"at": when, "received_at": when} for one in rows])
    began = time.process_time()
    assert Pruner(engine).prune(30 * DAY, NOW).events == 2000 * (len(STEPS) - 1)
    assert time.process_time() - began < 3
