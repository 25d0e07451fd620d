"""Messages on their way out: sent in their order, as many at once as the broker takes, and each answered for.

No future and no timer for each message: those that are handed over together are waited for together, and one timer
of the event loop, which is seldom due, looks for all that nobody has answered in time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from transport.errors import LinkLost, LinkTimeout, PublishRefused, TransportError
from transport.quick import QuickClient

__all__ = ["Batch", "Sender"]

_LONGEST_TEXT: Final = 0xFFFF
_PIECE_BYTES: Final = 64 * 1024
"""Packets are joined up to about this size, so that large ones are not copied together."""


class Batch:
    """Messages on one topic that were handed over together.

    Attributes:
        done: set when each of them has been answered, or will not be any more. Whoever gives up cancels it.
    """

    __slots__ = ("_answers", "_count", "deadline", "details", "done", "head", "retain", "timeout_s", "topic")

    def __init__(
        self,
        topic: str,
        count: int,
        *,
        retain: bool,
        details: bytes,
        done: "asyncio.Future[None]",
        timeout_s: float,
        now: float,
    ) -> None:
        self._answers: dict[int, TransportError | None] = {}
        self._count = count
        self.topic = topic
        self.head = _text(topic)
        self.retain = retain
        self.details = details
        self.done = done
        self.timeout_s = timeout_s
        self.deadline = now + timeout_s

    def answer(self, place: int, outcome: TransportError | None) -> None:
        """What became of one of them; None: the broker has it."""
        answers = self._answers
        answers[place] = outcome
        if len(answers) == self._count and not self.done.done():
            self.done.set_result(None)

    def end(self) -> None:
        """No more answers are waited for."""
        if not self.done.done():
            self.done.set_result(None)

    def outcomes(self, loss: Callable[[], LinkLost] | None) -> list[TransportError | None]:
        """What became of each: None where the broker has it.

        Args:
            loss: makes the reason why nothing more will be answered; None while the connection stands.
        """
        answers = self._answers
        every = range(self._count)
        if len(answers) == self._count:
            return [answers[place] for place in every]
        return [answers[place] if place in answers else self._missing(loss) for place in every]

    def _missing(self, loss: Callable[[], LinkLost] | None) -> TransportError:
        if loss is not None:
            return loss()
        return LinkTimeout(f"message on {self.topic}: no answer from the broker within {self.timeout_s:g} s")


_Message = tuple[Batch, int, bytes]
"""One message: which of its batch it is, and the payload."""


class Sender:
    """The messages of one connection.

    Args:
        maximum: messages under way without PUBACK; further ones wait in order.
    """

    def __init__(self, client: QuickClient, *, maximum: int) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[int, tuple[Batch, int]] = {}
        self._waiting: deque[_Message] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False
        self.maximum = maximum

    def send(self, topic: str, payloads: Sequence[bytes], *, retain: bool, details: bytes, timeout_s: float) -> Batch:
        """Send at QoS 1, or queue in order while `maximum` are under way.

        Args:
            details: the properties as they are on the wire, with their length before them.

        Raises:
            ValueError: the topic is no text, or has more than 65535 bytes.
        """
        loop = self._loop
        batch = Batch(
            topic,
            len(payloads),
            retain=retain,
            details=details,
            done=loop.create_future(),
            timeout_s=timeout_s,
            now=loop.time(),
        )
        if self._is_lost or not payloads:
            batch.end()
            return batch
        now = 0 if self._waiting else max(self.maximum - len(self._under_way), 0)
        if now:
            self._send([(batch, place, payload) for place, payload in enumerate(payloads[:now])])
        self._waiting.extend((batch, place, payload) for place, payload in enumerate(payloads[now:], now))
        self._watch(batch.deadline)
        return batch

    def answered(self, mid: int, refused: Callable[[str], PublishRefused] | None = None) -> None:
        """PUBACK has come.

        Args:
            refused: makes the error of a message on a topic that the broker does not take.
        """
        found = self._under_way.pop(mid, None)
        if found is not None:
            batch, place = found
            batch.answer(place, None if refused is None else refused(batch.topic))
        if self._waiting:
            self._send_waiting()

    def lose(self) -> None:
        """The connection is gone: nothing is waited for any more."""
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in self._open():
            batch.end()
        self._under_way.clear()
        self._waiting.clear()

    def _send_waiting(self) -> None:
        following: list[_Message] = []
        while self._waiting and len(self._under_way) + len(following) < self.maximum:
            message = self._waiting.popleft()
            if not message[0].done.done():  # its caller may have given up
                following.append(message)
        if following:
            self._send(following)

    def _send(self, messages: Sequence[_Message]) -> None:
        client, under_way = self._client, self._under_way
        packets: list[bytes] = []
        size = 0
        for batch, place, payload in messages:
            mid = client.free_mid(under_way)
            under_way[mid] = batch, place
            packets.append(client.publish_packet(batch.head, mid, batch.details, payload, retain=batch.retain))
            size += len(payload)
            if size > _PIECE_BYTES:
                client.send(b"".join(packets))
                packets, size = [], 0
        if not client.send(b"".join(packets)):
            self._refuse(messages)

    def _refuse(self, messages: Sequence[_Message]) -> None:
        """They are not on their way, because paho has closed the connection, of which it will tell."""
        for batch, place, _ in messages:
            batch.answer(place, LinkLost("the connection to the broker is closed"))

    def _watch(self, deadline: float) -> None:
        """See that somebody looks at this time, on the loop's clock."""
        timer = self._timer
        if timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._end_late_ones)

    def _end_late_ones(self) -> None:
        self._timer = None
        now, following = self._loop.time(), None
        for batch in self._open():
            if batch.deadline <= now:
                batch.end()
            elif following is None or batch.deadline < following:
                following = batch.deadline
        if following is not None:
            self._watch(following)

    def _open(self) -> list[Batch]:
        every = [batch for batch, _ in self._under_way.values()] + [waiting[0] for waiting in self._waiting]
        return [batch for batch in dict.fromkeys(every) if not batch.done.done()]


def _text(topic: str) -> bytes:
    """A topic as it is on the wire (MQTT 5, 1.5.4)."""
    text = topic.encode()
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"a topic name of {len(text)} bytes, more than {_LONGEST_TEXT}")
    return len(text).to_bytes(2, "big") + text
