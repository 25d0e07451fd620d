"""However much one device says, no more than so much of it is kept; what a rollout goes by is."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import Engine, func, select

from controller import housekeeping
from controller.database import reading
from controller.fleet import surplus
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.pruning import Pruner
from controller.fleet.surplus import Surplus, Talkative
from controller.fleet.tables import events
from controller.housekeeping import TooMuch, bound
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_devices
from schemas.errors import OperatorError
from schemas.messages import ErrorReport, Phase, Progress, UpdateEvent
from tests.unit.fleet.builders import NOW, an_id, event_in, reported_in

DAY = timedelta(days=1)
MOST = 50
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surplus, "MOST_EVENTS", MOST)
    monkeypatch.setattr(surplus, "LOOK_AFTER", MOST)
    monkeypatch.setattr(surplus, "BATCH", 7)


def fail(engine: Engine, numbers: range, *, device: str = "pi-1", **changes: object) -> Outcome:
    """Begin an update for each number, which fails at once."""
    said = [event_in(device, number, Phase.FAILED, update=an_id(number), **changes) for number in numbers]
    return IntakeStore(engine).take_in(said, NOW)


def invent(engine: Engine, numbers: range) -> None:
    """As `fail`, each for a rollout that never was."""
    said = [event_in("pi-1", n, Phase.FAILED, update=an_id(n), rollout=an_id(5000 + n)) for n in numbers]
    IntakeStore(engine).take_in(said, NOW)


def kept(engine: Engine, device: str = "pi-1") -> list[int]:
    with reading(engine) as connection:
        found = select(events.c.seq).where(events.c.device == device).order_by(events.c.id)
        return list(connection.scalars(found))


def words(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(rollout_devices)) or 0


def announced(engine: Engine, version: str = "2.0.0", channel: str = "stable") -> str:
    made = RolloutStore(engine).create(
        package="tacho", version=version, channel=channel, repository=["http://127.0.0.1:1/repo"], now=NOW
    )
    return made.id


def test_the_oldest_last_words_go_where_one_device_says_too_much(engine: Engine) -> None:
    fail(engine, range(1, 201), rollout=None)
    fail(engine, range(1, MOST + 1), device="pi-2", rollout=None)
    assert Pruner(engine).prune(90 * DAY, NOW).surplus == {"pi-1": 150}
    assert kept(engine) == list(range(151, 201))
    assert len(kept(engine, "pi-2")) == MOST
    assert Pruner(engine).prune(90 * DAY, NOW).surplus == {}


def test_few_that_are_long_are_too_much_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surplus, "MOST_CHARACTERS", 30_000)
    error = ErrorReport(code="check.failed", message="no" * 2000, log_tail="x" * 4000)
    huge = {"attempt": 10**1000, "progress": Progress(bytes_done=10**1000, bytes_total=7)}
    fail(engine, range(1, 11), rollout=None, error=error, detail={"of": "y" * 1000}, **huge)
    assert Surplus(engine).remove("pi-1") == 8
    assert kept(engine) == [*range(1, 11)]
    with reading(engine) as connection:
        payloads = list(connection.scalars(select(events.c.payload).order_by(events.c.id)))
    assert [len(payload) > 8000 for payload in payloads] == [False] * 8 + [True] * 2
    assert all(len(payload) < surplus.SHORT for payload in payloads[:8])
    first = msgspec.json.decode(payloads[0], type=UpdateEvent)
    assert first.error == ErrorReport(code="check.failed", message="no" * 100)
    assert (first.seq, first.phase, first.update, first.detail) == (1, Phase.FAILED, an_id(1), {"cut_bytes": 1009})
    assert Surplus(engine).remove("pi-1") == 0


def test_long_ones_that_come_again_are_known(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surplus, "MOST_CHARACTERS", 20_000)
    rollout = announced(engine)
    error = ErrorReport(code="check.failed", message="no", log_tail="x" * 4000)
    store = IntakeStore(engine)
    said = [event_in("pi-1", 1, Phase.FAILED, update=an_id(1), rollout=rollout, error=error)]
    said += [event_in("pi-1", 2, Phase.SUCCEEDED, update=an_id(2), rollout=rollout)]
    said += [event_in("pi-1", n, Phase.FAILED, update=an_id(n), rollout=None, error=error) for n in range(3, 11)]
    store.take_in([reported_in("pi-1"), *said], NOW)
    assert Surplus(engine).remove("pi-1")
    again = store.take_in(said, NOW)
    assert (again.repeated, again.stored, again.new_lives) == (10, [], {})
    with reading(engine) as connection:
        word = connection.execute(select(rollout_devices.c.phase, rollout_devices.c.life)).one()
    assert word == ("succeeded", 1)


def test_what_a_rollout_goes_by_stays(engine: Engine) -> None:
    rollout = announced(engine)
    ended = announced(engine, channel="beta")
    announced(engine, "3.0.0", channel="beta")
    store = IntakeStore(engine)
    store.take_in([reported_in("pi-1")], NOW)
    store.take_in([event_in("pi-1", 1, Phase.FETCHING, rollout=rollout)], NOW)
    store.take_in([event_in("pi-1", 2, Phase.SUCCEEDED, rollout=rollout)], NOW)
    store.take_in([event_in("pi-1", 3, Phase.SUCCEEDED, rollout=ended, update=an_id(3))], NOW)
    fail(engine, range(4, 204), rollout=None)
    assert Surplus(engine).remove("pi-1") == 152
    assert kept(engine) == [2, *range(154, 204)]
    with reading(engine) as connection:
        word = connection.execute(select(rollout_devices.c.phase, rollout_devices.c.seq).where()).all()
    assert ("succeeded", 2) in word


def test_what_a_device_said_of_the_channel_that_it_goes_to_stays(engine: Engine) -> None:
    IntakeStore(engine).take_in([reported_in("pi-1", channel="stable")], NOW)
    rollout = announced(engine, channel="beta")
    fail(engine, range(1, 2), rollout=rollout)
    fail(engine, range(2, 202), rollout=None)
    Surplus(engine).remove("pi-1")
    assert kept(engine) == [1, *range(152, 202)]
    # it counts as soon as the device says that it follows that channel
    outcome = IntakeStore(engine).take_in([reported_in("pi-1", 201, channel="beta")], NOW)
    assert set(outcome.rollouts) == {rollout}


def test_words_about_rollouts_that_never_were_go_with_the_events(engine: Engine) -> None:
    invent(engine, range(1, 201))
    assert words(engine) == 200
    Surplus(engine).remove("pi-1")
    assert words(engine) == MOST


def test_and_with_the_steps_that_are_old(engine: Engine) -> None:
    said = [event_in("pi-1", number, rollout=an_id(5000 + number)) for number in range(1, 11)]
    store = IntakeStore(engine)
    store.take_in([*said, event_in("pi-1", 11, Phase.FAILED, rollout=an_id(5010))], NOW - 100 * DAY)
    assert words(engine) == 10
    assert Pruner(engine).prune(90 * DAY, NOW).events == 10
    assert words(engine) == 1


def test_what_comes_again_of_what_is_kept_is_known(engine: Engine) -> None:
    fail(engine, range(1, 201), rollout=None)
    Surplus(engine).remove("pi-1")
    again = fail(engine, range(151, 201), rollout=None)
    assert (again.repeated, again.stored, again.new_lives) == (50, [], {})


class Heard(TooMuch):
    """Passes on what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: asyncio.Queue[Mapping[str, int]] = asyncio.Queue()

    def tell(self, removed: Mapping[str, int], now: float) -> None:
        super().tell(removed, now)
        self.removed.put_nowait(removed)

    async def next(self) -> Mapping[str, int]:
        return await asyncio.wait_for(self.removed.get(), WAIT_S)


