"""The link against a real Mosquitto."""

import asyncio
import os
import resource
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from broker_config import free_port
from tests.support.broker import Broker, ProductionBroker
from tests.support.certificates import Authority
from tests.support.links import BOUND_S, settings, take, take_until
from transport import (
    BrokerUnreachable,
    BrokerUntrusted,
    ConnectRefused,
    LinkLost,
    LinkSettings,
    PublishRefused,
    SettingsError,
    Will,
    connect,
)

pytestmark = pytest.mark.wire

Unique = Callable[[str], str]


async def test_a_message_arrives_with_everything_it_was_given(broker: Broker, unique: Unique, topic_root: str) -> None:
    topic = f"{topic_root}/devices/pi/commands"
    async with (
        connect(settings(broker.url, unique("pub"))) as sender,
        connect(settings(broker.url, unique("sub"))) as receiver,
    ):
        assert not receiver.session_present
        assert receiver.session_expiry_s == 300
        await receiver.subscribe([f"{topic_root}/#"])
        await sender.publish(topic, b'{"a": 1}', expiry_s=60)
        await sender.publish(topic, b"raw", content_type=None)
        first, second = await take(receiver, 2)
    assert (first.topic, first.payload, first.qos, first.retain) == (topic, b'{"a": 1}', 1, False)
    assert first.content_type == "application/json"
    assert first.expiry_s is not None
    assert 58 <= first.expiry_s <= 60
    assert (second.payload, second.content_type, second.expiry_s) == (b"raw", None, None)


