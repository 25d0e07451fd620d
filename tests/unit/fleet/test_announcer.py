"""What the announcer sends on a connection, and when; with a broker it is in `tests/contract/test_intake.py`."""

import asyncio
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import Engine

from controller.announcer import Announcer
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.announcing import AnnouncementStore
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
