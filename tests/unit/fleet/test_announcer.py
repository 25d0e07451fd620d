"""What the announcer sends on a connection, and when; with a broker it is in `tests/contract/test_intake.py`."""

import asyncio
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import Engine

from controller.announcer import Announcer
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.announcing import AnnouncementStore, TopicState
from schemas.codec import decode
from schemas.messages import Command, Verb
from schemas.topics import Topics
from tests.unit.fleet.builders import NOW, event_in
from transport import Link

BOUND_S = 20.0
TOOK = timedelta(minutes=1)


class SlowLink:
    """A connection on which a desired state takes a minute; `sent` are the verbs of commands."""

    def __init__(self) -> None:
        self.now = NOW
        self.sent: list[Verb] = []
        self.topics: list[tuple[str, bytes]] = []
        self.checked = asyncio.Event()

    def clock(self) -> datetime:
        return self.now

    async def publish(self, topic: str, payload: bytes, **_: object) -> None:
        self.topics.append((topic, payload))
        if topic.endswith("/desired"):
            self.now += TOOK
        elif topic.endswith("/commands"):
            self.sent.append(decode(payload, Command).verb)
            if self.sent[-1] is Verb.CHECK:
                self.checked.set()


async def test_a_command_that_expires_while_all_else_is_published_is_not_sent(engine: Engine) -> None:
    IntakeStore(engine).take_in([event_in("pi-1")], NOW)
    orders, link = OrderStore(engine), SlowLink()
    orders.set_desired("pi-1", hold=True, now=NOW)
    orders.send_command("pi-1", Verb.REPORT, expires_in=TOOK / 2, now=NOW)
    orders.send_command("pi-1", Verb.CHECK, expires_in=TOOK * 2, now=NOW)
    said: list[tuple[str, bytes]] = []
    announcer = Announcer(
        Topics(),
        AnnouncementStore(engine),
        orders,
        on_said=lambda topic, payload: said.append((topic, payload)),
        clock=link.clock,
    )
    running = asyncio.create_task(announcer.run(cast("Link", link)))
    async with asyncio.timeout(BOUND_S):
        await link.checked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert link.sent == [Verb.CHECK]
    assert said == [one for one in link.topics if one[0].endswith("/desired")] != []


class Meanwhile(AnnouncementStore):
    """A command to pi-1 is given right after the first look at the announcements."""

    def __init__(self, engine: Engine, orders: OrderStore) -> None:
        super().__init__(engine)
        self._orders = orders
        self.looks = 0

    def topics(self, *, changed_only: bool) -> list[TopicState]:
        found = super().topics(changed_only=changed_only)
        self.looks += 1
        if self.looks == 1:
            self._orders.send_command("pi-1", Verb.CHECK, expires_in=TOOK, now=NOW)
        return found


class CountingLink(SlowLink):
    """How many looks at the announcements there were when each command was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.announcements: Meanwhile | None = None
        self.after_looks: list[int] = []

    async def publish(self, topic: str, payload: bytes, **details: object) -> None:
        assert self.announcements is not None
        self.after_looks.append(self.announcements.looks)
        await super().publish(topic, payload, **details)


async def test_what_was_announced_before_a_command_is_sent_before_it(engine: Engine) -> None:
    """`resume` and then `retry`: a device that hears of the retry first takes the rollout for a stopped one."""
    IntakeStore(engine).take_in([event_in("pi-1")], NOW)
    orders, link = OrderStore(engine), CountingLink()
    orders.send_command("pi-1", Verb.REPORT, expires_in=TOOK, now=NOW)
    link.announcements = Meanwhile(engine, orders)
    announcer = Announcer(Topics(), link.announcements, orders, clock=link.clock)
    running = asyncio.create_task(announcer.run(cast("Link", link)))
    async with asyncio.timeout(BOUND_S):
        await link.checked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (link.sent, link.after_looks) == ([Verb.REPORT, Verb.CHECK], [1, 2])
