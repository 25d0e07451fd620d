"""The link against servers that do what Mosquitto never does."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.links import BOUND_S, settings, take, until
from tests.support.scripted_broker import (
    CONNACK_MQTT_3,
    CONNACK_MQTT_3_FINE,
    PINGREQ,
    PUBLISH,
    SUBSCRIBE,
    Peer,
    publish_packet,
    scripted_broker,
)
from transport import (
    BrokerUnreachable,
    BrokerUntrusted,
    ConnectError,
    ConnectRefused,
    LinkLost,
    LinkTimeout,
    PublishRefused,
    SubscribeRefused,
    TakenOver,
    WrongProtocol,
    connect,
)


def answering(connack: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.greet(connack)

    return script


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        pytest.param(CONNACK_MQTT_3, WrongProtocol, "speaks only MQTT 3", id="MQTT 3.1.1"),
        pytest.param(CONNACK_MQTT_3_FINE, WrongProtocol, "not an MQTT 5 broker", id="MQTT 3.1.1 that doesn't look"),
        pytest.param(bytes.fromhex("2003008400"), WrongProtocol, "speaks only MQTT 3", id="0x84"),
        pytest.param(bytes.fromhex("2003008800"), ConnectRefused, "Server unavailable (0x88)", id="0x88"),
        pytest.param(
            bytes.fromhex("200b0089081f0005") + b"later", ConnectRefused, "Server busy (0x89), 'later'", id="0x89"
        ),
        pytest.param(bytes.fromhex("2005000002") + b"\x24\x00", WrongProtocol, "QoS 1", id="QoS 0 only"),
        pytest.param(bytes.fromhex("2005000002") + b"\x25\x00", WrongProtocol, "retained", id="no retained messages"),
        pytest.param(b"", BrokerUnreachable, "closed the connection before answering", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectError, "MQTT 5 broker", id="HTTP"),
        pytest.param(b"\xff" * 40, ConnectError, "MQTT 5 broker", id="noise"),
        pytest.param(bytes.fromhex("2003000005"), ConnectError, "MQTT 5 broker", id="CONNACK cut short"),
    ],
)
async def test_what_is_no_willing_mqtt_5_broker_is_told_in_one_line(
    answer: bytes, error: type[ConnectError], words: str
) -> None:
    async with scripted_broker(answering(answer)) as url:
        with pytest.raises(error) as refused:
            async with connect(settings(url, "a")):
                pass
    assert words in str(refused.value)
    assert url in str(refused.value)
    assert "\n" not in str(refused.value)
    codes = {
        WrongProtocol: "broker.protocol",
        ConnectRefused: "broker.refused",
        BrokerUnreachable: "broker.unreachable",
    }
    assert refused.value.code == codes[type(refused.value)]


async def test_a_server_that_says_nothing_costs_the_time_limit_and_does_not_block_the_loop() -> None:
    async with scripted_broker(Peer.silence) as url:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        with pytest.raises(BrokerUnreachable, match=r"no answer within 0\.5 s"):
            async with connect(settings(url, "a", connect_timeout_s=0.5)):
                pass
        ticking.cancel()
        assert time.monotonic() - began < 5
        assert ticks > 5


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
async def test_an_attempt_that_is_given_up_leaves_no_connection_and_says_nothing_later(scheme: str) -> None:
    heard = bytearray()
    closed = asyncio.Event()

    async def hang(peer: Peer) -> None:
        # With mqtts the TLS handshake hangs in the thread until the link gives up.
        while data := await peer.reader.read(4096):
            heard.extend(data)
        closed.set()

    async with scripted_broker(hang) as url:
        who = settings(url.replace("mqtt", scheme), "somebody", connect_timeout_s=0.3)
        with pytest.raises(BrokerUnreachable, match="no answer") as refused:
            async with connect(who):
                pass
        await asyncio.wait_for(closed.wait(), BOUND_S)
        assert "no answer" in str(refused.value)  # and it is still held here, with its traceback
    assert (b"somebody" in heard) == (scheme == "mqtt")


async def test_a_certificate_for_another_name_ends_the_attempt(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server(hosts=("elsewhere.example",))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert_file, pair.key_file)
    async with scripted_broker(Peer.greet, tls=tls) as url:
        with pytest.raises(BrokerUntrusted, match=r"not trusted.*127\.0\.0\.1"):
            async with connect(settings(url, "a", ca_file=authority.ca_file)):
                pass


async def test_what_tls_has_decrypted_already_is_read_without_waiting_for_more(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert_file, pair.key_file)

    async def script(peer: Peer) -> None:
        await peer.greet()
        # One TLS record: once it is off the socket, no selector will tell of what is left of it.
        await peer.send(b"".join(publish_packet("t", b"x", packet_id=number) for number in range(1, 301)))
        await peer.silence()

    async with (
        scripted_broker(script, tls=tls) as url,
        connect(settings(url, "a", ca_file=authority.ca_file, receive_maximum=300)) as link,
    ):
        assert len(await take(link, 300, acknowledge=False)) == 300


async def test_a_refused_subscription_names_the_topic_and_the_reason() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for codes in (b"\x01\x87", b"\x01\x00", b"\x01"):
            kind, body = await peer.packet()
            assert kind == SUBSCRIBE
            await peer.send(bytes([0x90, 3 + len(codes)]) + body[:2] + b"\x00" + codes)
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        with pytest.raises(
            SubscribeRefused, match=r"subscription to b/c: refused .*Not authorized \(0x87\)"
        ) as refused:
            await link.subscribe(["a", "b/c"])
        assert (refused.value.topic, refused.value.reason_code) == ("b/c", 0x87)
        with pytest.raises(SubscribeRefused, match="b/c"):
            await link.subscribe(["a", "b/c"])  # QoS 0 only
        with pytest.raises(SubscribeRefused, match="1 of 2"):
            await link.subscribe(["a", "b/c"])


async def test_a_publish_nobody_answers_ends_in_time_and_keeps_its_place() -> None:
    published: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(bytes.fromhex("2006000003210002"))  # receive maximum 2
        held: bytes | None = None
        while True:
            kind, body = await peer.packet()
            if kind == PUBLISH:
                published.append(body[-1:])
                packet_id = body[3:5]
                if held is None:
                    held = packet_id  # answered only when the other one has come
                else:
                    await peer.send(b"\x40\x02" + packet_id)
                    if len(published) == 3:
                        await peer.send(b"\x40\x02" + held)

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        slow = asyncio.create_task(link.publish("t", b"1", timeout_s=0.3))
        await asyncio.sleep(0)  # it goes first
        await link.publish("t", b"2")
        with pytest.raises(LinkTimeout, match=r"message on t: no answer from the broker within 0\.3 s") as timeout:
            await slow
        assert timeout.value.code == "broker.timeout"
        # Message 1 still counts as under way, so one more fits, and another one after its late answer.
        await link.publish("t", b"3")
        await asyncio.gather(link.publish("t", b"4"), link.publish("t", b"5"))
    assert published == [b"1", b"2", b"3", b"4", b"5"]


async def test_of_messages_that_are_sent_together_each_has_its_own_outcome() -> None:
    published: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(bytes.fromhex("200b00000821000227000000c8"))  # receive maximum 2, packets of 200 bytes
        while len(published) < 4:
            _, body = await peer.packet()
            published.append(body[-1:])
            if published[-1] == b"2":
                await peer.send(b"\x40\x03" + body[3:5] + b"\x87")
            elif published[-1] != b"4":
                await peer.send(b"\x40\x02" + body[3:5])
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        given = [b"1", b"2", b"-" * 200, b"3", b"4"]
        first, second, large, third, fourth = await link.publish_all("t", given, timeout_s=1.0)
        assert first is third is None
        assert isinstance(second, PublishRefused)
        assert (second.topic, second.reason_code) == ("t", 0x87)
        assert isinstance(large, PublishRefused)
        assert (large.topic, large.reason_code) == ("t", 0x95)
        assert isinstance(fourth, LinkTimeout)
        assert await link.publish_all("t", []) == []
        with pytest.raises(ValueError, match="no topic name"):
            await link.publish_all("t/#", [b"x"])
    assert published == [b"1", b"2", b"3", b"4"]


async def test_a_connection_that_is_lost_ends_what_is_not_answered_and_keeps_what_is() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(bytes.fromhex("2006000003210002"))  # receive maximum 2
        _, body = await peer.packet()
        await peer.send(b"\x40\x02" + body[3:5])
        await peer.packet()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        outcomes = await asyncio.wait_for(link.publish_all("t", [b"1", b"2", b"3", b"4"]), BOUND_S)
        assert [type(one) for one in outcomes] == [type(None), LinkLost, LinkLost, LinkLost]
        assert len({id(one) for one in outcomes}) == 4
        assert [type(one) for one in await link.publish_all("t", [b"5", b"6"])] == [LinkLost, LinkLost]


async def test_what_waits_for_its_turn_is_not_sent_once_nobody_waits_for_it() -> None:
    published: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(bytes.fromhex("2006000003210001"))  # receive maximum 1
        while True:
            _, body = await peer.packet()
            published.append(body[-1:])
            if body[-1:] == b"1":
                await asyncio.sleep(0.3)
            await peer.send(b"\x40\x02" + body[3:5])

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        late = asyncio.create_task(link.publish_all("t", [b"1", b"2"], timeout_s=0.1))
        await asyncio.sleep(0)  # it goes first
        given_up = asyncio.create_task(link.publish_all("t", [b"3", b"4"]))
        await asyncio.sleep(0)
        given_up.cancel()
        assert [type(one) for one in await late] == [LinkTimeout, LinkTimeout]
        await link.publish("t", b"5")
    assert published == [b"1", b"5"]


async def test_the_brokers_goodbye_says_why() -> None:
    async def taking_over(peer: Peer) -> None:
        await peer.greet()
        await peer.send(bytes.fromhex("e0028e00"))
        await peer.silence()

    async def shutting_down(peer: Peer) -> None:
        await peer.greet()
        await peer.send(bytes.fromhex("e0028b00"))
        await peer.silence()

    async with scripted_broker(taking_over) as url, connect(settings(url, "a")) as link:
        with pytest.raises(TakenOver, match="same client id") as lost:
            await asyncio.wait_for(link.batch(1), BOUND_S)
        assert (lost.value.code, lost.value.reason_code) == ("broker.taken_over", 0x8E)
        with pytest.raises(TakenOver):
            await link.publish("t", b"x")
    async with scripted_broker(shutting_down) as url, connect(settings(url, "a")) as link:
        with pytest.raises(LinkLost, match=r"Server shutting down \(0x8B\)") as ended:
            await asyncio.wait_for(link.batch(1), BOUND_S)
        assert type(ended.value) is LinkLost


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(bytes.fromhex("ffffffffffff"), id="no such packet"),
        pytest.param(bytes.fromhex("300200ff"), id="a topic longer than its packet"),
        pytest.param(bytes.fromhex("9000"), id="an empty SUBACK"),
        pytest.param(bytes.fromhex("4000"), id="an empty PUBACK"),
        pytest.param(bytes.fromhex("3203000161"), id="a message without packet id"),
        pytest.param(bytes.fromhex("30060001617f0000"), id="properties longer than their packet"),
    ],
)
async def test_nonsense_from_the_broker_ends_the_link_and_nothing_else(nonsense: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.send(nonsense)
        await peer.silence()

    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: troubles.append(context))
    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        with pytest.raises(LinkLost) as lost:
            await asyncio.wait_for(link.batch(1), BOUND_S)
        assert lost.value.code == "broker.lost"
        assert "\n" not in str(lost.value)
    assert troubles == []


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_broker_that_ignores_the_receive_maximum_has_to_wait(tmp_path: Path, encrypted: bool) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.cert_file, pair.key_file)
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.send(b"".join(publish_packet("t", b"%d" % number, packet_id=number) for number in range(1, 1001)))
        sent.set()
        await peer.silence()

    async with scripted_broker(script, tls=tls if encrypted else None) as url:
        who = settings(url, "a", receive_maximum=10, ca_file=authority.ca_file if encrypted else None)
        async with connect(who) as link:
            await asyncio.wait_for(sent.wait(), BOUND_S)
            await until(lambda: len(link._channel._inbox) >= 20)
            for _ in range(20):
                await asyncio.sleep(0)  # turns of the loop in which more would be read
            assert len(link._channel._inbox) == 20
            taken = await take(link, 1000)
            assert [int(message.payload) for message in taken] == list(range(1, 1001))


async def test_large_messages_wait_in_the_socket_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.channel.MAX_INBOX_BYTES", 1_000)
    sent = [b"%05d" % number * 20 for number in range(100)]

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.send(b"".join(publish_packet("t", one, packet_id=1 + n) for n, one in enumerate(sent)))
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a", receive_maximum=65_535)) as link:
        await until(lambda: len(link._channel._inbox) >= 10)
        for _ in range(20):
            await asyncio.sleep(0)  # turns of the loop in which more would be read
        assert len(link._channel._inbox) == 10
        assert [message.payload for message in await take(link, 100)] == sent


async def test_a_flood_at_qos_0_is_bounded_and_counted() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(100):
            await peer.send(publish_packet("t", b"x"))
        await peer.send(publish_packet("end", b"x", packet_id=1))
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a", receive_maximum=10)) as link:
        await until(lambda: link.dropped == 90)
        topics = [message.topic for message in await take(link, 11)]
        assert topics == ["t"] * 10 + ["end"]


async def test_a_topic_that_is_not_text_is_dropped_and_not_sent_again() -> None:
    acknowledged = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.send(publish_packet("bad\udcff", b"x", packet_id=7))
        await peer.send(publish_packet("good", b"x", packet_id=8))
        kind, body = await peer.packet()
        assert (kind, body[:2]) == (0x40, b"\x00\x07")
        acknowledged.set()
        await peer.silence()

    async with scripted_broker(script) as url, connect(settings(url, "a")) as link:
        (message,) = await take(link, 1, acknowledge=False)
        assert message.topic == "good"
        assert link.dropped == 1
        await asyncio.wait_for(acknowledged.wait(), BOUND_S)


async def test_a_broker_that_has_gone_silent_is_noticed_by_keep_alive() -> None:
    pings = 0

    async def script(peer: Peer) -> None:
        nonlocal pings
        await peer.greet()
        while True:
            kind, _ = await peer.packet()
            pings += kind == PINGREQ

    async with scripted_broker(script) as url, connect(settings(url, "a", keepalive_s=1)) as link:
        lost = await asyncio.wait_for(link.wait_lost(), BOUND_S)
        assert "no sign of life" in str(lost)
    assert pings >= 1


async def test_leaving_is_quick_even_when_the_broker_reads_no_more() -> None:
    stop = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet()
        await stop.wait()

    async with scripted_broker(script) as url:
        async with connect(settings(url, "a", send_maximum=1000)) as link:
            # More than the socket buffers hold, so that DISCONNECT can't go out.
            stuck = [asyncio.create_task(link.publish("t", bytes(200_000))) for _ in range(100)]
            await asyncio.sleep(0)
            leaving_at = time.monotonic()
        assert time.monotonic() - leaving_at < 5
        results = await asyncio.wait_for(asyncio.gather(*stuck, return_exceptions=True), BOUND_S)
        assert {type(result) for result in results} == {LinkLost}
        stop.set()
