"""Takes messages in: decodes each once, has it decided on, and acknowledges it when that is durable.

The broker keeps what is said while the device is away, and gives all of it, in order, when it comes back. Acted
on one by one, it would begin releases that were halted or replaced long ago. So each connection begins with
taking in all that has piled up, commands last, and of what was said about one release only the last counts, as of what
comes at once later on.

A message that is not understood, or that shows a defect, costs one log line and is acknowledged, or the
broker would send it for ever. One that could not be written down (a full disk) is not: it is tried again, with
growing waits.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from device_agent.logs import line, logger
from device_agent.reports import defect
from schemas.codec import decode, decode_retained
from schemas.errors import ContractError, FlotillaError
from schemas.messages import Announcement, Command, Desired
from schemas.topics import DeviceTopic, ReleaseTopic, Topics
from transport import Message

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
QUIET_S: Final = 0.2
"""Nothing came for so long: that was all. What had piled up is here already, because the broker sends it before it
answers the first subscription, which was waited for; what is retained comes right after."""
PILE_S: Final = 5.0
"""Bound on it all; what comes later is taken one by one."""
_BATCH: Final = 100
_REFUSALS_KNOWN: Final = 256
"""Topics of which what was refused last is known, so that it is said once."""


class Link(Protocol):
    """The part of the connection that this needs."""

    async def batch(self, limit: int) -> list[Message]:
        """Wait for a message, then take all that are there, up to `limit`. Loses none when it is cancelled."""
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
        take_command: Callable[[Command, int | None], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._topics = topics
        self._device = device
        self._decisions = decisions
        self._take_command = take_command
        self._sleep = sleep
        self._quiet_s = quiet_s
        self._refused: dict[str, int] = {}

    async def run(self, link: Link) -> None:
        """Take in what has piled up, then what comes over the link, in order, until it is lost."""
        messages = await self._pile(link)
        while True:
            for message in messages:
                await self._take_in(link, message)
            messages, again = self._once(await link.batch(_BATCH))
            await _acknowledge(link, again)

    async def _pile(self, link: Link) -> list[Message]:
        """What the broker has kept and what is retained, in order, commands last; of each release the last message."""
        pile: list[Message] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PILE_S):
                while True:
                    async with asyncio.timeout(self._quiet_s):
                        pile += await link.batch(_BATCH)
                    pile, outdated = self._newest(pile)
                    # at once, as the broker sends only so many that are not acknowledged
                    await _acknowledge(link, outdated)
        # a retry that waited here counts for what is true of its rollout now, which the broker says after it
        return sorted(pile, key=lambda message: self._is_command(message.topic))

    def _newest(self, messages: list[Message]) -> tuple[list[Message], list[Message]]:
        """Without, and only, those that a later one on the same release's topic has made void."""
        if len(messages) == 1:
            return messages, []
        last = {message.topic: place for place, message in enumerate(messages)}
        counts: list[Message] = []
        outdated: list[Message] = []
        for place, message in enumerate(messages):
            void = place < last[message.topic] and self._is_release(message.topic)
            (outdated if void else counts).append(message)
        return counts, outdated

    def _once(self, messages: list[Message]) -> tuple[list[Message], list[Message]]:
        """Without, and only, announcements that come again: those of a package that is subscribed to in two ways."""
        if len(messages) == 1:
            return messages, []
        seen: set[tuple[str, bytes]] = set()
        first: list[Message] = []
        again: list[Message] = []
        for message in messages:
            known = (message.topic, message.payload) in seen and self._is_release(message.topic)
            (again if known else first).append(message)
            seen.add((message.topic, message.payload))
        return first, again

    def _is_release(self, topic: str) -> bool:
        return isinstance(self._parsed(topic), ReleaseTopic)

    def _is_command(self, topic: str) -> bool:
        return self._parsed(topic) == DeviceTopic(self._device, "commands")

    def _parsed(self, topic: str) -> object:
        try:
            return self._topics.parse(topic)
        except FlotillaError:
            return None

    async def _take_in(self, link: Link, message: Message) -> None:
        wait_s = FIRST_WAIT_S
        while not await self._taken(message):
            await self._sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        await link.acknowledge(message)

    async def _taken(self, message: Message) -> bool:
        try:
            await self._take(message)
        except FlotillaError as error:
            if error.code.startswith("disk."):
                logger().warning(line("not kept", error, topic=message.topic, code=error.code))
                return False
            if self._is_new(message):
                logger().warning(line("refused", error, topic=message.topic, code=error.code))
            return True
        except Exception as error:  # noqa: BLE001  # the same message would end the agent at every connection, for ever
            why = defect(error)
            logger().error(line("refused", why, topic=message.topic, code=why.code))
            return True
        self._refused.pop(message.topic, None)
        return True

    def _is_new(self, refused: Message) -> bool:
        """Whether it is not what was refused last on its topic.

        A package that is subscribed to by its name and with all others comes twice, and what is retained comes with
        every connection.
        """
        seen = self._refused.pop(refused.topic, None)
        self._refused[refused.topic] = hash(refused.payload)
        if len(self._refused) > _REFUSALS_KNOWN:
            del self._refused[next(iter(self._refused))]
        return seen != self._refused[refused.topic]

    async def _take(self, message: Message) -> None:
        payload = message.payload
        match self._topics.parse(message.topic):
            case ReleaseTopic(channel, package):
                await self._release(channel, package, decode_retained(payload, Announcement))
            case DeviceTopic(self._device, "desired"):
                await self._decisions.take_desired(decode_retained(payload, Desired))
            case DeviceTopic(self._device, "commands"):
                await self._take_command(decode(payload, Command), message.expiry_s)
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


async def _acknowledge(link: Link, messages: Iterable[Message]) -> None:
    for message in messages:
        await link.acknowledge(message)
