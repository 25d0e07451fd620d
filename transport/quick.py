"""paho-mqtt's client with the steps of each message made cheap; all else, and whatever is odd, is left to paho.

Measured with paho-mqtt 2.2: of the processor time that a message with two properties takes, seven tenths go into
its `Properties` class, and most of the rest into three or four reads of the socket for each packet. So packets are
cut from what one read brought, and the plain PUBLISH and PUBACK of MQTT 5 are decoded here. A packet with anything
that `read_publish` doesn't know, malformed ones too, goes paho's way: it knows what is wrong with it.

A PUBLISH of ours is packed here, too, and is `transport.sending`'s to keep until it is answered: paho would make
two objects with a condition and a table entry for each. Packets that are made together leave with one write.

The methods overridden here are not part of paho's public API: pyproject.toml allows the version that was
read for it, and `tests/unit/test_quick_client.py` looks whether it still has them.
"""

import ssl
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, Final

from paho.mqtt import _packet
from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from transport.properties import Properties

__all__ = ["Published", "QuickClient", "read_publish"]

_CHUNK: Final = 64 * 1024
_EXPIRY: Final = 0x02  # MQTT 5, 2.2.2.2
_CONTENT_TYPE: Final = 0x03
_PUBLISH: Final = PacketTypes.PUBLISH << 4
_PUBACK: Final = PacketTypes.PUBACK << 4
_QOS_1: Final = 2
_TAKEN: Final = bytes((_PUBACK, 2))
"""The packet id follows, and nothing else where it is success (MQTT 5, 3.4)."""
_NOBODY_LISTENS: Final = 0x10
"""A reason code of PUBACK: the broker has the message, and no subscriber for it (MQTT 5, 3.4.2.1)."""
_PACKETS_AT_ONCE: Final = 64
"""One look at what was read handles at most so many packets, so that a flood can't starve the other tasks."""


Published = tuple[str, bytes, bool, int, int, str | None, int | None]
"""A PUBLISH of QoS 0 or 1: topic, payload, retain, QoS, packet id (0 for QoS 0), content type, expiry in seconds."""


