"""Takes messages in: decodes each once, has it decided on, and acknowledges it when that is durable.

A message that is not understood costs one log line and is acknowledged, or the broker would send it for
ever. One that could not be written down (a full disk) is not: it is tried again, with growing waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from device_agent.logs import line, logger
from schemas.codec import decode, decode_retained
from schemas.errors import ContractError, FlotillaError
from schemas.messages import Announcement, Command, Desired
from schemas.topics import DeviceTopic, ReleaseTopic, Topics
from transport import Message

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0


class Link(Protocol):
    """The part of the connection that this needs."""

    def messages(self) -> AsyncIterator[Message]:
        """Messages as they come."""
        ...

    async def acknowledge(self, message: Message) -> None:
        """It need not come again."""
        ...


class Decisions(Protocol):
    """What is done about releases and about what is desired; durable when it returns."""

    async def take_announcement(self, announcement: Announcement) -> None:
        """A release was announced."""
        ...

    async def take_withdrawal(self, channel: str, package: str) -> None:
        """An announcement was cleared."""
        ...

    async def take_desired(self, desired: Desired | None) -> None:
        """What this one device is told."""
        ...


class Inbox:
    """See the module."""

    def __init__(
        self,
        *,
        topics: Topics,
        device: str,
        decisions: Decisions,
        take_command: Callable[[Command], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._topics = topics
        self._device = device
        self._decisions = decisions
        self._take_command = take_command
        self._sleep = sleep

    async def run(self, link: Link) -> None:
        """Take in what comes over the link, in order, until it is lost."""
        async for message in link.messages():
            wait_s = FIRST_WAIT_S
            while not await self._taken(message):
                await self._sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            await link.acknowledge(message)

    async def _taken(self, message: Message) -> bool:
        try:
            await self._take(message.topic, message.payload)
        except FlotillaError as error:
            not_kept = error.code.startswith("disk.")
            logger().warning(line("not kept" if not_kept else "refused", error, topic=message.topic, code=error.code))
            return not not_kept
        return True

    async def _take(self, topic: str, payload: bytes) -> None:
        match self._topics.parse(topic):
            case ReleaseTopic(channel, package):
                await self._release(channel, package, decode_retained(payload, Announcement))
            case DeviceTopic(self._device, "desired"):
                await self._decisions.take_desired(decode_retained(payload, Desired))
            case DeviceTopic(self._device, "commands"):
                await self._take_command(decode(payload, Command))
            case _:
                raise ContractError("message.topic", "this device did not ask for messages on that topic")

    async def _release(self, channel: str, package: str, announcement: Announcement | None) -> None:
        if announcement is None:
            await self._decisions.take_withdrawal(channel, package)
        elif (announcement.channel, announcement.package) != (channel, package):
            raise ContractError(
                "message.topic",
                f"announces {announcement.package} on {announcement.channel}, which is not what the topic says",
            )
        else:
            await self._decisions.take_announcement(announcement)
