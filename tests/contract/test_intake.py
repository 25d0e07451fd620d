"""Intake, announcing and orders against a real broker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError

from controller.database import reading, utc_now
from controller.fleet.feed import ConnectionChanged, EventTaken, Item, PresenceChanged, RolloutChanged
from controller.fleet.incoming import INTAKE_KINDS, Incoming, Reader
from controller.fleet.intake import Intake
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.service import FleetService
from controller.fleet.tables import events
from controller.rollouts.plan import RolloutState, Verdict
from schemas.codec import MAX_PAYLOAD, decode, encode
from schemas.messages import Announcement, Command, Desired, Phase, Presence, ReleaseState, Verb
from schemas.topics import Topics
from tests.support.broker import Broker, ProductionBroker
from tests.support.database import opened
from tests.support.links import settings, take, until
from tests.unit.fleet.builders import event, installed, presence, reported
from tests.unit.fleet.serving import make_service, serving
from transport import Link, connect

pytestmark = [pytest.mark.broker, pytest.mark.wire]

BOUND_S = 20.0
REPOSITORY = ["http://127.0.0.1:8420/repo"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = opened(tmp_path / "flotilla.db")
    yield made
    made.dispose()


@dataclass(frozen=True)
class World:
    """A database and a broker, with an id and topics of this test's own."""

    engine: Engine
    broker: Broker
    topics: Topics
    client: str

    def service(self) -> FleetService:
        """A controller of this world; another one is the same controller started again."""
        return make_service(self.engine, self.broker.url, self.topics.root, self.client)


@pytest.fixture
def world(engine: Engine, broker: Broker, topic_root: str, unique: Callable[[str], str]) -> World:
    return World(engine, broker, Topics(topic_root), unique("controller"))


class Dying(IntakeStore):
    """The process ends before the commit."""

    def take_in(self, batch: Sequence[Incoming], now: datetime) -> Outcome:
        raise SystemError(f"killed before the commit of {len(batch)} at {now}")


class Locked(IntakeStore):
    """The disk is full three times."""

    attempts = 0

    def take_in(self, batch: Sequence[Incoming], now: datetime) -> Outcome:
        self.attempts += 1
        if self.attempts < 4:
            raise OperationalError("INSERT", {}, Exception("database or disk is full"))
        return super().take_in(batch, now)


@asynccontextmanager
async def a_device(broker: Broker, name: str) -> AsyncIterator[Link]:
    async with connect(settings(broker.url, name)) as link:
        yield link


async def say(link: Link, topics: Topics, device: str, *seqs: int, phase: Phase = Phase.ACCEPTED) -> None:
    await asyncio.gather(
        *(link.publish(topics.device(device, "events"), encode(event(device, seq, phase))) for seq in seqs)
    )


