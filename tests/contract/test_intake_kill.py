"""A controller process that is killed while events come in: each of them is in the database exactly once."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from controller.database import open_database, reading, sqlite_url
from controller.fleet.tables import devices, events
from schemas.codec import encode
from schemas.messages import Phase
from schemas.topics import Topics
from tests.support.broker import Broker
from tests.support.links import settings, until
from tests.unit.fleet.builders import an_id, event
from transport import connect

pytestmark = [pytest.mark.broker, pytest.mark.wire]

DEVICES = [f"pi-{number}" for number in range(5)]
EVENTS = 200
KILLS = 3
PART = EVENTS // (KILLS + 1)


@asynccontextmanager
async def a_controller(database: Path, *arguments: str) -> AsyncIterator[Process]:
    command = [sys.executable, "-m", "tests.unit.fleet.serving", str(database), *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def stored(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(events)) or 0


async def test_events_are_stored_once_each_however_often_the_controller_is_killed(
    broker: Broker, topic_root: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    database, topics, client = tmp_path / "flotilla.db", Topics(topic_root), unique("controller")
    engine = open_database(sqlite_url(database))
    paces = [asyncio.Event() for _ in range(KILLS)]

    async def tell(device: str) -> None:
        async with connect(settings(broker.url, unique(device))) as link:
            for seq in range(1, EVENTS + 1):
                # A part at once, and one more for each controller that follows: every one has something to do.
                if seq % PART == 0 and seq < EVENTS:
                    await paces[seq // PART - 1].wait()
                payload = encode(event(device, seq, Phase.FETCHING, update=an_id(DEVICES.index(device))))
                await link.publish(topics.device(device, "events"), payload)

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        async with a_controller(database, broker.url, topic_root, client):
            # The broker keeps events for the controller from its first subscription on.
            async with connect(settings(broker.url, unique("probe"))) as probe:
                await probe.publish(topics.device("probe", "events"), encode(event("probe")))
                while stored(engine) == 0:
                    await asyncio.sleep(0.2)
                    await probe.publish(topics.device("probe", "events"), encode(event("probe")))
            telling = [group.create_task(tell(device)) for device in DEVICES]
            await until(lambda: stored(engine) > 50)
        for number in range(KILLS - 1):
            goal = stored(engine) + 80
            async with a_controller(database, broker.url, topic_root, client):
                paces[number].set()
                await until(lambda goal=goal: stored(engine) >= goal)  # type: ignore[misc]  # bound at once
        async with a_controller(database, broker.url, topic_root, client):
            paces[-1].set()
            await asyncio.wait(telling)
            await until(lambda: stored(engine) == len(DEVICES) * EVENTS + 1)
    with reading(engine) as connection:
        for device in DEVICES:
            numbers = list(connection.scalars(select(events.c.seq).where(events.c.device == device)))
            assert sorted(numbers) == list(range(1, EVENTS + 1))
        row = connection.execute(select(devices).where(devices.c.id == DEVICES[0])).mappings().one()
        assert (row["highest"], row["missing"], row["life"]) == (EVENTS, None, 1)
    engine.dispose()
