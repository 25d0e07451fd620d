"""What the project's own Mosquitto configurations promise, by what is delivered."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from broker_config import BrokerFailed, MosquittoProcess, answers
from schemas.topics import Topics
from tests.support.broker import Broker, ProductionBroker
from tests.support.links import settings, take, take_until
from transport import Link, LinkLost, LinkSettings, PublishRefused, connect

pytestmark = pytest.mark.wire

Unique = Callable[[str], str]

TOPICS = Topics()
A, B = "dev-a", "dev-b"
HOME = "homeassistant"
# Who may write each topic of the contract, and who hears it. All others may and do not.
RULES: dict[str, tuple[set[str], set[str]]] = {
    TOPICS.release("stable", "tacho"): ({"controller"}, {A, B, "controller", "watcher", HOME}),
    TOPICS.controller_status(): ({"controller"}, {A, B, "controller", "watcher", HOME}),
    TOPICS.device(A, "desired"): ({"controller"}, {A, "controller", "watcher"}),
    TOPICS.device(A, "commands"): ({"controller"}, {A, "controller", "watcher"}),
    TOPICS.device(A, "reported"): ({A}, {"controller", "watcher"}),
    TOPICS.device(A, "status"): ({A}, {"controller", "watcher", HOME}),
    TOPICS.device(A, "events"): ({A}, {"controller", "watcher"}),
    TOPICS.device(B, "desired"): ({"controller"}, {B, "controller", "watcher"}),
    TOPICS.device(B, "commands"): ({"controller"}, {B, "controller", "watcher"}),
    TOPICS.device(B, "events"): ({B}, {"controller", "watcher"}),
    # What a Home Assistant is shown, and the button that it may press.
    "homeassistant/update/flotilla_dev-a/tacho/config": ({"controller", HOME}, {"controller", HOME}),
    "homeassistant/update/flotilla_dev-a/tacho/state": ({"controller", HOME}, {HOME}),
    "homeassistant/update/flotilla_dev-a/tacho/install": ({HOME}, {"controller", HOME}),
    "homeassistant/status": ({HOME}, {HOME}),
    # Not in the contract: nobody's.
    "flotilla/v1/devices/dev-a/secrets": (set(), {"controller", "watcher"}),
    "flotilla/v1/release/stable": (set(), {"watcher"}),
    "flotilla/v2/release/stable/tacho": (set(), set()),
    "elsewhere": (set(), set()),
}
USERS = (A, B, "controller", "watcher", HOME)


async def links_of(stack: AsyncExitStack, broker: ProductionBroker) -> dict[str, Link]:
    links = {}
    for user in USERS:
        who = broker.settings(user, clean_start=True)
        links[user] = await stack.enter_async_context(connect(who))
    return links


async def test_everybody_may_write_what_the_contract_says_and_nothing_else(
    production_broker: ProductionBroker,
) -> None:
    async with AsyncExitStack() as stack:
        for user, link in (await links_of(stack, production_broker)).items():
            may = set()
            for topic in RULES:
                try:
                    await link.publish(topic, b"{}")
                    may.add(topic)
                except PublishRefused as refused:
                    assert refused.reason_code == 0x87
            assert may == {topic for topic, (writers, _) in RULES.items() if user in writers}, user


async def test_everybody_hears_what_the_contract_says_and_nothing_else(
    production_broker: ProductionBroker,
) -> None:
    async with AsyncExitStack() as stack:
        links = await links_of(stack, production_broker)
        for link in links.values():
            await link.subscribe(["#", TOPICS.everything(), *RULES])  # granted to all, whatever the ACL says
        for topic, (writers, _) in RULES.items():
            for writer in writers:
                await links[writer].publish(topic, b"heard?")
        await links["controller"].publish(TOPICS.controller_status(), b"end")
        await links[A].publish(TOPICS.device(A, "events"), b"end")
        for user, link in links.items():
            last = TOPICS.device(A, "events") if user == "controller" else TOPICS.controller_status()
            heard = {message.topic for message in await take_until(link, last, b"end") if message.payload == b"heard?"}
            expected = {topic for topic, (writers, readers) in RULES.items() if writers and user in readers}
            assert heard == expected, user


async def test_a_device_can_not_take_the_place_of_another_one(production_broker: ProductionBroker) -> None:
    async with connect(production_broker.settings(A, session_expiry_s=60, clean_start=True)) as victim:
        await victim.subscribe([TOPICS.device(A, "desired")])
        impostor = production_broker.settings(B, client_id=A, session_expiry_s=60)
        async with connect(impostor) as thief:
            assert not thief.session_present
            await thief.subscribe([TOPICS.device(A, "desired")])
            async with connect(production_broker.settings("controller")) as controller:
                await controller.publish(TOPICS.device(A, "desired"), b"for A")
            # the victim is still connected, and hears what is its own
            await take_until(victim, TOPICS.device(A, "desired"), b"for A")
            with pytest.raises(PublishRefused):
                await thief.publish(TOPICS.device(A, "status"), b"forged")


async def test_what_the_broker_acknowledged_survives_its_being_killed(
    make_broker: Callable[[], Broker], unique: Unique
) -> None:
    broker = make_broker()
    away, sender = settings(broker.url, unique("away")), settings(broker.url, unique("sender"))
    await publish_some(broker, away, sender, "t")
    async with connect(away) as link:
        assert link.session_present
        queued = await take(link, 50)
        assert [message.payload for message in queued] == [b"%d" % n for n in range(50)]
    async with connect(sender) as link:
        await link.subscribe(["t/kept"])
        (kept,) = await take(link, 1)
        assert (kept.payload, kept.retain) == (b"49", True)


async def test_it_survives_in_production_too(
    make_production_broker: Callable[[tuple[str, ...]], ProductionBroker],
) -> None:
    production = make_production_broker(("controller", A))
    away = production.settings(A, session_expiry_s=300)
    sender = production.settings("controller", session_expiry_s=300)
    async with connect(away) as link:
        await link.subscribe([TOPICS.device(A, "commands")])
    async with connect(sender) as link:
        await link.publish(TOPICS.release("stable", "tacho"), b"1.0.0", retain=True)
        await link.publish(TOPICS.device(A, "commands"), b"check")
        await round_trip(link)
        await asyncio.to_thread(production.broker.kill)
    await asyncio.to_thread(production.broker.start)
    async with connect(away) as link:
        assert link.session_present
        assert [message.payload for message in await take(link, 1)] == [b"check"]
        await link.subscribe([TOPICS.release("stable", "tacho")])
        (kept,) = await take(link, 1)
        assert (kept.payload, kept.retain) == (b"1.0.0", True)


async def test_a_queue_of_more_than_1000_messages_is_kept_whole(
    broker: Broker, unique: Unique, topic_root: str
) -> None:
    away = settings(broker.url, unique("away"))
    async with connect(away) as link:
        await link.subscribe([f"{topic_root}/#"])
    async with connect(settings(broker.url, unique("sender"))) as link:
        await asyncio.gather(*(link.publish(f"{topic_root}/t", b"%d" % n, timeout_s=60) for n in range(1200)))
    async with connect(away) as link:
        assert [int(message.payload) for message in await take(link, 1200)] == list(range(1200))


async def test_a_denied_publish_does_not_cost_the_connection(production_broker: ProductionBroker) -> None:
    # `max_queued_messages 0` does that in Mosquitto up to 2.0.21.
    async with connect(production_broker.settings(A)) as link:
        for _ in range(5):
            with pytest.raises(PublishRefused):
                await link.publish(TOPICS.controller_status(), b"forged")
        await link.publish(TOPICS.device(A, "events"), b"{}")


@pytest.mark.parametrize("name", ["broker", "production_broker"])
async def test_the_brokers_limits_are_the_configured_ones(name: str, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(name)
    who = given.settings(A) if isinstance(given, ProductionBroker) else settings(given.url, "limits")
    async with connect(who) as link:
        details: Any = link._channel.greeting.result().properties
        assert details.MaximumPacketSize == 266240
        assert details.ReceiveMaximum == 1000


def test_a_process_restarts_on_its_port_and_stops(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    with MosquittoProcess(folder) as process:
        url, first = process.url, process.pid
        process.start()
        assert process.pid == first
        process.restart()
        assert process.url == url
        assert process.pid not in {None, first}
        assert answers("127.0.0.1", process.port)
        process.kill()
        assert not answers("127.0.0.1", process.port)
        process.start()
        assert process.url == url
    assert not answers("127.0.0.1", process.port)


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with MosquittoProcess(tmp_path / "first") as first:
        second = MosquittoProcess(tmp_path / "second", port=first.port)
        with pytest.raises(BrokerFailed, match=f"127.0.0.1:{first.port}: Address already in use"):
            second.start()
        assert second.pid is None
        assert not second.log.exists()


def test_a_broker_that_does_not_come_up_says_why_in_one_line(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        name: tmp_path / name for name in ("ca_file", "cert_file", "key_file", "acl_file", "password_file")
    }
    process = MosquittoProcess(tmp_path / "broker", name="production.conf", **files)
    with pytest.raises(BrokerFailed, match="mosquitto ended with") as failed:
        process.start()
    assert failed.value.code == "broker.failed"
    assert "Error" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert process.pid is None


async def publish_some(broker: Broker, away: LinkSettings, sender: LinkSettings, root: str) -> None:
    """Retained and queued messages, each answered by PUBACK; then the broker is killed and started."""
    async with connect(away) as link:
        await link.subscribe([f"{root}/queued"])
    async with connect(sender) as link:
        for number in range(50):
            await link.publish(f"{root}/kept", b"%d" % number, retain=True)
            await link.publish(f"{root}/queued", b"%d" % number)
        await round_trip(link)
        await asyncio.to_thread(broker.kill)
        assert isinstance(await link.wait_lost(), LinkLost)
    await asyncio.to_thread(broker.start)


async def round_trip(link: Link) -> None:
    """The broker saves at the end of the round of its loop that answered: one more round is enough."""
    await link.unsubscribe(["none"])
    await link.unsubscribe(["none"])
