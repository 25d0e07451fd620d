"""The controller's own presence: retained, with a last will, and a session number that grows for ever."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from controller.announcer import publish
from controller.fleet.orders import OrderStore
from controller.fleet.patience import patiently
from schemas.codec import encode
from schemas.messages import Presence
from schemas.topics import Topics
from transport import Link, TransportError, Will

DEVICE: Final = "controller"
_GOODBYE_S: Final = 2.0


class ControllerSession:
    """Says that the controller is there as long as it is.

    Args:
        topics: builds the topic.
        orders: counts the sessions.
        version: the controller's own.
        clock: the time of day.

    Attributes:
        run: which process this is; another word with each start.
    """

    def __init__(self, topics: Topics, orders: OrderStore, *, version: str, clock: Callable[[], datetime]) -> None:
        self._topic = topics.controller_status()
        self._orders = orders
        self._version = version
        self._clock = clock
        self.run = uuid.uuid4().hex
        self._number = 0

    async def will(self) -> Will:
        """The last will of the next connection; counts it."""
        self._number = await patiently(self._orders.next_session, doing="connecting")
        return Will(topic=self._topic, payload=self._presence(online=False))

    @asynccontextmanager
    async def present(self, link: Link) -> AsyncIterator[None]:
        """Online in the block; offline after it, said by ourselves where the link still allows it."""
        await publish(link, self._topic, self._presence(online=True), retain=True)
        try:
            yield
        finally:
            with contextlib.suppress(TransportError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    if await publish(link, self._topic, self._presence(online=False), retain=True):
                        link.withdraw_will()

    def is_greeting(self, presence: Presence) -> bool:
        """Whether this is what is said at the beginning of the present connection."""
        return presence.online and (presence.boot_id, presence.session) == (self.run, self._number)

    def _presence(self, *, online: bool) -> bytes:
        return encode(
            Presence(
                device=DEVICE,
                online=online,
                session=self._number,
                boot_id=self.run,
                agent_version=self._version,
                at=self._clock(),
            )
        )