async def test_it_is_done_soon_after_and_said_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.01)
    talkative, stop = Talkative(), asyncio.Event()
    too_much = Heard()
    bounding = asyncio.create_task(bound(Surplus(engine), talkative, too_much, stop))
    for first, removed in ((1, 50), (101, 100), (201, 100)):
        talkative.taken_in(fail(engine, range(first, first + 100), rollout=None))
        assert await too_much.next() == {"pi-1": removed}
    for number in range(1, 4):
        talkative.taken_in(fail(engine, range(number, number + 1), device="pi-2", rollout=None))
    stop.set()
    await asyncio.wait_for(bounding, WAIT_S)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "device pi-1 says so much that its oldest 50 events are cut or gone: the last 20000 are kept of each"
    ]


async def test_a_database_that_fails_ends_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.01)

    loop, failed = asyncio.get_running_loop(), asyncio.Event()

    def broken(self: Surplus, device: str) -> int:
        loop.call_soon_threadsafe(failed.set)
        raise OperatorError("disk.full", f"no room for {device}")

    talkative, stop, too_much = Talkative(), asyncio.Event(), Heard()
    bounding = asyncio.create_task(bound(Surplus(engine), talkative, too_much, stop))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Surplus, "remove", broken)
        talkative.taken_in(fail(engine, range(1, 101), rollout=None))
        await asyncio.wait_for(failed.wait(), WAIT_S)
    talkative.taken_in(fail(engine, range(101, 201), rollout=None))
    assert await too_much.next() == {"pi-1": 150}
    stop.set()
    await asyncio.wait_for(bounding, WAIT_S)
    assert "no room for pi-1" in caplog.text


async def test_the_end_is_not_put_off_however_many_there_are(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PAUSE_S", 0.01)
    loop, stop, looked_at = asyncio.get_running_loop(), asyncio.Event(), list[str]()

    def remove(self: Surplus, device: str) -> int:
        looked_at.append(device)
        loop.call_soon_threadsafe(stop.set)
        return 0

    monkeypatch.setattr(Surplus, "remove", remove)
    talkative = Talkative()
    for number in range(1, 4):
        talkative.taken_in(fail(engine, range(1, MOST + 1), device=f"pi-{number}", rollout=None))
    await asyncio.wait_for(bound(Surplus(engine), talkative, TooMuch(), stop), WAIT_S)
    assert looked_at == ["pi-1"]


def test_what_is_forgotten_of_a_device_is_told_again_only_after_hours(caplog: pytest.LogCaptureFixture) -> None:
    too_much = TooMuch()
    too_much.tell({"pi-1": 7, "pi-2": 0}, 0.0)
    too_much.tell({"pi-1": 5}, housekeeping.EVERY_S - 1)
    assert [record.args and record.args[:2] for record in caplog.records] == [("pi-1", 7)]  # type: ignore[index]
    too_much.tell({"pi-1": 1}, housekeeping.EVERY_S + 1)
    assert [record.args and record.args[:2] for record in caplog.records] == [("pi-1", 7), ("pi-1", 6)]  # type: ignore[index]
