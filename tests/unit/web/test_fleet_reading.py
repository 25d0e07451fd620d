"""The list of devices and the overview's numbers: right, few questions, and none of them reads the whole fleet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from controller.database import reading
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from controller.web.fleet_reading import FleetReading, Wanted, rollout_lines
from schemas.messages import Phase
from tests.support.database import opened
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in

LATER = NOW + timedelta(hours=1)
LONG_AFTER = NOW + timedelta(days=2)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Three devices: one that is there, one that failed a rollout, and one that went away."""
    made = opened(tmp_path / "flotilla.db")
    store = IntakeStore(made)
    for name, channel, version in (("pi-1", "stable", "1.0.0"), ("pi-2", "stable", "1.1.0"), ("pi-3", "beta", "1.1.0")):
        packages = {"tacho": installed(version), "needle": installed("3.0.0")}
        said = [presence_in(name, online=name != "pi-3"), reported_in(name, channel=channel, packages=packages)]
        store.take_in(said, NOW)
    rollout = RolloutStore(made).create(
        package="tacho", version="2.0.0", channel="stable", repository=["http://127.0.0.1:1/repo"], now=NOW
    )
    store.take_in([event_in("pi-2", seq, phase, rollout=rollout.id) for seq, phase in _FAILING], LATER)
    store.take_in([event_in("pi-1", 1, Phase.FETCHING, rollout=rollout.id)], LATER)
    RolloutStore(made).evaluate(rollout.id, LATER)
    OrderStore(made).set_desired("pi-1", hold=True)
    yield made
    made.dispose()


_FAILING = ((2, Phase.FAILED), (1, Phase.ACCEPTED))  # the last word came first


def ids(engine: Engine, wanted: Wanted, **more: Any) -> list[str]:
    return [line.id for line in FleetReading(engine).page(wanted, LONG_AFTER, **more)]


def test_a_line_has_what_the_list_shows(engine: Engine) -> None:
    OrderStore(engine).set_desired("pi-2", pins={"tacho": "1.1.0"})
    first, second, third = FleetReading(engine).page(Wanted(), LONG_AFTER)
    assert (first.id, first.online, first.channel, first.last_seen) == ("pi-1", True, "stable", LATER)
    assert list(first.packages.items()) == [("needle", "3.0.0"), ("tacho", "1.0.0")]
    assert first.update == ("tacho", "2.0.0", Phase.FETCHING)
    assert second.update == ("tacho", "2.0.0", Phase.FAILED)
    assert (third.online, third.channel, third.update) == (False, "beta", None)
    assert [(one.hold, one.pins) for one in (first, second, third)] == [
        (True, {}),
        (False, {"tacho": "1.1.0"}),
        (False, {}),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), ["pi-1", "pi-2", "pi-3"]),
        (Wanted(q="I-2"), ["pi-2"]),
        (Wanted(q="%"), []),
        (Wanted(channel="stable"), ["pi-1", "pi-2"]),
        (Wanted(online=False), ["pi-3"]),
        (Wanted(package="tacho"), ["pi-1", "pi-2", "pi-3"]),
        (Wanted(package="tacho", version="1.1.0"), ["pi-2", "pi-3"]),
        (Wanted(needs="attention"), ["pi-2", "pi-3"]),
        (Wanted(needs="told"), ["pi-1"]),
        (Wanted(channel="beta", online=True), []),
    ],
)
def test_a_list_has_the_devices_that_fit_page_by_page_and_counts_them(
    engine: Engine, wanted: Wanted, found: list[str]
) -> None:
    assert ids(engine, wanted) == found
    assert FleetReading(engine).count(wanted, LONG_AFTER) == len(found)
    paged, after = [], ""
    while page := ids(engine, wanted, after=after, limit=1):
        paged += page
        after = page[-1]
    assert paged == found


@pytest.mark.parametrize(("phase", "found"), [(Phase.ROLLED_BACK, []), (Phase.FAILED, ["pi-4"])])
def test_who_went_back_by_itself_needs_no_attention_any_more_once_the_rollout_is_reverted(
    tmp_path: Path, phase: Phase, found: list[str]
) -> None:
    engine = opened(tmp_path / "other.db")
    intake, store = IntakeStore(engine), RolloutStore(engine)
    intake.take_in([presence_in("pi-4"), reported_in("pi-4", packages={"tacho": installed("1.0.0")})], NOW)
    rollout = store.create(package="tacho", version="2.0.0", channel="stable", repository=["http://a/repo"], now=NOW)
    intake.take_in([event_in("pi-4", 1, phase, rollout=rollout.id)], NOW)
    store.evaluate(rollout.id, NOW)
    wanted = Wanted(needs="attention")
    assert [line.id for line in FleetReading(engine).page(wanted, NOW)] == ["pi-4"]
    store.set_state(rollout.id, RolloutState.REVERTED, NOW)
    assert [line.id for line in FleetReading(engine).page(wanted, NOW)] == found
    assert FleetReading(engine).numbers(NOW).troubled == len(found)
    engine.dispose()


def test_the_overview_s_numbers(engine: Engine) -> None:
    numbers = FleetReading(engine).numbers(LONG_AFTER)
    assert (numbers.devices, numbers.online, numbers.channels) == (3, 2, {"stable": 2, "beta": 1})
    assert [(one.version, one.devices) for one in numbers.versions["tacho"]] == [("1.1.0", 2), ("1.0.0", 1)]
    assert [one.device for one in numbers.troubles] == ["pi-2"]
    assert numbers.troubled == 1
    assert [(one.device, one.last_seen) for one in numbers.away_longest] == [("pi-3", NOW)]
    assert FleetReading(engine).numbers(LATER).away == 0


@contextmanager
def questions(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are asked meanwhile."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    with reading(engine) as connection:
        asking = connection.engine
    event.listen(asking, "before_cursor_execute", note)
    yield asked
    event.remove(asking, "before_cursor_execute", note)


READINGS: list[Callable[[Engine], object]] = [
    lambda engine: FleetReading(engine).numbers(NOW),
    *(
        lambda engine, wanted=wanted: (
            FleetReading(engine).count(wanted, NOW),
            FleetReading(engine).page(wanted, NOW),
        )
        for wanted in (
            Wanted(),
            Wanted(q="kitchen"),
            Wanted(channel="stable"),
            Wanted(package="tacho", version="1.0.0"),
            Wanted(needs="attention"),
            Wanted(needs="told"),
        )
    ),
    rollout_lines,
    lambda engine: rollout_lines(engine, states=(RolloutState.ACTIVE,)),
]


@pytest.mark.parametrize("read", READINGS)
def test_indexes_answer_and_no_table_of_devices_is_read_through(
    engine: Engine, read: Callable[[Engine], object]
) -> None:
    with questions(engine) as asked:
        read(engine)
    assert asked
    for statement, parameters in asked:
        with reading(engine) as connection:
            steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        read_through = [
            step
            for step in steps
            if step.startswith(("SCAN devices", "SCAN device_packages", "SCAN rollout_devices", "SCAN events"))
            and "COVERING INDEX" not in step
        ]
        assert not read_through, (read_through, statement)


def test_a_page_of_devices_is_one_question(engine: Engine) -> None:
    with questions(engine) as asked:
        FleetReading(engine).page(Wanted(channel="stable"), NOW)
    assert len(asked) == 1
