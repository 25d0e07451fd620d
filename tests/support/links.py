"""Small steps that tests of the link share."""

import asyncio
from collections.abc import Callable
from typing import Any

from transport import Link, LinkSettings, Message

BOUND_S = 20.0


def settings(url: str, client_id: str, **changes: Any) -> LinkSettings:
    """Settings whose session outlives the connection."""
    values: dict[str, Any] = {"url": url, "client_id": client_id, "session_expiry_s": 300}
    return LinkSettings(**(values | changes))


async def take(link: Link, count: int, *, acknowledge: bool = True, bound_s: float = BOUND_S) -> list[Message]:
    """The next `count` messages, in the order they come."""
    taken: list[Message] = []
    async with asyncio.timeout(bound_s):
        while len(taken) < count:
            for message in await link.batch(count - len(taken)):
                if acknowledge:
                    await link.acknowledge(message)
                taken.append(message)
    return taken


async def take_until(link: Link, topic: str, payload: bytes) -> list[Message]:
    """All messages up to the one with this topic and payload; that one isn't among them.

    A broker delivers to one subscriber in order, so whoever publishes a last message and sees it come
    knows that everything before it has come or never will.
    """
    taken: list[Message] = []
    while True:
        (message,) = await take(link, 1)
        if message.topic == topic and message.payload == payload:
            return taken
        taken.append(message)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, within bounds."""
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - the condition may be anything, in any process
            await asyncio.sleep(0.01)