class QuickClient(Client):
    """Made like paho's client, for one connection.

    Attributes:
        on_published: called with each PUBLISH that was decoded here; the others go to `on_message`.
        on_taken: called with the packet id of each PUBACK that says that the broker has the message, and nothing else.
        on_answered: called with the packet id, the reason and the properties of any other PUBACK.
        on_to_write: called when there is something to write.
        on_hold: nothing more is to be handled for now, though it was taken off the socket already.
        messages_read: those that were taken in here since the last `look_again`.
    """

    on_published: Callable[[Published], None] | None = None
    on_taken: Callable[[int], None] | None = None
    on_answered: Callable[[int, ReasonCode, Properties | None], None] | None = None
    on_to_write: Callable[[], None] | None = None
    on_hold = False
    messages_read = 0
    _chunk = b""
    _at = 0
    _is_empty = False
    _failure: OSError | None = None

    def free_mid(self, taken: Container[int]) -> int:
        """A packet id that is not among those taken, of which there must be fewer than 65535."""
        while True:
            mid = self._mid_generate()
            if mid not in taken:
                return mid

    def publish_packet(self, topic: bytes, mid: int, details: bytes, payload: bytes, *, retain: bool) -> bytes:
        """A PUBLISH of QoS 1; its PUBACK goes to `on_taken` or `on_answered`.

        Args:
            topic: with its length before it.
            mid: its packet id.
            details: properties, with their length before them.
            payload: at most what a packet can hold.
            retain: as in the packet.
        """
        length = len(topic) + 2 + len(details) + len(payload)
        return b"".join(
            (
                bytes((_PUBLISH | _QOS_1 | retain,)),
                bytes((length,)) if length < 0x80 else self._pack_remaining_length(bytearray(), length),
                topic,
                mid.to_bytes(2, "big"),
                details,
                payload,
            )
        )

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Queue PUBACK, with success, for messages of QoS 1 that came."""
        self.send(b"".join([_TAKEN + mid.to_bytes(2, "big") for mid in mids]))

    def send(self, packets: bytes) -> bool:
        """Queue whole packets that have been made here; False where the connection is closed."""
        if self._sock is None:
            return False
        if not packets:
            return True
        waiting = self._out_packet
        last = waiting[-1] if waiting else None
        ours = last is not None and last["command"] == _PUBLISH and last["info"] is None
        # what is partly gone is not added to: where the socket is always full it would never be let go of
        if last is not None and ours and last["pos"] == 0 and last["to_process"] < _CHUNK:
            last["packet"] += packets
            last["to_process"] += len(packets)
        else:
            # for paho it is one packet, and one that it need not look after once it has gone out
            waiting.append(
                {
                    "command": _PUBLISH,
                    "mid": 0,
                    "qos": 1,
                    "pos": 0,
                    "to_process": len(packets),
                    "packet": bytearray(packets),
                    "info": None,
                }
            )
        if self.on_to_write is not None:
            self.on_to_write()
        return True

    def look_again(self) -> None:
        """The socket may have something to read."""
        self._is_empty = False
        self.messages_read = 0

    @property
    def reads_all(self) -> bool:
        """Whether one read brings all that has come; TLS gives one of its records, whatever lies behind it."""
        return not isinstance(self.socket(), ssl.SSLSocket)

    @property
    def holds_more(self) -> bool:
        """Whether bytes of further packets were taken off the socket already: no selector sees those."""
        if self._at < len(self._chunk):
            return True
        sock = self.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    @property
    def may_read(self) -> bool:
        """Whether reading may bring something: there are such bytes, or the socket was not seen empty."""
        return not self._is_empty or self.holds_more

    def loop_write(self) -> MQTTErrorCode:
        """Write what there is to write: one piece of ours here, if that is all and goes at once, else in paho's way."""
        waiting = self._out_packet
        first = waiting[0] if len(waiting) == 1 else None
        if first is not None and first["command"] == _PUBLISH and first["info"] is None and first["pos"] == 0:
            try:
                written = self._sock_send(first["packet"])
            except OSError:
                return super().loop_write()  # it will meet with the same, and knows what to do
            first["pos"] = written
            first["to_process"] -= written
            if first["to_process"] == 0:
                waiting.clear()
                self._last_msg_out = time.monotonic()
                self._call_socket_unregister_write()
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super().loop_write()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Take in what the socket has: plain packets here, up to a bound, or else one packet in paho's way."""
        if self.on_hold:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._sock is not None and self._in_packet["command"] == 0 and self._has_bytes() and self._cut():
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super().loop_read(max_packets)

    def _has_bytes(self) -> bool:
        """Whether there are bytes to cut packets from; paho is to see the end of a connection, and why it broke."""
        if self._at < len(self._chunk):
            return True
        try:
            received = self._received(_CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            self._failure = error
            return False
        if received:
            self._chunk, self._at = received, 0
            self._last_bytes_received = time.monotonic()
        else:
            self._is_empty = False  # for paho to read the end once more
        return bool(received)

    def _cut(self) -> int:
        """Take plain packets off the bytes that are here until another one comes; gives how many they were."""
        chunk, size = self._chunk, len(self._chunk)
        count = 0
        while count < _PACKETS_AT_ONCE and not self.on_hold:
            at = self._at
            if size - at < 2:
                break
            command, length, body = chunk[at], chunk[at + 1], at + 2
            if length > 0x7F:
                if size - body < 1 or chunk[body] > 0x7F:
                    break  # over 16 KiB
                length += (chunk[body] - 1) << 7
                body += 1
            end = body + length
            if end > size or not self._handled(command, chunk[body:end]):
                break
            self._at = end
            count += 1
        if self._at == size:
            self._chunk, self._at = b"", 0
        return count

    def _handled(self, command: int, packet: bytes) -> bool:
        if command & 0xF0 == _PUBLISH and self.on_published is not None:
            published = read_publish(command, packet)
            if published is None:
                return False
            self.on_published(published)
            self.messages_read += 1
            return True
        plain = len(packet) == 2 or (len(packet) == 3 and packet[2] in (0, _NOBODY_LISTENS))
        if command == _PUBACK and plain and self.on_taken is not None:
            self.on_taken(packet[0] << 8 | packet[1])
            return True
        return False

    def _sock_recv(self, bufsize: int) -> bytes:
        failure, self._failure = self._failure, None  # kept, it would lead back to this client by its traceback
        if failure is not None:
            raise failure
        if self._at == len(self._chunk):
            self._chunk, self._at = self._received(max(bufsize, _CHUNK)), 0
        piece = self._chunk[self._at : self._at + bufsize]
        self._at += len(piece)
        if self._at == len(self._chunk):
            self._chunk, self._at = b"", 0
        return piece

    def _received(self, most: int) -> bytes:
        if not self.may_read:
            raise BlockingIOError
        try:
            received = super()._sock_recv(most)
        except BlockingIOError:
            self._is_empty = True
            raise
        self._is_empty = len(received) < most
        return received

    def _handle_publish(self) -> MQTTErrorCode:
        published = read_publish(self._in_packet["command"], self._in_packet["packet"])
        if published is None or self.on_published is None:
            return super()._handle_publish()
        self.on_published(published)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        if cmd != "PUBACK" or self.on_answered is None:
            return super()._handle_pubackcomp(cmd)
        packet = self._in_packet["packet"]
        read = _packet.decode_puback(self._in_packet["command"], packet, self._protocol)
        self.on_answered(read.mid, read.reason, read.properties)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def read_publish(command: int, packet: bytes | bytearray) -> Published | None:
    """Decode a PUBLISH of MQTT 5 (3.3).

    Args:
        command: the first byte of the fixed header.
        packet: all that follows the fixed header.

    Returns:
        None for QoS 2, for properties other than content type and expiry or more than 127 bytes of them, and for
        whatever is malformed.
    """
    qos = command >> 1 & 3
    if qos > 1:
        return None
    try:
        at = 2 + (packet[0] << 8 | packet[1])
        topic = packet[2:at].decode()
        mid = 0
        if qos:
            mid = packet[at] << 8 | packet[at + 1]
            at += 2
        length = packet[at]
        at += 1
        end = at + length
        content_type: str | None = None
        expiry_s: int | None = None
        while at < end:
            name = packet[at]
            if name == _CONTENT_TYPE and content_type is None:
                stop = at + 3 + (packet[at + 1] << 8 | packet[at + 2])
                content_type = packet[at + 3 : stop].decode("ascii")
                at = stop
            elif name == _EXPIRY and expiry_s is None:
                expiry_s = int.from_bytes(packet[at + 1 : at + 5], "big")
                at += 5
            else:
                return None
    except (IndexError, UnicodeDecodeError):
        return None
    is_whole = at == end <= len(packet) and length < 0x80
    if not is_whole or (content_type is not None and not content_type.isprintable()):
        return None
    return topic, bytes(packet[end:]), bool(command & 1), qos, mid, content_type, expiry_s
