"""A device that is gone for good: nothing of it stays, nothing that is left of it brings it back, and it may return."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, func, insert, select

from controller.database import metadata, reading, writing
from controller.fleet.forgetting import Forgotten, forget
from controller.fleet.incoming import ClearedIn, Incoming
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.orders import OrderStore
from controller.fleet.progress import SeqTrack
from controller.fleet.registry import DeviceRegistry
from controller.fleet.replay import ReplayPlanner
from controller.fleet.tables import forgotten
from controller.rollouts.plan import Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_asks, rollout_devices
from schemas.errors import OperatorError
from schemas.messages import Desired, Phase, Verb
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in, succeeded_in

GONE = "pi-1"


def take_in(engine: Engine, *batch: Incoming) -> Outcome:
    return IntakeStore(engine).take_in(batch, NOW)


def known(engine: Engine) -> list[str]:
    return [one.id for one in DeviceRegistry(engine).devices()]


def rows_of(engine: Engine, device: str) -> dict[str, int]:
    """Table to rows that name the device, of all tables there are."""
    found: dict[str, int] = {}
    with reading(engine) as connection:
        for table in metadata.sorted_tables:
            column: Any = table.c.id if table.name == "devices" else table.c.get("device")
            if column is not None:
                number = connection.scalar(select(func.count()).select_from(table).where(column == device)) or 0
                found |= {table.name: number} if number else {}
    return found


@pytest.fixture
def rollout(engine: Engine) -> str:
    """Two devices of which much is known, one of them gone; the rollout that both have taken."""
    store, orders = RolloutStore(engine), OrderStore(engine)
    made = store.create(package="tacho", version="2.0.0", channel="stable", repository=["http://r"], now=NOW).id
    for device in (GONE, "pi-2"):
        take_in(engine, presence_in(device), reported_in(device, packages={"tacho": installed("1.0.0")}))
        take_in(engine, *succeeded_in(device, rollout=made))
        orders.send_command(device, Verb.REPORT, now=NOW)
        orders.set_desired(device, pins={"tacho": "2.0.0"}, now=NOW)
    store.evaluate(made, NOW)
    with writing(engine) as connection:
        for device in (GONE, "pi-2"):
            asked = {"rollout": made, "device": device, "verb": "retry", "asked_at": 1, "life": 1, "seq": 1}
            connection.execute(insert(rollout_asks).values(expires_at=2, **asked))
    take_in(engine, presence_in(GONE, online=False, session=2))
    return made


def test_nothing_of_it_stays_and_others_keep_theirs(engine: Engine, rollout: str) -> None:
    before = rows_of(engine, "pi-2")
    naming = {table.name for table in metadata.sorted_tables if "device" in table.c}
    assert before.keys() == {"devices", *naming} - {"forgotten_devices"}, "a table that this test knows nothing of"
    assert before.keys() == rows_of(engine, GONE).keys()
    told = forget(engine, GONE, NOW)
    assert told == Forgotten(channel="stable", rollouts=[rollout])
    assert rows_of(engine, GONE) == {"desired": 1, "forgotten_devices": 1}
    assert rows_of(engine, "pi-2") == before
    assert known(engine) == ["pi-2"]
    with pytest.raises(OperatorError, match="no device pi-1 has been heard of"):
        forget(engine, GONE, NOW)


def test_a_rollout_counts_it_no_more(engine: Engine, rollout: str) -> None:
    store = RolloutStore(engine)
    store.evaluate(rollout, NOW)
    assert RolloutReader(engine).rollout(rollout).verdicts == {Verdict.SUCCEEDED: 2}
    forget(engine, GONE, NOW)
    store.evaluate(rollout, NOW, changed={GONE: None})
    assert RolloutReader(engine).rollout(rollout).verdicts == {Verdict.SUCCEEDED: 1}
    assert [one.device for one in RolloutReader(engine).devices(rollout)] == ["pi-2"]


def test_one_that_is_there_is_not_forgotten(engine: Engine, rollout: str) -> None:
    before = rows_of(engine, "pi-2")
    with pytest.raises(OperatorError, match="pi-2 is there, and would be back with its next word") as refused:
        forget(engine, "pi-2", NOW)
    assert refused.value.code == "device.online"
    assert rows_of(engine, "pi-2") == before


def test_it_is_told_nothing_apart_from_its_channel_any_more_under_a_later_revision(
    engine: Engine, rollout: str
) -> None:
    orders = OrderStore(engine)
    orders.mark_published(orders.desired_rows(changed_only=True))
    forget(engine, GONE, NOW)
    (row,) = orders.desired_rows(changed_only=True)
    assert (row.device, msgspec.json.decode(row.payload, type=Desired)) == (GONE, Desired(rev=2))
    take_in(engine, reported_in(GONE), presence_in(GONE, online=False, session=3))
    orders.mark_published([row])
    forget(engine, GONE, NOW)
    assert orders.desired_rows(changed_only=True) == [], "nothing is said again"
    take_in(engine, reported_in(GONE))
    assert orders.set_desired(GONE, hold=True).rev == 3


LEFT: dict[str, Incoming] = {
    "a report that the broker kept": reported_in(GONE, live=False),
    "a presence that the broker kept": presence_in(GONE, online=False, live=False, session=9),
    "its last will": presence_in(GONE, online=False, session=9),
    "its report, cleared": ClearedIn(GONE, "reported"),
    "its presence, cleared": ClearedIn(GONE, "status"),
}
BACK: dict[str, Incoming] = {
    "a report": reported_in(GONE),
    "a presence": presence_in(GONE, session=1),
    "an event": event_in(GONE),
    "a presence that the broker kept since": presence_in(GONE, live=False, session=1),
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_is_left_of_it_does_not_bring_it_back(engine: Engine, rollout: str, left: Incoming) -> None:
    forget(engine, GONE, NOW)
    outcome = take_in(engine, left, presence_in("pi-3"))
    assert known(engine) == ["pi-2", "pi-3"]
    assert outcome.tracks.keys() == {"pi-3"}
    assert [one.device for one in outcome.presences] == ["pi-3"]
    assert rows_of(engine, GONE) == {"desired": 1, "forgotten_devices": 1}


@pytest.mark.parametrize("word", BACK.values(), ids=BACK)
def test_once_it_speaks_it_is_a_new_device(engine: Engine, rollout: str, word: Incoming) -> None:
    forget(engine, GONE, NOW)
    take_in(engine, *LEFT.values(), word)
    assert known(engine) == [GONE, "pi-2"]
    assert DeviceRegistry(engine).device(GONE).first_seen == NOW
    with reading(engine) as connection:
        assert connection.execute(select(forgotten)).all() == []
    take_in(engine, presence_in(GONE, online=False, session=10))
    assert not DeviceRegistry(engine).device(GONE).online


def test_one_that_came_back_unheard_is_known_by_what_the_broker_keeps_and_asked_to_report(
    engine: Engine, rollout: str
) -> None:
    """The controller was away for long, or its database was put back: the report may come before the presence."""
    forget(engine, GONE, NOW)
    assert take_in(engine, reported_in(GONE, live=False)).to_send == 0
    assert take_in(engine, presence_in(GONE, live=False, session=3)).to_send == 1
    assert known(engine) == [GONE, "pi-2"]
    assert [one.verb for one in OrderStore(engine).commands(GONE)] == [Verb.REPORT]


def test_no_rollout_counts_it_in_memory_either(engine: Engine, rollout: str) -> None:
    store = RolloutStore(engine)
    store.evaluate(rollout, NOW)
    store.create(package="tacho", version="3.0.0", channel="stable", repository=["http://r"], now=NOW)
    store.evaluate(rollout, NOW)
    forget(engine, GONE, NOW)
    store.forget_device(GONE)
    take_in(engine, event_in("pi-2", 9, Phase.FAILED, rollout=rollout))
    found = store.evaluate(rollout, NOW, changed={"pi-2": None})
    assert found is not None
    assert sum(found.view.verdicts.values()) == 1
    assert found.view.verdicts == RolloutReader(engine).rollout(rollout).verdicts


def test_a_row_that_was_written_while_it_was_forgotten_goes_with_the_next_look(engine: Engine, rollout: str) -> None:
    store = RolloutStore(engine)
    store.evaluate(rollout, NOW)
    forget(engine, GONE, NOW)
    with writing(engine) as connection:
        row = {"rollout": rollout, "device": GONE, "life": 0, "seq": 0, "verdict": "pending", "wave": 0}
        connection.execute(insert(rollout_devices).values(**row))
    store.evaluate(rollout, NOW, changed={GONE: None})
    assert RolloutReader(engine).rollout(rollout).verdicts == {Verdict.SUCCEEDED: 1}


def test_its_journal_goes_on_and_what_it_said_before_is_asked_for(engine: Engine, rollout: str) -> None:
    forget(engine, GONE, NOW)
    outcome = take_in(engine, event_in(GONE, 2, Phase.FETCHING, rollout=None))
    assert outcome.tracks[GONE].missing == ((1, 1),)
    take_in(engine, event_in(GONE, 1, rollout=None))
    there = DeviceRegistry(engine).device(GONE)
    assert (there.life, there.seq, there.missing) == (1, 2, 0)


def test_one_that_was_never_heard_of_before_needs_no_word_of_its_own(engine: Engine) -> None:
    take_in(engine, reported_in("pi-7", live=False))
    assert known(engine) == ["pi-7"]


def test_it_is_asked_for_nothing_any_more() -> None:
    planner = ReplayPlanner()
    planner.demand(GONE, 0.0)
    planner.note(GONE, SeqTrack(3, ((2, 2),)), 0.0)
    planner.forget(GONE)
    assert (planner.waiting, planner.next_due(), planner.due(1e9)) == (0, None, [])