async def test_a_retained_message_comes_with_the_subscription_until_it_is_cleared(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    topic = f"{topic_root}/release/stable/tacho"
    async with connect(settings(broker.url, unique("a"))) as link:
        await link.publish(topic, b"1.0.0", retain=True)
        await link.subscribe([topic])
        (kept,) = await take(link, 1)
        assert (kept.payload, kept.retain) == (b"1.0.0", True)
        await link.publish(topic, b"", retain=True)
        (cleared,) = await take(link, 1)
        assert (cleared.payload, cleared.retain) == (b"", False)
        await link.unsubscribe([topic])
        await link.subscribe([topic, f"{topic_root}/end"])
        await link.publish(f"{topic_root}/end", b"end")
        assert await take_until(link, f"{topic_root}/end", b"end") == []


async def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    who = settings(broker.url, unique("sub"))
    async with connect(who) as link, connect(settings(broker.url, unique("pub"))) as sender:
        await link.subscribe([f"{topic_root}/#"])
        for number in range(3):
            await sender.publish(f"{topic_root}/t", b"%d" % number)
        first, second, third = await take(link, 3, acknowledge=False)
        await link.acknowledge(first)
        await link.acknowledge(third)
        await link.acknowledge(third)  # again: harmless
        # the broker answers this one after what came before it; else the next connection could end this one first
        await link.unsubscribe([f"{topic_root}/other"])
    async with connect(who) as link, connect(settings(broker.url, unique("pub"))) as sender:
        assert link.session_present
        with pytest.raises(LinkLost, match="earlier connection"):
            await link.acknowledge(second)
        await sender.publish(f"{topic_root}/t", b"end")
        again = await take_until(link, f"{topic_root}/t", b"end")
        assert [message.payload for message in again] == [b"1"]


async def test_a_session_keeps_messages_while_we_are_away_and_a_clean_start_forgets_them(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    who = unique("sub")
    async with connect(settings(broker.url, who)) as link:
        await link.subscribe([f"{topic_root}/#"])
    async with connect(settings(broker.url, unique("pub"))) as sender:
        await sender.publish(f"{topic_root}/t", b"queued")
    async with connect(settings(broker.url, who)) as link:
        assert [message.payload for message in await take(link, 1, acknowledge=False)] == [b"queued"]
    async with connect(settings(broker.url, who, clean_start=True)) as link:
        assert not link.session_present


async def test_the_broker_sends_no_more_than_the_receive_maximum_before_the_first_acknowledgement(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    async with (
        connect(settings(broker.url, unique("sub"), receive_maximum=5)) as link,
        connect(settings(broker.url, unique("pub"))) as sender,
    ):
        await link.subscribe([f"{topic_root}/#"])
        await asyncio.gather(*(sender.publish(f"{topic_root}/t", b"%d" % n) for n in range(30)))
        held = await take(link, 5, acknowledge=False)
        # A round trip later the broker would have sent more, if it were going to.
        await link.subscribe([f"{topic_root}/other"])
        assert list(link._channel._inbox) == []
        for message in held:
            await link.acknowledge(message)
        rest = await take(link, 25)
        assert [int(message.payload) for message in (*held, *rest)] == list(range(30))


@pytest.mark.parametrize(("count", "at_once"), [(2500, 64), (300, 1)])
async def test_a_burst_arrives_once_each_and_in_order(
    broker: Broker, unique: Unique, topic_root: str, count: int, at_once: int
) -> None:
    async with (
        connect(settings(broker.url, unique("sub"))) as link,
        connect(settings(broker.url, unique("pub"), send_maximum=at_once)) as sender,
    ):
        await link.subscribe([f"{topic_root}/#"])
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take(link, count, bound_s=180))
            for number in range(count):
                group.create_task(sender.publish(f"{topic_root}/t", b"%d" % number, timeout_s=180))
        assert [int(message.payload) for message in taking.result()] == list(range(count))
        assert link.dropped == 0


async def test_a_message_the_broker_would_not_take_is_refused_and_the_link_lives_on(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    async with connect(settings(broker.url, unique("a"))) as link:
        with pytest.raises(PublishRefused, match="266240") as refused:
            await link.publish(f"{topic_root}/t", bytes(266240))
        assert refused.value.code == "broker.denied"
        assert refused.value.reason_code == 0x95
        await link.subscribe([f"{topic_root}/t"])
        await link.publish(f"{topic_root}/t", bytes(256 * 1024))
        (message,) = await take(link, 1)
        assert len(message.payload) == 256 * 1024


async def test_packets_above_our_limit_are_not_sent_to_us(broker: Broker, unique: Unique, topic_root: str) -> None:
    async with (
        connect(settings(broker.url, unique("sub"), max_packet_bytes=1000)) as link,
        connect(settings(broker.url, unique("pub"))) as sender,
    ):
        await link.subscribe([f"{topic_root}/#"])
        await sender.publish(f"{topic_root}/t", bytes(2000))
        await sender.publish(f"{topic_root}/t", b"end")
        assert await take_until(link, f"{topic_root}/t", b"end") == []


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#"])
async def test_publishing_on_what_is_no_topic_name_is_a_programming_error(
    broker: Broker, unique: Unique, topic: str
) -> None:
    async with connect(settings(broker.url, unique("a"))) as link:
        with pytest.raises(ValueError, match="topic"):
            await link.publish(topic, b"x")


async def test_a_publish_that_the_acl_denies_is_refused_by_name(production_broker: ProductionBroker) -> None:
    async with connect(production_broker.settings("dev-a")) as link:
        with pytest.raises(PublishRefused, match=r"release/stable/tacho.*[Nn]ot authorized") as refused:
            await link.publish("flotilla/v1/release/stable/tacho", b"forged", retain=True)
        assert refused.value.reason_code == 0x87
        assert refused.value.topic == "flotilla/v1/release/stable/tacho"
        await link.publish("flotilla/v1/devices/dev-a/events", b"fine")


async def test_the_last_will_comes_after_its_delay_however_the_link_ends(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    async with connect(settings(broker.url, unique("watch"))) as watch:
        await watch.subscribe([f"{topic_root}/#"])
        will = Will(topic=f"{topic_root}/status", payload=b"gone", delay_s=1)
        with pytest.raises(RuntimeError, match="bug"):
            async with connect(settings(broker.url, unique("dev")), will=will):
                left_at = time.monotonic()
                raise RuntimeError("bug")
        (message,) = await take(watch, 1)
        assert message.payload == b"gone"
        assert message.content_type == "application/json"
        assert time.monotonic() - left_at >= 0.9
    async with connect(settings(broker.url, unique("late"))) as late:
        await late.subscribe([f"{topic_root}/status"])
        (kept,) = await take(late, 1)
        assert kept.retain


async def test_no_last_will_comes_when_it_was_withdrawn_or_we_are_back_in_time(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    status = f"{topic_root}/status"
    async with connect(settings(broker.url, unique("watch"))) as watch:
        await watch.subscribe([f"{topic_root}/#"])
        async with connect(
            settings(broker.url, unique("polite")), will=Will(topic=status, payload=b"1", delay_s=0)
        ) as it:
            it.withdraw_will()
        quick = settings(broker.url, unique("quick"))
        async with connect(quick, will=Will(topic=status, payload=b"2", delay_s=2)):
            pass
        async with connect(quick, will=Will(topic=status, payload=b"3", delay_s=2)) as it:
            it.withdraw_will()
        # A will with a longer delay, left after the others, shows that theirs would have come by now.
        async with connect(settings(broker.url, unique("slow")), will=Will(topic=status, payload=b"4", delay_s=4)):
            pass
        assert await take_until(watch, status, b"4") == []


async def test_a_second_connection_with_the_same_id_ends_the_first(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    who = settings(broker.url, unique("twin"))
    async with connect(who) as first:
        hearing = asyncio.create_task(first.batch(1))
        async with connect(who) as second:
            # TakenOver from a broker that says why; Mosquitto does from 2.0.15 on.
            with pytest.raises(LinkLost):
                await asyncio.wait_for(hearing, BOUND_S)
            with pytest.raises(LinkLost):
                await first.publish(f"{topic_root}/t", b"x")
            with pytest.raises(LinkLost):
                await first.subscribe([f"{topic_root}/t"])
            await second.publish(f"{topic_root}/t", b"x")


async def test_a_wrong_password_and_an_unknown_user_are_refused(production_broker: ProductionBroker) -> None:
    right = production_broker.settings("dev-a")
    wrong: list[dict[str, str | None]] = [
        {"password": "wrong"},
        {"username": "nobody"},
        {"username": None, "password": None},
    ]
    for changes in wrong:
        with pytest.raises(ConnectRefused, match=r"refused the connection: Not authorized \(0x87\)") as refused:
            async with connect(replace(right, **changes)):  # type: ignore[arg-type]  # only strings are changed
                pass
        assert refused.value.code == "broker.refused"


async def test_an_authority_we_do_not_trust_ends_the_attempt(
    production_broker: ProductionBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "Another authority")
    for ca_file in (stranger.ca_file, None):
        with pytest.raises(BrokerUntrusted, match="certificate is not trusted") as refused:
            async with connect(production_broker.settings("dev-a", ca_file=ca_file)):
                pass
        assert refused.value.code == "broker.tls"
        assert "\n" not in str(refused.value)


async def test_tls_on_a_port_without_it_and_the_other_way_round(
    broker: Broker, production_broker: ProductionBroker, unique: Unique
) -> None:
    with pytest.raises(BrokerUntrusted, match="TLS port"):
        async with connect(settings(broker.url.replace("mqtt:", "mqtts:"), unique("a"), connect_timeout_s=3)):
            pass
    plain = LinkSettings(url=production_broker.url.replace("mqtts:", "mqtt:"), client_id=unique("a"))
    with pytest.raises(BrokerUnreachable, match=r"closed the connection before answering.*without TLS"):
        async with connect(plain):
            pass


async def test_a_client_certificate_says_who_a_device_is(
    production_broker: ProductionBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with connect(production_broker.certificate_settings("dev-b")) as link:
        await link.publish("flotilla/v1/devices/dev-b/events", b"fine")
        with pytest.raises(PublishRefused):
            await link.publish("flotilla/v1/devices/dev-a/events", b"forged")
    forged = Authority(tmp_path_factory.mktemp("forger")).client("dev-b")
    for files in ({"cert_file": None, "key_file": None}, {"cert_file": forged.cert_file, "key_file": forged.key_file}):
        with pytest.raises(BrokerUntrusted, match=r"ended TLS|client certificate"):
            async with connect(production_broker.certificate_settings("dev-b", **files)):
                pass


async def test_a_burst_over_tls_arrives_once_each_and_in_order(
    make_production_broker: Callable[[tuple[str, ...]], ProductionBroker],
) -> None:
    production_broker = make_production_broker(("controller", "dev-c"))
    async with (
        connect(production_broker.settings("controller", receive_maximum=1000)) as link,
        connect(production_broker.settings("dev-c")) as sender,
    ):
        await link.subscribe(["flotilla/v1/devices/dev-c/events"])
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take(link, 2000, bound_s=60))
            for number in range(2000):
                group.create_task(sender.publish("flotilla/v1/devices/dev-c/events", b"%d" % number, timeout_s=60))
        assert [int(message.payload) for message in taking.result()] == list(range(2000))


async def test_a_broker_that_is_not_there_is_told_in_one_line(unique: Unique) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnreachable, match="Connection refused") as refused:
        async with connect(settings(url, unique("a"))):
            pass
    assert refused.value.code == "broker.unreachable"
    assert url in str(refused.value)
    with pytest.raises(BrokerUnreachable, match="looked up"):
        async with connect(settings("mqtt://no-such-host.invalid", unique("a"))):
            pass
    with pytest.raises(SettingsError, match="host name"):
        async with connect(settings(f"mqtt://{'x' * 70}.example", unique("a"))):
            pass


async def test_killing_the_broker_ends_everything_that_waits(
    make_broker: Callable[[], Broker], unique: Unique, topic_root: str
) -> None:
    broker = make_broker()
    async with connect(settings(broker.url, unique("a"))) as link:
        hearing = asyncio.create_task(link.batch(1))
        losing = asyncio.create_task(link.wait_lost())
        await link.publish(f"{topic_root}/t", b"x")
        broker.kill()
        with pytest.raises(LinkLost, match="broke") as lost:
            await asyncio.wait_for(hearing, BOUND_S)
        assert lost.value.code == "broker.lost"
        assert isinstance(await asyncio.wait_for(losing, BOUND_S), LinkLost)
        with pytest.raises(LinkLost):
            await link.publish(f"{topic_root}/t", b"x")


async def test_an_idle_link_wakes_less_than_once_a_second(broker: Broker, unique: Unique) -> None:
    def idle() -> int:
        selector = CountingSelector()

        async def wait() -> int:
            async with connect(settings(broker.url, unique("idle"))) as link:
                await link.subscribe([unique("nothing")])
                before = selector.turns
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(link.batch(1), 3)
                return selector.turns - before

        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(wait())

    # One turn starts the wait and two end it.
    assert await asyncio.to_thread(idle) <= 3 + 3


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048, reason="no more files may be opened here")
async def test_a_process_with_more_than_1023_open_files_can_still_connect(broker: Broker, unique: Unique) -> None:
    with many_open_files(1100):
        async with connect(settings(broker.url, unique("a"))) as link:
            await link.subscribe([unique("t")])


async def test_messages_of_many_tasks_keep_the_order_of_the_calls(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    async with (
        connect(settings(broker.url, unique("sub"))) as link,
        connect(settings(broker.url, unique("pub"), send_maximum=3)) as sender,
    ):
        await link.subscribe([f"{topic_root}/#"])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sender.publish(f"{topic_root}/t", b"%d" % n)) for n in range(50)]
            await asyncio.sleep(0)  # all have begun, three are under way, the others wait
            tasks[20].cancel()
            tasks[-1].cancel()
        got = [int(message.payload) for message in await take(link, 48)]
        assert got == [n for n in range(49) if n != 20]
        assert Counter(got).most_common(1)[0][1] == 1


class CountingSelector(selectors.DefaultSelector):
    """Counts the turns of the event loop that uses it."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


@contextmanager
def many_open_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files: list[int] = []
    try:
        files.extend(os.dup(0) for _ in range(count))
        yield
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
