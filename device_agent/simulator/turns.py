"""Has thousands of devices in one process act on a release a few at a time.

They all hear of it at once. If each decided before the first of them had said a word, whoever counts their words
would have nothing to do until then, and too much afterwards.
"""

import asyncio
from collections import deque
from typing import Final

from device_agent.decider import Decider
from schemas.messages import Announcement, Desired

AT_ONCE: Final = 32
"""Devices that begin in one turn of the event loop. Between two of them it reads and writes all connections."""


class Turns:
    """So many in each turn of the event loop, in the order in which they ask. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free = AT_ONCE
        self._renewing = False

    async def take(self) -> None:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        if not self._renewing:
            self._renewing = True
            loop.call_soon(self._renew, loop)
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._free = AT_ONCE
        while self._free and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._free -= 1
        self._renewing = self._free < AT_ONCE
        if self._renewing:
            loop.call_soon(self._renew, loop)


class InTurn:
    """A device's decisions: on announcements when it is its turn."""

    __slots__ = ("_decider", "_turns")

    def __init__(self, decider: Decider, turns: Turns) -> None:
        self._decider = decider
        self._turns = turns

    async def take_announcement(self, announcement: Announcement) -> None:
        """As `Decider.take_announcement`."""
        await self._turns.take()
        await self._decider.take_announcement(announcement)

    async def take_withdrawal(self, channel: str, package: str) -> None:
        """As `Decider.take_withdrawal`."""
        await self._decider.take_withdrawal(channel, package)

    async def take_desired(self, desired: Desired | None) -> None:
        """As `Decider.take_desired`."""
        await self._decider.take_desired(desired)
