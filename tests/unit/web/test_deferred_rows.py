"""Why a device of a rollout is deferred, as the page shows it: read for the rows that are shown, and no others."""

import re
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, event

from controller.database import reading
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.web.rendering import make_environment
from controller.web.rollout_reading import DeviceRow, device_rows
from controller.web.statics import Statics
from schemas.messages import Phase
from tests.support.database import opened
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in

WINDOW = {"reason": "window", "until": "2026-03-01T22:00:00Z"}
UNTIL = datetime(2026, 3, 1, 22, tzinfo=UTC)


def rollout_with(engine: Engine, **devices: dict[str, str] | None) -> Rollout:
    """A rollout whose devices are deferred with these details; those with None fetch instead."""
    intake, store = IntakeStore(engine), RolloutStore(engine)
    for name in devices:
        intake.take_in([presence_in(name), reported_in(name)], NOW)
    made = store.create(package="tacho", version="2.0.0", channel="stable", repository=[], now=NOW)
    for name, detail in devices.items():
        said = [event_in(name, 1, Phase.ACCEPTED, rollout=made.id)]
        last = Phase.FETCHING if detail is None else Phase.DEFERRED
        said.append(event_in(name, 2, last, rollout=made.id, detail=detail))
        intake.take_in(said, NOW)
    store.evaluate(made.id, NOW)
    return made


def shown(row: DeviceRow) -> str:
    """What the list and the cell say of a device."""
    drawn = make_environment(Statics()).from_string('{% from "macros.html" import place %}{{ place(row) }}')
    return " ".join(re.sub(r"<[^>]*>", " ", drawn.render(row=row)).split())


def test_a_deferred_device_is_shown_with_its_reason_and_until_when(tmp_path: Path) -> None:
    engine = opened(tmp_path / "flotilla.db")
    robot = {"reason": "not ready", "because": "<b>moves</b>"}
    made = rollout_with(engine, pi1=WINDOW, pi2=robot, pi3=None, pi4={})
    one, two, three, four = device_rows(engine, made.id)
    assert one.waits is not None
    assert (one.waits.reason, one.waits.until) == ("window", UNTIL)
    assert shown(one) == "deferred window, until 2026-03-01 22:00:00 UTC"
    assert shown(two) == "deferred not ready (&lt;b&gt;moves&lt;/b&gt;)"
    assert (three.waits, four.waits) == (None, None)
    assert (shown(three), shown(four)) == ("fetching", "deferred")
    (alone,) = device_rows(engine, made.id, only="pi2")
    assert alone.waits == two.waits
    # who is held is told why it is held
    OrderStore(engine).set_desired("pi1", hold=True)
    RolloutStore(engine).evaluate(made.id, NOW)
    assert shown(device_rows(engine, made.id)[0]) == "held on hold"


def test_only_the_events_of_those_that_are_shown_are_read(tmp_path: Path) -> None:
    engine = opened(tmp_path / "flotilla.db")
    made = rollout_with(engine, **{f"pi{number}": WINDOW if number < 6 else None for number in range(9)})
    asked: list[tuple[str, object]] = []

    with reading(engine) as connection:
        asking = connection.engine

    @event.listens_for(asking, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_more: object) -> None:
        if "payload" in statement and "JOIN events" in statement:
            asked.append((statement, parameters))

    assert [row.device for row in device_rows(engine, made.id, limit=2)] == ["pi0", "pi1"]
    ((statement, parameters),) = asked
    assert parameters == (made.id, "pi0", "pi1")
    with reading(engine) as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert not [line for *_, line in plan if str(line).startswith("SCAN")], plan
    asked.clear()
    assert all(row.waits is None for row in device_rows(engine, made.id, after="pi5"))
    assert asked == []
