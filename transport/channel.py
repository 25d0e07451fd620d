"""paho-mqtt's callbacks turned into futures and a bounded inbox: everything between `Wire` and `Link`.

All callbacks run on the event loop, inside paho's loop functions, and never raise into paho.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from transport.errors import LinkLost, PublishRefused, SubscribeRefused, TakenOver
from transport.properties import Properties, properties
from transport.quick import Published, QuickClient
from transport.sending import Sender
from transport.wire import Wire

__all__ = ["FAILURE", "Channel", "Greeting", "Message", "reason_text"]

FAILURE: Final = 0x80  # reason codes from here on say no (MQTT 5, 2.4)
MAX_INBOX_BYTES: Final = 64 * 1024 * 1024
"""Payloads that may wait in the inbox: message counts alone would let 256 KiB each add up to gigabytes."""

_PROTOCOL_ERROR: Final = 0x82
_KEEPALIVE: Final = 0x8D
_TAKEN_OVER: Final = 0x8E
_WITH_WILL: Final = 0x04
_UNSPECIFIED: Final = 0x80


class Message(NamedTuple):
    """A message as it came in.

    Attributes:
        topic: where it was published.
        payload: the bytes; empty for a retained message that was cleared.
        retain: it is the topic's retained message, sent because of the subscription.
        qos: 0 or 1; only 1 needs acknowledgement.
        content_type: MQTT content type, if the publisher gave one.
        expiry_s: seconds it would have lived on, if it expires.
        handle: the connection it came on, and its number there.
        arrived: when it came in, in seconds of `time.monotonic`.
    """

    topic: str
    payload: bytes
    retain: bool
    qos: int
    content_type: str | None
    expiry_s: int | None
    handle: tuple[int, int]
    arrived: float = 0.0


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the broker said in CONNACK."""

    reason: ReasonCode
    session_present: bool
    properties: Properties