def seqs(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        return sorted(connection.scalars(select(events.c.seq)))


def count(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(events)) or 0


async def seen(watcher: AsyncIterator[Item], wanted: Callable[[Item], bool]) -> Item:
    async with asyncio.timeout(BOUND_S):
        async for item in watcher:
            if wanted(item):
                return item
    raise AssertionError("the feed ended")


async def test_what_a_device_says_is_in_the_database_and_in_the_feed(
    world: World, unique: Callable[[str], str]
) -> None:
    service, broker, topics = world.service(), world.broker, world.topics
    pi = unique("pi")
    async with serving(service), a_device(broker, pi) as link:
        with service.feed.watch() as watcher:
            changes = aiter(watcher)
            await link.publish(topics.device(pi, "status"), encode(presence(pi)), retain=True)
            await link.publish(topics.device(pi, "reported"), encode(reported(pi, seq=1)), retain=True)
            await say(link, topics, pi, 1)
            found = [await seen(changes, lambda _: True) for _ in range(3)]
            assert [one.presence for one in found if isinstance(one, PresenceChanged)] == [presence(pi)]
            assert [one.event for one in found if isinstance(one, EventTaken)] == [event(pi)]
        await until(lambda: service.registry.device(pi).seq == 1)
        device = service.registry.device(pi)
        assert (device.online, device.channel, device.missing) == (True, "stable", 0)


async def test_events_that_came_while_no_controller_was_there_are_taken_in_afterwards(world: World) -> None:
    engine, broker, topics, client = world.engine, world.broker, world.topics, world.client
    async with serving(world.service()):
        pass
    async with a_device(broker, f"{client}-pi") as link:
        await say(link, topics, "pi-1", *range(1, 301))
    async with serving(world.service()):
        await until(lambda: count(engine) == 300)
    assert seqs(engine) == list(range(1, 301))


async def test_what_was_not_committed_comes_again_and_what_was_is_not_stored_twice(world: World) -> None:
    """The controller dies before the commit of one batch, and then after that of another, before its PUBACKs."""
    engine, broker, topics, client = world.engine, world.broker, world.topics, world.client

    subscriptions = [topics.every_device(kind) for kind in INTAKE_KINDS]
    async with connect(settings(broker.url, client)) as link, a_device(broker, f"{client}-pi") as device:
        await link.subscribe(subscriptions)
        await say(device, topics, "pi-1", 1, 2, 3)
        with pytest.raises(SystemError):
            await Intake(Dying(engine), Reader(topics), lambda _: None).run(link)
    assert seqs(engine) == []

    outcomes: list[Outcome] = []
    async with connect(settings(broker.url, client)) as link:
        assert link.session_present
        messages = await take(link, 3, acknowledge=False)
        await Intake(IntakeStore(engine), Reader(topics), outcomes.append).take_in(messages)
    assert seqs(engine) == [1, 2, 3]

    async with connect(settings(broker.url, client)) as link, a_device(broker, f"{client}-pi") as device:
        intake = Intake(IntakeStore(engine), Reader(topics), outcomes.append)
        running = asyncio.create_task(intake.run(link))
        await say(device, topics, "pi-1", 4)
        await until(lambda: seqs(engine) == [1, 2, 3, 4])
        running.cancel()
        await asyncio.wait([running])
    assert sum(outcome.repeated for outcome in outcomes) == 3
    assert sum(len(outcome.stored) for outcome in outcomes) == 4


async def test_what_was_acknowledged_does_not_come_again(world: World) -> None:
    engine, broker, topics, client = world.engine, world.broker, world.topics, world.client
    outcomes: list[Outcome] = []
    async with connect(settings(broker.url, client)) as link, a_device(broker, f"{client}-pi") as device:
        await link.subscribe([topics.every_device("events")])
        await say(device, topics, "pi-1", 1, 2)
        running = asyncio.create_task(Intake(IntakeStore(engine), Reader(topics), outcomes.append).run(link))
        await until(lambda: seqs(engine) == [1, 2])
        # Messages come in order and are acknowledged in order: when a later batch is in, the earlier is done.
        await say(device, topics, "pi-1", 3)
        await until(lambda: seqs(engine) == [1, 2, 3])
        running.cancel()
        await asyncio.wait([running])
    async with connect(settings(broker.url, client)) as link, a_device(broker, f"{client}-pi") as device:
        await say(device, topics, "pi-1", 9)
        messages = await take(link, 1)
        assert b'"seq":9' in messages[0].payload or b'"seq":3' in messages[0].payload


async def test_a_database_that_is_locked_holds_acknowledgements_back_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, broker, topics, client = world.engine, world.broker, world.topics, world.client
    monkeypatch.setattr("controller.fleet.patience._FIRST_WAIT_S", 0.01)
    locked = Locked(engine)
    async with connect(settings(broker.url, client)) as link, a_device(broker, f"{client}-pi") as device:
        await link.subscribe([topics.every_device("events")])
        running = asyncio.create_task(Intake(locked, Reader(topics), lambda _: None).run(link))
        await say(device, topics, "pi-1", 1)
        await until(lambda: seqs(engine) == [1])
        running.cancel()
        await asyncio.wait([running])
    assert locked.attempts == 4


async def test_bad_payloads_are_refused_with_one_line_and_hold_up_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    service, engine, broker, topics, client = world.service(), world.engine, world.broker, world.topics, world.client
    events_topic = topics.device("pi-1", "events")
    async with serving(service), a_device(broker, f"{client}-pi") as link:
        for payload in (b"not json", b"", b'{"schema":9}', b"[" * 50_000, b" " * (MAX_PAYLOAD + 1)):
            await link.publish(events_topic, payload)
        await link.publish(events_topic, encode(event("pi-2")))
        for _ in range(50):
            await link.publish(events_topic, b"not json")
        await link.publish(topics.device("pi-1", "status"), b"{}")
        await link.publish(f"{topics.root}/devices/PI/events", encode(event("pi-1")))
        await say(link, topics, "pi-1", 1)
        await until(lambda: count(engine) == 1)
        assert service.status().refused == {
            "message.json": 54,
            "message.schema": 1,
            "message.size": 1,
            "message.topic": 2,
        }
    lines = [record.getMessage() for record in caplog.records if "refused a message" in record.getMessage()]
    assert len(lines) == 6
    assert not any("\n" in line for line in lines)
    assert not any(record.exc_info for record in caplog.records)


async def test_a_gap_makes_the_controller_ask_for_replay(world: World, unique: Callable[[str], str]) -> None:
    service, broker, topics = world.service(), world.broker, world.topics
    pi = unique("pi")
    async with serving(service), a_device(broker, pi) as link:
        await link.subscribe([topics.device(pi, "commands")])
        await say(link, topics, pi, 1, 2, 5)
        (message,) = await take(link, 1)
        command = decode(message.payload, Command)
        assert (command.verb, command.args) == (Verb.REPLAY, {"after_seq": 2})
        assert message.expiry_s is not None
        await say(link, topics, pi, 3, 4, 5)
        await until(lambda: service.registry.device(pi).seq == 5)
        assert service.registry.device(pi).missing == 0
        await until(lambda: service.status().incomplete_devices == 0)


async def test_a_controller_that_was_down_asks_by_what_devices_had_reported(
    world: World, unique: Callable[[str], str]
) -> None:
    service, broker, topics = world.service(), world.broker, world.topics
    pi = unique("pi")
    async with a_device(broker, pi) as link:
        await link.subscribe([topics.device(pi, "commands")])
        await link.publish(topics.device(pi, "reported"), encode(reported(pi, seq=7)), retain=True)
        async with serving(service):
            (message,) = await take(link, 1)
            assert decode(message.payload, Command).args == {"after_seq": 0}


async def test_a_release_is_announced_completed_and_withdrawn(world: World, unique: Callable[[str], str]) -> None:
    service, broker, topics = world.service(), world.broker, world.topics
    pi = unique("pi")
    async with serving(service), a_device(broker, pi) as link:
        await link.publish(topics.device(pi, "reported"), encode(reported(pi)), retain=True)
        await until(lambda: [one.id for one in service.registry.devices()] == [pi])
        await link.subscribe([topics.releases_of("stable")])
        rollout = await asyncio.to_thread(
            lambda: service.steering.create_release(
                package="tacho", version="2.0.0", channel="stable", repository=REPOSITORY
            )
        )
        (message,) = await take(link, 1)
        announced = decode(message.payload, Announcement)
        assert (announced.rollout, announced.state, announced.revision) == (rollout.id, ReleaseState.ACTIVE, 1)
        assert rollout.verdicts == {Verdict.PENDING: 1}
        with service.feed.watch() as watcher:
            done = event(pi, 1, Phase.SUCCEEDED, rollout=rollout.id)
            await link.publish(topics.device(pi, "events"), encode(done))
            runs = reported(pi, 1, packages={"tacho": installed("2.0.0", rollout=rollout.id)})
            await link.publish(topics.device(pi, "reported"), encode(runs), retain=True)
            change = await seen(
                aiter(watcher), lambda item: isinstance(item, RolloutChanged) and item.rollout.revision == 2
            )
        assert isinstance(change, RolloutChanged)
        assert change.rollout.state is RolloutState.COMPLETE
        (message,) = await take(link, 1)
        assert decode(message.payload, Announcement).state is ReleaseState.COMPLETE
        assert [one.id for one in service.announced("tacho", "2.0.0")] == [rollout.id]
        await asyncio.to_thread(service.steering.withdraw, "stable", "tacho")
        (message,) = await take(link, 1)
        assert message.payload == b""
        assert service.announced("tacho", "2.0.0") == []


async def test_announcements_and_desired_are_there_again_after_the_broker_lost_them(
    engine: Engine, make_broker: Callable[[], Broker]
) -> None:
    topics = Topics()
    first, second = make_broker(), make_broker()
    IntakeStore(engine).take_in([Reader(topics).read(topics.device("pi-1", "events"), encode(event()))], utc_now())
    before = make_service(engine, first.url, topics.root, "controller")
    async with serving(before):
        await asyncio.to_thread(
            lambda: before.steering.create_release(
                package="tacho", version="2.0.0", channel="stable", repository=REPOSITORY
            )
        )
        await asyncio.to_thread(lambda: before.steering.change_desired("pi-1", lambda _: Desired(rev=0, hold=True)))
        async with connect(settings(first.url, "watcher")) as link:
            await link.subscribe([topics.releases_of("stable"), topics.device("pi-1", "desired")])
            await take(link, 2)
    async with connect(settings(second.url, "watcher")) as link:
        await link.subscribe([topics.releases_of("stable"), topics.device("pi-1", "desired")])
        async with serving(make_service(engine, second.url, topics.root, "controller")):
            kinds = {message.topic: message.payload for message in await take(link, 2)}
    assert decode(kinds[topics.release("stable", "tacho")], Announcement).version == "2.0.0"
    assert decode(kinds[topics.device("pi-1", "desired")], Desired) == Desired(rev=1, hold=True)


async def test_whoever_watches_hears_that_the_broker_went_and_that_it_is_there_again(
    engine: Engine, make_broker: Callable[[], Broker]
) -> None:
    broker = make_broker()
    service = make_service(engine, broker.url, Topics().root, "controller")
    with service.feed.watch() as watcher:
        changes = aiter(watcher)
        async with serving(service):
            assert await seen(changes, lambda item: isinstance(item, ConnectionChanged)) == ConnectionChanged(None)
            await asyncio.to_thread(broker.kill)
            gone = await seen(changes, lambda item: isinstance(item, ConnectionChanged))
            assert isinstance(gone, ConnectionChanged)
            assert gone.away
            await asyncio.to_thread(broker.start)
            back = ConnectionChanged(None)
            assert await seen(changes, lambda item: item == back) == back


async def test_commands_wait_for_the_connection_and_are_sent_once(world: World, unique: Callable[[str], str]) -> None:
    service, engine, broker, topics = world.service(), world.engine, world.broker, world.topics
    pi = unique("pi")
    IntakeStore(engine).take_in([Reader(topics).read(topics.device(pi, "events"), encode(event(pi)))], utc_now())
    waiting = service.steering.send_command(pi, Verb.RETRY, {"package": "tacho"})
    async with a_device(broker, pi) as link:
        await link.subscribe([topics.device(pi, "commands")])
        async with serving(service):
            (message,) = await take(link, 1)
            assert decode(message.payload, Command).id == waiting.id
            assert message.expiry_s is not None
            assert 3500 < message.expiry_s <= 3600
            assert not message.retain
            later = await asyncio.to_thread(service.steering.send_command, pi, Verb.REPORT)
            (message,) = await take(link, 1)
            assert decode(message.payload, Command).id == later.id
            await until(lambda: all(one.sent_at for one in service.orders.commands(pi)))


async def test_the_controllers_presence_comes_goes_and_counts_its_sessions(world: World) -> None:
    broker, topics, client = world.broker, world.topics, world.client
    async with connect(settings(broker.url, f"{client}-watcher")) as link:
        await link.subscribe([topics.controller_status()])
        async with serving(world.service()):
            pass
        async with serving(world.service()):
            pass
        said = [decode(message.payload, Presence) for message in await take(link, 4)]
    assert [(one.online, one.session) for one in said] == [(True, 1), (False, 1), (True, 2), (False, 2)]
    assert {one.device for one in said} == {"controller"}


async def test_a_lost_link_is_made_again_and_status_says_so(engine: Engine, make_broker: Callable[[], Broker]) -> None:
    topics = Topics()
    broker = make_broker()
    service = make_service(engine, broker.url, topics.root, "controller")
    async with serving(service):
        broker.kill()
        await until(lambda: not service.connected and service.status().error is not None)
        broker.start()
        await until(lambda: service.connected)
        assert service.status().error is None
        async with a_device(broker, "pi-1") as link:
            await say(link, topics, "pi-1", 1)
            await until(lambda: count(engine) == 1)


async def test_the_production_brokers_rules_let_the_controller_and_its_devices_do_their_work(
    engine: Engine, production_broker: ProductionBroker
) -> None:
    topics = Topics()
    service = FleetService(engine, production_broker.settings("controller"), topics, version="1.0.0")
    async with serving(service), connect(production_broker.settings("dev-a")) as link:
        await link.subscribe([topics.device("dev-a", kind) for kind in ("desired", "commands")])
        await link.subscribe([topics.release("intake-test", "tacho")])
        await link.publish(topics.device("dev-a", "reported"), encode(reported("dev-a", 1)), retain=True)
        await say(link, topics, "dev-a", 1)
        await until(lambda: count(engine) == 1)
        await asyncio.to_thread(lambda: service.steering.change_desired("dev-a", lambda _: Desired(rev=0, hold=True)))
        await asyncio.to_thread(service.steering.send_command, "dev-a", Verb.REPORT)
        await asyncio.to_thread(
            lambda: service.steering.create_release(
                package="tacho", version="2.0.0", channel="intake-test", repository=REPOSITORY
            )
        )
        kinds = sorted(message.topic.rpartition("/")[2] for message in await take(link, 3))
        assert kinds == ["commands", "desired", "tacho"]
        await asyncio.to_thread(service.steering.withdraw, "intake-test", "tacho")
        (tombstone,) = await take(link, 1)
        assert tombstone.payload == b""
        await link.publish(topics.device("dev-a", "reported"), b"", retain=True)
    # other tests share the broker: neither what dev-a was told nor the controller's session is left there
    async with connect(production_broker.settings("controller", clean_start=True)) as link:
        await link.publish(topics.device("dev-a", "desired"), b"", retain=True)
