"""Somebody at the broker who says whatever a test wants, and looks at what is retained."""

import asyncio
import uuid

from tests.support.links import settings, take_until
from transport import connect


def say(url: str, topic: str, payload: bytes, *, retain: bool = True) -> None:
    """Publish any bytes; returns when the broker has them. Raises as `Link.publish`."""

    async def publish() -> None:
        async with connect(settings(url, _stranger(), clean_start=True, session_expiry_s=0)) as link:
            await link.publish(topic, payload, retain=retain)

    asyncio.run(publish())


def retained(url: str, *filters: str) -> dict[str, bytes]:
    """Topic to payload of what the broker keeps on these topics."""

    async def collect() -> dict[str, bytes]:
        me = _stranger()
        async with connect(settings(url, me, clean_start=True, session_expiry_s=0)) as link:
            await link.subscribe([*filters, me])
            # the broker sends what it keeps before anything that is published later
            await link.publish(me, b"all")
            return {message.topic: message.payload for message in await take_until(link, me, b"all")}

    return asyncio.run(collect())


def _stranger() -> str:
    return f"stranger-{uuid.uuid4().hex[:8]}"
