"""Packets beside paho-mqtt: read as it reads them, or left to it, and written as it writes them."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.support.links import settings, take, until
from tests.support.scripted_broker import Peer, publish_packet, scripted_broker
from transport import connect
from transport.properties import Properties, packed, properties
from transport.quick import Published, QuickClient, read_publish

EXPIRY = b"\x02\x00\x00\x0e\x10"
JSON = b"\x03\x00\x10application/json"
OTHERS = [
    b"\x01\x01",
    b"\x26\x00\x01k\x00\x01v",
    b"\x08\x00\x01r",
    b"\x23\x00\x07",
    b"\x03\x00\x02\xc3\xa9",
    b"\x03\x00\x01\x00",
]


def body(topic: bytes, mid: int | None, details: list[bytes], payload: bytes) -> bytes:
    every = b"".join(details)
    number = b"" if mid is None else mid.to_bytes(2, "big")
    return len(topic).to_bytes(2, "big") + topic + number + bytes([len(every)]) + every + payload


def paho_reads(command: int, packet: bytes) -> Published | None:
    try:
        read = _packet.decode_publish(command, bytearray(packet), MQTTProtocolVersion.MQTTv5)
        topic = read.topic.decode()
    except (_packet.MalformedPacket, UnicodeDecodeError):
        return None
    content_type = getattr(read.properties, "ContentType", None)
    expiry_s = getattr(read.properties, "MessageExpiryInterval", None)
    return topic, bytes(read.payload), read.retain, read.qos, read.mid, content_type, expiry_s


topics = st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode)
plain = st.lists(
    st.sampled_from([EXPIRY, JSON, b"\x03\x00\x00", b"\x02\xff\xff\xff\xff"]), max_size=2, unique_by=lambda d: d[0]
)


@given(st.sampled_from([0, 1, 8, 9]), topics, st.none() | st.integers(1, 65535), plain, st.binary(max_size=300))
def test_what_devices_and_controllers_send_is_read_as_paho_reads_it(
    flags: int, topic: bytes, mid: int | None, details: list[bytes], payload: bytes
) -> None:
    command = 0x30 | flags | (0 if mid is None else 2)
    packet = body(topic, mid, details, payload)
    read = read_publish(command, bytearray(packet))
    assert read is not None
    assert read == paho_reads(command, packet)


@given(
    st.builds(
        body,
        topics,
        st.none() | st.integers(0, 65535),
        st.lists(st.sampled_from([EXPIRY, JSON, *OTHERS]), max_size=4),
        st.binary(max_size=20),
    ),
    st.integers(0x30, 0x3F),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3),
    st.integers(0, 80),
)
def test_anything_else_is_left_to_paho_or_read_as_it_reads_it(
    packet: bytes, command: int, changes: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(packet)
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    for some in (damaged, damaged[:cut]):
        read = read_publish(command, some)
        assert read is None or read == paho_reads(command, bytes(some))


REPLACED = ["loop_read", "loop_write", "_sock_recv", "_handle_publish", "_handle_pubackcomp"]
CALLED = ["_mid_generate", "_pack_remaining_length", "_protocol", "_sock", "_in_packet", "_out_packet"]
CALLED += ["_sock_send", "_call_socket_unregister_write", "_last_bytes_received", "_last_msg_out"]


@pytest.mark.parametrize("name", REPLACED + CALLED)
def test_paho_still_has_what_is_replaced_and_what_is_leant_on(name: str) -> None:
    """Without these it would be slow again, or break; the requirements name the version that has them."""
    assert hasattr(Client(CallbackAPIVersion.VERSION2), name)
    assert (name in vars(QuickClient)) == (name in REPLACED)


class Unwritable:
    """A socket that takes nothing yet."""

    def close(self) -> None:
        pass


def queued(client: Client) -> bytes:
    return b"".join(bytes(packet["packet"]) for packet in client._out_packet)


def unconnected(kind: type[Client]) -> Client:
    client = kind(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client._sock = Unwritable()  # type: ignore[assignment]  # nothing is written to it
    client.on_socket_register_write = lambda *_: None
    return client


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="+#"), min_size=1, max_size=200),
            st.binary(max_size=200) | st.integers(16_000, 17_000).map(bytes) | st.just(bytes(70_000)),
            st.booleans(),
            st.sampled_from([None, "application/json"]),
            st.sampled_from([None, 0, 3600]),
        ),
        max_size=5,
    )
)
def test_messages_and_acknowledgements_are_packed_as_paho_packs_them(
    messages: list[tuple[str, bytes, bool, str | None, int | None]],
) -> None:
    plain, quick = unconnected(Client), unconnected(QuickClient)
    assert isinstance(quick, QuickClient)
    for mid, (topic, payload, retain, content_type, expiry_s) in enumerate(messages, 1):
        details = properties(PacketTypes.PUBLISH, ContentType=content_type, MessageExpiryInterval=expiry_s)
        plain.publish(topic, payload, qos=1, retain=retain, properties=details)
        plain.ack(mid, 1)
        name = len(topic.encode()).to_bytes(2, "big") + topic.encode()
        assert quick.free_mid(()) == mid
        assert quick.send(quick.publish_packet(name, mid, packed(content_type, expiry_s), payload, retain=retain))
        quick.acknowledge([mid])
    assert queued(quick) == queued(plain)


def test_packets_that_are_made_together_are_written_together_and_keep_their_place_among_pahos() -> None:
    client = unconnected(QuickClient)
    assert isinstance(client, QuickClient)
    for mid in (1, 2):
        client.send(client.publish_packet(b"\0\1t", mid, b"\0", b"x", retain=False))
    client.subscribe("a")
    client.acknowledge([7])
    client.send(client.publish_packet(b"\0\1t", 3, b"\0", b"x", retain=False))
    client.disconnect()
    client.send(client.publish_packet(b"\0\1t", 4, b"\0", b"x", retain=False))
    firsts = [packet["packet"][0] & 0xF0 for packet in client._out_packet]
    assert firsts == [0x30, 0x80, 0x40, 0xE0, 0x30]


@pytest.mark.parametrize("size", [10, 50_000, 1_000_000])
def test_all_of_it_is_written_in_its_order_however_little_the_socket_takes(size: int) -> None:
    client = unconnected(QuickClient)
    assert isinstance(client, QuickClient)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        client._sock = here  # what connecting would do
        client._last_msg_out = 0.0
        for mid in (1, 2, 3):
            client.send(client.publish_packet(b"\0\1t", mid, b"\0", bytes(size), retain=False))
        client.subscribe("a")
        client.send(client.publish_packet(b"\0\1t", 4, b"\0", bytes(size), retain=False))
        every, read = queued(client), b""
        while len(read) < len(every):
            assert client.loop_write() == MQTTErrorCode.MQTT_ERR_SUCCESS
            with contextlib.suppress(BlockingIOError):
                read += there.recv(len(every))
        client.send(client.publish_packet(b"\0\1t", 5, b"\0", b"x", retain=False))
        last = queued(client)
        assert client.loop_write() == MQTTErrorCode.MQTT_ERR_SUCCESS
        assert (read, there.recv(1000)) == (every, last)
        assert not client.want_write()
        assert client._last_msg_out > 0


class Breaking(Unwritable):
    """A socket whose connection breaks, which it says once."""

    broken = False

    def recv(self, _size: int) -> bytes:
        if self.broken:
            return b""
        self.broken = True
        raise ConnectionResetError("reset by the broker")


def test_why_a_connection_broke_is_told_and_that_it_has_ended_is_noticed() -> None:
    client, said = unconnected(QuickClient), list[str]()
    client._sock = Breaking()  # type: ignore[assignment]  # nothing is written to it
    client.on_log = lambda _client, _userdata, _level, text: said.append(text)
    assert client.loop_read() == MQTTErrorCode.MQTT_ERR_CONN_LOST
    assert [text for text in said if "reset by the broker" in text]
    here, there = socket.socketpair()
    with here:
        here.setblocking(False)
        ended = unconnected(QuickClient)
        ended._sock = here  # what connecting would do
        there.close()
        assert ended.loop_read() == MQTTErrorCode.MQTT_ERR_CONN_LOST


def test_a_packet_id_that_is_still_in_use_is_left_out() -> None:
    client = unconnected(QuickClient)
    assert isinstance(client, QuickClient)
    client._last_mid = 65_534
    assert [client.free_mid({1, 2, 65_535}) for _ in range(2)] == [3, 4]


def test_nothing_is_sent_where_there_is_no_connection() -> None:
    client = QuickClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    assert not client.send(client.publish_packet(b"\0\1t", 1, b"\0", b"x", retain=False))
    assert not client.want_write()


def decoded_by_paho(monkeypatch: pytest.MonkeyPatch, function: str) -> list[int]:
    """The ids of the packets that this function of paho's decodes from now on."""
    decoded: list[int] = []
    original = getattr(_packet, function)

    def counted(*given: Any) -> Any:
        read = original(*given)
        decoded.append(read.mid)
        return read

    monkeypatch.setattr(_packet, function, counted)
    return decoded


