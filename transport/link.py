"""One MQTT 5 connection: publish, subscribe, take messages in, acknowledge them. No router, no codec."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final

from transport.channel import Channel, Message
from transport.errors import LinkLost, LinkTimeout, PublishRefused, TransportError
from transport.properties import packed

__all__ = ["Link"]

_TOO_LARGE: Final = 0x95
_MAX_PACKET: Final = 268_435_455 + 5  # MQTT 5, 2.1.4
_HEADER_BYTES: Final = 64  # fixed header, packet id, property lengths and identifiers of one PUBLISH
_GOODBYE_S: Final = 2.0


class Link:
    """An established connection, made by `connect`; good for one event loop.

    Attributes:
        session_present: the broker still had our session: subscriptions and queued messages go on.
        session_expiry_s: seconds the broker will keep it once we are away; may be fewer than asked for.
    """

    def __init__(self, channel: Channel, *, has_will: bool, asked_expiry_s: int) -> None:
        greeting = channel.greeting.result()
        self._channel = channel
        self._with_will = has_will
        self._max_packet_bytes = int(getattr(greeting.properties, "MaximumPacketSize", _MAX_PACKET))
        self.session_present = greeting.session_present
        self.session_expiry_s = int(getattr(greeting.properties, "SessionExpiryInterval", asked_expiry_s))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = "application/json",
        timeout_s: float = 10.0,
    ) -> None:
        """Publish at QoS 1; return when the broker has taken the message.

        Many calls may be under way at once: they go out in the order of the calls, up to the smaller of
        `send_maximum` and what the broker allows without waiting for an answer. When this raises
        `LinkLost` or `LinkTimeout`, or is cancelled, the broker may or may not have the message.

        Args:
            topic: a topic name, without wildcards.
            payload: the bytes; empty together with `retain` clears the retained message.
            retain: keep it as the topic's retained message.
            expiry_s: seconds after which the broker drops it undelivered; None for never.
            content_type: MQTT content type.
            timeout_s: bound on the whole call, waiting for others included.

        Raises:
            PublishRefused: the broker says no, or the packet is larger than it takes.
            LinkTimeout: no answer in time.
            LinkLost: the connection is gone.
            ValueError: not a topic name.
        """
        outcomes = await self.publish_all(
            topic, (payload,), retain=retain, expiry_s=expiry_s, content_type=content_type, timeout_s=timeout_s
        )
        for error in outcomes:
            if error is not None:
                raise error

    async def publish_all(
        self,
        topic: str,
        payloads: Sequence[bytes],
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = "application/json",
        timeout_s: float = 10.0,
    ) -> list[TransportError | None]:
        """Publish several messages on one topic, in their order; return when the broker has answered all of them.

        It costs less than as many calls of `publish`, and is the same else.

        Args:
            topic: as for `publish`, likewise the others but
            payloads: one for each message.

        Returns:
            What became of each message: None where the broker has taken it, else what `publish` would have raised.

        Raises:
            ValueError: not a topic name.
        """
        if not topic or "+" in topic or "#" in topic:
            raise ValueError(f"{topic!r} is no topic name to publish on")
        room = self._max_packet_bytes - len(topic.encode()) - len(content_type or "") - _HEADER_BYTES
        fit = [payload for payload in payloads if len(payload) <= room]
        channel = self._channel
        batch = channel.sender.send(
            topic, fit, retain=retain, details=packed(content_type, expiry_s), timeout_s=timeout_s
        )
        await batch.done
        outcomes = batch.outcomes(channel.loss if channel.lost is not None else None)
        if len(fit) == len(payloads):
            return outcomes
        rest = iter(outcomes)
        return [next(rest) if len(one) <= room else self._too_large(topic, len(one) - room) for one in payloads]

    def _too_large(self, topic: str, excess: int) -> PublishRefused:
        most = self._max_packet_bytes
        line = f"message on {topic}: about {most + excess} bytes, the broker takes {most}"
        return PublishRefused(line, topic=topic, reason_code=_TOO_LARGE)

    async def subscribe(self, topics: Sequence[str], *, timeout_s: float = 10.0) -> None:
        """Subscribe to all topic filters at QoS 1; retained messages come first.

        Mosquitto answers 'granted' even where its ACL denies: then nothing is delivered.

        Raises:
            SubscribeRefused: names the first topic that was not granted at QoS 1, and why.
            LinkTimeout: no answer in time.
            LinkLost: the connection is gone.
            ValueError: not a topic filter, or none at all.
        """
        await _answered(self._channel.subscribe(_filters(topics)), timeout_s, f"subscription to {topics[0]}")

    async def unsubscribe(self, topics: Sequence[str], *, timeout_s: float = 10.0) -> None:
        """End subscriptions; messages that are under way may still come.

        Raises:
            SubscribeRefused: the broker says no.
            LinkTimeout: no answer in time.
            LinkLost: the connection is gone.
            ValueError: no topic at all.
        """
        done = self._channel.unsubscribe(_filters(topics))
        await _answered(done, timeout_s, f"end of subscription to {topics[0]}")

    async def messages(self) -> AsyncIterator[Message]:
        """Messages as they come, for ever.

        Each one counts against `receive_maximum` until it is acknowledged: the broker stops sending when
        that many are open. What isn't acknowledged when the connection ends comes again.

        Raises:
            LinkLost: the connection is gone; `TakenOver` if another one with our client id came.
        """
        while True:
            for message in await self.batch(1):
                yield message

    async def batch(self, limit: int) -> list[Message]:
        """Wait for a message, then take all that are there, up to `limit`, in the order they came.

        Raises:
            LinkLost: as for `messages`.
        """
        return await self._channel.take(limit)

    def waiting(self, limit: int) -> list[Message]:
        """The messages that are there, up to `limit`, in the order they came; maybe none.

        Raises:
            LinkLost: as for `messages`.
        """
        return self._channel.waiting(limit)

    async def acknowledge(self, message: Message) -> None:
        """Tell the broker that the message is durable here and need not come again. Again is harmless.

        It may come again all the same: where another connection of ours ends this one before the broker has read
        that.

        Raises:
            LinkLost: the connection it came on is gone: it will come again.
        """
        self._channel.acknowledge([message])

    async def acknowledge_all(self, messages: Sequence[Message]) -> None:
        """As `acknowledge`, for many at once and at the price of few.

        Raises:
            LinkLost: the connection one of them came on is gone: those not acknowledged will come again.
        """
        self._channel.acknowledge(messages)

    async def wait_lost(self) -> LinkLost:
        """Wait until the connection is gone; returns why instead of raising it."""
        await self._channel.ended.wait()
        return self._channel.loss()

    @property
    def dropped(self) -> int:
        """Messages thrown away on this connection: QoS 0 beyond the bound, or a topic that isn't UTF-8."""
        return self._channel.dropped

    def withdraw_will(self) -> None:
        """Close without the last will, because the caller has said its last word itself."""
        self._with_will = False

    async def close(self) -> None:
        """Say goodbye and close, within a few seconds; called by `connect`."""
        try:
            if self._channel.lost is None:
                self._channel.say_goodbye(with_will=self._with_will)
                async with asyncio.timeout(_GOODBYE_S):
                    await self._channel.ended.wait()
        except TimeoutError:
            pass  # the broker doesn't read: it will notice the closed socket
        finally:
            self._channel.lose(LinkLost("disconnected"))
            self._channel.wire.close()


def _filters(topics: Sequence[str]) -> list[str]:
    if isinstance(topics, str) or not topics:
        raise ValueError("topics: a sequence of topic filters, at least one")
    return list(topics)


async def _answered(done: Awaitable[None], timeout_s: float, what: str) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await done
    except TimeoutError as error:
        raise LinkTimeout(f"{what}: no answer from the broker within {timeout_s:g} s") from error