class Channel:
    """One paho client, its callbacks, and what is under way on it.

    Args:
        client: made for this one connection, with manual acknowledgement, never connected before.
        send_maximum: messages under way without PUBACK; further ones wait in order.
        receive_maximum: messages the broker may send without acknowledgement, as it was told in CONNECT. The
            inbox holds twice as many, or `MAX_INBOX_BYTES`, then nothing more is read: Mosquitto 2.0.11 keeps to
            the maximum only until the first acknowledgements, and then sends up to its whole queue.
    """

    def __init__(self, client: QuickClient, *, send_maximum: int, receive_maximum: int) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._client = client
        self._receive_maximum = receive_maximum
        self._requests: dict[int, tuple[list[str], asyncio.Future[None]]] = {}
        self._unacknowledged: set[int] = set()
        self._arrived = asyncio.Event()
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self.dropped = 0
        self.lost: LinkLost | None = None
        self.ended = asyncio.Event()
        self.greeting: asyncio.Future[Greeting] = loop.create_future()
        self.sender = Sender(client, maximum=send_maximum)
        self.wire = Wire(client, on_broken=self._broken)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_published = self._on_published
        client.on_taken = self.sender.answered
        client.on_answered = self._on_answered
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe

    def subscribe(self, topics: list[str]) -> "asyncio.Future[None]":
        """Ask for QoS 1 on all topics in one packet; done at SUBACK."""
        options = SubscribeOptions(qos=1)
        return self._request(topics, self._client.subscribe([(topic, options) for topic in topics]))

    def unsubscribe(self, topics: list[str]) -> "asyncio.Future[None]":
        """Done at UNSUBACK."""
        return self._request(topics, self._client.unsubscribe(topics))

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Send PUBACK for these; nothing for those of QoS 0, and those for which it was sent before.

        Raises:
            LinkLost: the connection is gone, or one of them came on another one.
        """
        if self.lost is not None:
            raise self.loss()
        mids: list[int] = []
        this, open_ones = id(self), self._unacknowledged  # those of QoS 0 are never among them
        try:
            for message in messages:
                connection, mid = message.handle
                if connection != this:
                    raise LinkLost(f"message on {message.topic}: came on an earlier connection, it will come again")
                if mid in open_ones:
                    open_ones.remove(mid)
                    mids.append(mid)
        finally:
            if mids:
                self._client.acknowledge(mids)

    async def take(self, limit: int) -> list[Message]:
        """Wait for a message, then take up to `limit`.

        Raises:
            LinkLost: the connection is gone.
        """
        if not self._inbox and self.lost is None:
            self._arrived.clear()
            await self._arrived.wait()
        return self.waiting(limit)

    def waiting(self, limit: int) -> list[Message]:
        """As `take`, without waiting for any."""
        if self.lost is not None:
            raise self.loss()
        taken = [self._inbox.popleft() for _ in range(min(limit, len(self._inbox)))]
        self._inbox_bytes -= sum(len(message.payload) for message in taken)
        if len(self._inbox) < self._receive_maximum and self._inbox_bytes < MAX_INBOX_BYTES // 2:
            self.wire.resume_reading()
        return taken

    def say_goodbye(self, *, with_will: bool) -> None:
        """Queue DISCONNECT; `ended` is set once it has gone out."""
        code = ReasonCode(PacketTypes.DISCONNECT, identifier=_WITH_WILL if with_will else 0)
        self._client.disconnect(reasoncode=code)

    def lose(self, lost: LinkLost) -> None:
        """Everything that waits ends with this error; the first reason counts."""
        if self.lost is not None:
            return
        self.lost = lost
        self.ended.set()
        self._arrived.set()
        self._inbox.clear()
        self._inbox_bytes = 0
        self.sender.lose()
        for _, done in self._requests.values():
            if not done.done():
                done.set_exception(self.loss())
        self._requests.clear()
        if not self.greeting.done():
            self.greeting.set_exception(self.loss())

    def loss(self) -> LinkLost:
        """A new exception each time: one raised by several tasks would collect all their tracebacks."""
        assert self.lost is not None  # noqa: S101 - callers have looked
        return type(self.lost)(str(self.lost), reason_code=self.lost.reason_code)

    def _request(self, topics: list[str], sent: tuple[MQTTErrorCode, int | None]) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._loop.create_future()
        rc, mid = sent
        if self.lost is not None:
            done.set_exception(self.loss())
        elif rc != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            done.set_exception(LinkLost("the connection to the broker is closed"))
        else:
            self._requests[mid] = (topics, done)
        return done

    def _broken(self, line: str) -> None:
        self.lose(LinkLost(line, reason_code=_PROTOCOL_ERROR))

    def _on_connect(
        self, _client: Client, _userdata: Any, flags: Any, reason: ReasonCode, details: Properties | None
    ) -> None:
        if not self.greeting.done():
            empty = properties(PacketTypes.CONNACK)
            self.greeting.set_result(Greeting(reason, bool(flags.session_present), details or empty))

    def _on_disconnect(
        self, _client: Client, _userdata: Any, flags: Any, reason: ReasonCode, details: Properties | None
    ) -> None:
        code = int(reason.value)
        if flags.is_disconnect_packet_from_server:
            text = f"the broker closed the connection: {reason_text(reason, details)}"
        elif code == _KEEPALIVE:
            text = "the broker gave no sign of life for the keep-alive time"
        elif code == _PROTOCOL_ERROR:
            text = "the broker sent something that isn't MQTT 5"
        elif code >= FAILURE:
            text = "the connection to the broker broke"
        else:
            text = "disconnected"
        if code == _TAKEN_OVER:
            taken = "another connection uses the same client id, and the broker closed this one for it"
            self.lose(TakenOver(taken, reason_code=code))
        else:
            self.lose(LinkLost(text, reason_code=code))

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self.dropped += 1  # not ours, and it would come again for ever
            self._client.ack(message.mid, message.qos)
            return
        details = message.properties
        content_type = getattr(details, "ContentType", None)
        expiry_s = getattr(details, "MessageExpiryInterval", None)
        payload, retain = bytes(message.payload), bool(message.retain)
        self._on_published((topic, payload, retain, message.qos, message.mid, content_type, expiry_s))

    def _on_published(self, published: Published) -> None:
        topic, payload, retain, qos, mid, content_type, expiry_s = published
        waiting = len(self._inbox)
        if qos > 0:
            self._unacknowledged.add(mid)
        elif waiting >= self._receive_maximum or self._inbox_bytes >= MAX_INBOX_BYTES:
            self.dropped += 1  # QoS 0 may be lost by definition, and nothing else bounds it
            return
        handle = (id(self), mid)
        self._inbox.append(Message(topic, payload, retain, qos, content_type, expiry_s, handle, time.monotonic()))
        self._inbox_bytes += len(payload)
        if not waiting:
            self._arrived.set()
        if waiting + 1 >= 2 * self._receive_maximum or self._inbox_bytes >= MAX_INBOX_BYTES:
            self.wire.pause_reading()

    def _on_answered(self, mid: int, reason: ReasonCode, details: Properties | None) -> None:
        code = int(reason.value)

        def refused(topic: str) -> PublishRefused:
            line = f"message on {topic}: refused by the broker: {reason_text(reason, details)}"
            return PublishRefused(line, topic=topic, reason_code=code)

        self.sender.answered(mid, refused if code >= FAILURE else None)

    def _on_subscribe(
        self, _client: Client, _userdata: Any, mid: int, reasons: Any, details: Properties | None
    ) -> None:
        self._answer(mid, reasons, details, least=1, action="subscription to")

    def _on_unsubscribe(
        self, _client: Client, _userdata: Any, mid: int, reasons: Any, details: Properties | None
    ) -> None:
        self._answer(mid, reasons, details, least=0, action="end of subscription to")

    def _answer(
        self, mid: int, reasons: list[ReasonCode], details: Properties | None, *, least: int, action: str
    ) -> None:
        topics, done = self._requests.pop(mid, ([], None))
        if done is None or done.done():
            return
        for topic, reason in zip(topics, reasons, strict=False):
            code = int(reason.value)
            if code >= FAILURE or code < least:
                line = f"{action} {topic}: refused by the broker: {reason_text(reason, details)}"
                done.set_exception(SubscribeRefused(line, topic=topic, reason_code=code))
                return
        if len(reasons) != len(topics):
            line = f"{action} {topics[0]}: the broker answered {len(reasons)} of {len(topics)} topics"
            done.set_exception(SubscribeRefused(line, topic=topics[0], reason_code=_UNSPECIFIED))
        else:
            done.set_result(None)


def reason_text(reason: ReasonCode, details: Properties | None) -> str:
    """The reason's name in MQTT 5, its number, and the broker's own words if there are any."""
    words = getattr(details, "ReasonString", None)
    text = f"{reason.getName()} (0x{int(reason.value):02X})"
    return f"{text}, {words[:200]!r}" if isinstance(words, str) and words else text