async def test_plain_messages_do_not_take_pahos_way_and_others_arrive_in_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = decoded_by_paho(monkeypatch, "decode_publish")

    async def script(peer: Peer) -> None:
        await peer.greet()
        odd = body(b"t", 2, [b"\x26\x00\x01k\x00\x01v"], b"2")  # a user property
        every = publish_packet("t", b"1", packet_id=1) + bytes([0x32, len(odd)]) + odd
        every += publish_packet("t", b"3", packet_id=3)
        for at in range(len(every)):  # each packet in pieces
            await peer.send(every[at : at + 1])
            await asyncio.sleep(0)
        for _ in range(3):
            await peer.packet()
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        assert [message.payload for message in await take(link, 3)] == [b"1", b"2", b"3"]
    assert decoded == [2]


async def test_plain_acknowledgements_do_not_take_pahos_way_and_others_count_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = decoded_by_paho(monkeypatch, "decode_puback")

    async def script(peer: Peer) -> None:
        await peer.greet()
        mids = [(await peer.packet())[1][3:5] for _ in range(5)]
        # as it is, nobody listens, said at length, with a word, and a refusal
        tails = [b"", b"\x10", b"\x00\x00", b"\x00\x04\x1f\x00\x01r", b"\x87"]
        every = b"".join(bytes([0x40, 2 + len(tail)]) + mid + tail for mid, tail in zip(mids, tails, strict=True))
        for at in range(len(every)):  # each packet in pieces
            await peer.send(every[at : at + 1])
            await asyncio.sleep(0)
        mids = [(await peer.packet())[1][3:5] for _ in range(100)]
        await peer.send(b"".join(b"\x40\x02" + mid for mid in mids))
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        first = await link.publish_all("t", [b"%d" % number for number in range(5)])
        assert [one is None for one in first] == [True, True, True, True, False]
        odd = decoded.copy()
        assert await link.publish_all("t", [b"x"] * 100) == [None] * 100
    assert set(odd) >= {3, 4, 5}
    assert decoded == odd


