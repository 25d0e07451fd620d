"""paho-mqtt's client with the steps of each message made cheap; all else, and whatever is odd, is left to paho.

Measured with paho-mqtt 2.2: of the processor time that a message with two properties takes, seven tenths go into
its `Properties` class, and most of the rest into three or four reads of the socket for each packet. So packets are
cut from what one read brought, and the plain PUBLISH and PUBACK of MQTT 5 are decoded here. A packet with anything
that `read_publish` doesn't know, malformed ones too, goes paho's way: it knows what is wrong with it.

The methods overridden here are not part of paho's public API: pyproject.toml allows the version that was
read for it, and `tests/unit/test_quick_client.py` looks whether it still has them.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from transport.properties import properties

__all__ = ["Published", "QuickClient", "read_publish"]

_CHUNK: Final = 64 * 1024
_PACKETS_AT_ONCE: Final = 64
"""One look at what was read handles at most so many packets, so that a flood can't starve the other tasks."""
_PUBLISH: Final = 3
_PUBACK: Final = b"\x40\x02"  # MQTT 5, 3.4: the packet id follows, and nothing else where it is success
_EXPIRY: Final = 0x02  # MQTT 5, 2.2.2.2
_CONTENT_TYPE: Final = 0x03
_TAKEN: Final = ReasonCode(PacketTypes.PUBACK)
_NO_DETAILS: Final = properties(PacketTypes.PUBACK)


Published = tuple[str, bytes, bool, int, int, str | None, int | None]
"""A PUBLISH of QoS 0 or 1: topic, payload, retain, QoS, packet id (0 for QoS 0), content type, expiry in seconds."""


class QuickClient(Client):
    """Made like paho's client, for one connection.

    Attributes:
        on_published: called with each PUBLISH that was decoded here; the others go to `on_message`.
        on_hold: nothing more is to be handled for now, though it was taken off the socket already.
    """

    on_published: Callable[[Published], None] | None = None
    on_hold = False
    _chunk = b""
    _at = 0
    _is_empty = False

    def look_again(self) -> None:
        """The socket may have something to read."""
        self._is_empty = False

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

    def _sock_recv(self, bufsize: int) -> bytes:
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

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Send PUBACK, with success, for many messages of QoS 1 at once: paho sends each by itself.

        Args:
            mids: their packet ids; at least one.
        """
        packets = b"".join([_PUBACK + mid.to_bytes(2, "big") for mid in mids])
        self._packet_queue(_PUBACK[0], packets, mids[-1], 1)

    def _packet_read(self) -> MQTTErrorCode:
        """Handle what `_chunk` has of whole PUBLISH packets that are decoded here; else one packet in paho's way."""
        handled = False
        if self.on_published is not None and self._in_packet["command"] == 0:
            for _ in range(_PACKETS_AT_ONCE):
                if self.on_hold:
                    return MQTTErrorCode.MQTT_ERR_AGAIN
                if not self._take_published():
                    break
                handled = True
        if not handled:
            return super()._packet_read()
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _take_published(self) -> bool:
        chunk, begin = self._chunk, self._at
        if begin == len(chunk) or chunk[begin] >> 4 != _PUBLISH:
            return False
        length = shift = 0
        at = begin + 1
        for byte in chunk[at : at + 4]:
            at += 1
            length |= (byte & 127) << shift
            if byte < 0x80:
                break
            shift += 7
        else:
            return False
        end = at + length
        if end > len(chunk):
            return False
        published = read_publish(chunk[begin], chunk[at:end])
        if published is None:
            return False
        self._chunk, self._at = (chunk, end) if end < len(chunk) else (b"", 0)
        self.on_published(published)  # type: ignore[misc]  # whoever calls this has looked
        return True

    def _handle_publish(self) -> MQTTErrorCode:
        published = read_publish(self._in_packet["command"], self._in_packet["packet"])
        if published is None or self.on_published is None:
            return super()._handle_publish()
        self.on_published(published)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != 2:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, _TAKEN, _NO_DETAILS)
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