@pytest.mark.parametrize(("content_type", "expiry_s"), [(None, None), ("application/json", None), ("text/plain", 9)])
def test_properties_are_packed_as_paho_packs_them(content_type: str | None, expiry_s: int | None) -> None:
    plain = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho-mqtt has no annotation there
    if content_type is not None:
        plain.ContentType = content_type
    if expiry_s is not None:
        plain.MessageExpiryInterval = expiry_s
    assert packed(content_type, expiry_s) == plain.pack()  # type: ignore[no-untyped-call]  # as above


@given(
    st.lists(st.tuples(st.integers(0, 70_000), st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.lists(st.integers(1, 200_000), max_size=6),
)
def test_packets_are_cut_out_of_what_was_read_wherever_it_ends(
    packets: list[tuple[int, bool, bool]], cuts: list[int]
) -> None:
    """Large and small ones, those that paho decodes among them, and reads that end anywhere."""
    every = b""
    wanted: list[tuple[int, int]] = []
    for mid, (size, odd, confirmed) in enumerate(packets, start=1):
        rest = body(b"t", mid, [b"\x26\x00\x01k\x00\x01v"] if odd else [JSON], bytes(size))
        every += b"\x32" + length_of(rest) + rest
        wanted.append((mid, size))
        if confirmed:
            every += b"\x40\x02" + mid.to_bytes(2, "big")
    received: list[tuple[int, int]] = []
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        client = QuickClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
        client._sock = here  # what connecting would do
        client.on_published = lambda one: received.append((one[4], len(one[1])))
        client.on_message = lambda _client, _userdata, one: received.append((one.mid, len(one.payload)))
        there.setblocking(False)
        left = memoryview(every)
        for cut in [*cuts, len(every)]:
            piece = left[:cut]
            left = left[cut:]
            while piece:
                with contextlib.suppress(BlockingIOError):
                    piece = piece[there.send(piece) :]
                client.look_again()
                while client.may_read:
                    assert client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
    assert received == wanted


def length_of(rest: bytes) -> bytes:
    """MQTT 5, 1.5.5."""
    number, digits = len(rest), bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


def test_nothing_more_is_handled_while_it_is_on_hold() -> None:
    client = QuickClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    received: list[int] = []

    def take_one(one: Published) -> None:
        received.append(one[4])
        client.on_hold = True

    client.on_published = take_one
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        client._sock = here  # what connecting would do
        there.sendall(b"".join(publish_packet("t", b"", packet_id=mid) for mid in (1, 2, 3)))
        client.loop_read()
        client.loop_read()
        assert received == [1]
        client.on_hold = False
        client.loop_read()
        assert received == [1, 2]


def test_messages_of_one_look_are_counted_and_acknowledgements_are_not() -> None:
    client = QuickClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_published = lambda _one: None
    client.on_taken = lambda _mid: None
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        client._sock = here  # what connecting would do
        assert client.reads_all
        for messages in (2, 0, 1):
            published = b"".join(publish_packet("t", b"", packet_id=mid) for mid in range(1, messages + 1))
            there.sendall(published + b"\x40\x02\x00\x09")
            client.look_again()
            client.loop_read()
            assert client.messages_read == messages


async def test_many_messages_are_acknowledged_at_once_and_each_once() -> None:
    acknowledged: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.send(b"".join(publish_packet("t", b"", packet_id=mid) for mid in (7, 300, 9)))
        acknowledged.extend([await peer.packet() for _ in range(3)])
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        messages = await take(link, 3, acknowledge=False)
        await link.acknowledge_all([*messages, messages[0]])
        await link.acknowledge(messages[1])
        await until(lambda: len(acknowledged) == 3)
    assert acknowledged == [(0x40, b"\x00\x07"), (0x40, b"\x01\x2c"), (0x40, b"\x00\x09")]
