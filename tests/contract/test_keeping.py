"""Staying connected through broker restarts, refusals, twins and shutdowns."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker_config import free_port
from tests.support.broker import Broker, ProductionBroker
from tests.support.links import BOUND_S, settings, take, until
from tests.support.scripted_broker import Peer, scripted_broker
from transport import (
    Backoff,
    ConnectRefused,
    Link,
    LinkLost,
    LinkState,
    PublishRefused,
    SettingsError,
    TakenOver,
    TransportError,
    Will,
    connect,
    keep_connected,
)

pytestmark = pytest.mark.wire

Unique = Callable[[str], str]


def quick() -> Backoff:
    return Backoff(first_s=0.02, limit_s=0.2)


@asynccontextmanager
async def running(task: "asyncio.Task[None]", stop: asyncio.Event) -> AsyncIterator[None]:
    """Let it run for the block, then stop it in good order, within bounds."""
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, BOUND_S)


async def forever(_link: Link) -> None:
    await asyncio.Event().wait()


async def test_nothing_is_lost_for_good_when_the_broker_is_killed_in_between(
    make_broker: Callable[[], Broker], unique: Unique, topic_root: str
) -> None:
    broker = make_broker()
    outbox = list(range(600))
    taken: list[int] = []
    states: list[LinkState] = []
    stop = asyncio.Event()

    async def send(link: Link) -> None:
        while outbox:
            number = outbox[0]
            await link.publish(f"{topic_root}/events", b"%d" % number)
            outbox.remove(number)

    async def receive(link: Link) -> None:
        await link.subscribe([f"{topic_root}/#"])
        async for message in link.messages():
            if int(message.payload) not in taken:
                taken.append(int(message.payload))
            await link.acknowledge(message)

    receiver = settings(broker.url, unique("receiver"))
    receiving = asyncio.create_task(
        keep_connected(receiver, receive, backoff=quick(), stop=stop, on_state=states.append)
    )
    async with running(receiving, stop):
        await until(lambda: bool(states) and states[-1].state == "connected")
        sending = asyncio.create_task(
            keep_connected(settings(broker.url, unique("sender")), send, backoff=quick(), stop=stop)
        )
        for mark in (150, 350):
            await until(lambda: len(outbox) < 600 - mark and states[-1].state == "connected")  # noqa: B023 - awaited here
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
        await asyncio.wait_for(sending, BOUND_S)  # its session returns once the outbox is empty
        await until(lambda: 599 in taken)
        # What the broker had taken and not passed on died with it, at most what may be on its way at once; so the
        # receiver asks for what it misses, as the controller does with `replay`.
        missing = sorted(set(range(600)) - set(taken))
        assert len(missing) <= 2 * receiver.receive_maximum
        outbox += missing
        await asyncio.wait_for(
            keep_connected(settings(broker.url, unique("sender")), send, backoff=quick(), stop=stop), BOUND_S
        )
        await until(lambda: len(taken) == 600)
    assert sorted(taken) == list(range(600))
    lost = [state.error for state in states if state.error is not None]
    assert {error.code for error in lost} <= {"broker.lost", "broker.unreachable", "broker.taken_over"}
    assert lost


async def test_states_tell_what_happens_and_stop_ends_a_long_wait_at_once(unique: Unique) -> None:
    stop = asyncio.Event()
    states: list[LinkState] = []
    url = f"mqtt://127.0.0.1:{free_port()}"
    slow = Backoff(first_s=100_000, limit_s=100_000)
    keeping = asyncio.create_task(
        keep_connected(settings(url, unique("a")), forever, backoff=slow, stop=stop, on_state=states.append)
    )
    async with running(keeping, stop):
        await until(lambda: len(states) == 2)
    assert [state.state for state in states] == ["connecting", "waiting", "stopped"]
    assert states[1].error is not None
    assert states[1].error.code == "broker.unreachable"
    assert states[1].wait_s > 0


async def test_a_session_that_is_stopped_has_a_last_word(broker: Broker, unique: Unique, topic_root: str) -> None:
    stop = asyncio.Event()
    connected = asyncio.Event()
    status = f"{topic_root}/status"

    async def session(link: Link) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(link))
                await link.publish(status, b"online", retain=True)
                connected.set()
        finally:
            await link.publish(status, b"offline", retain=True)
            link.withdraw_will()

    async with connect(settings(broker.url, unique("watch"))) as watch:
        await watch.subscribe([status])
        keeping = asyncio.create_task(
            keep_connected(
                settings(broker.url, unique("a")),
                session,
                will_factory=lambda: Will(topic=status, payload=b"will", delay_s=0),
                stop=stop,
            )
        )
        async with running(keeping, stop):
            await asyncio.wait_for(connected.wait(), BOUND_S)
        assert [message.payload for message in await take(watch, 2)] == [b"online", b"offline"]
        async with connect(settings(broker.url, unique("after"))) as after:
            await after.publish(status, b"end")
        # Without a delay a will would have come before this.
        assert [message.payload for message in await take(watch, 1)] == [b"end"]


async def test_a_session_is_cancelled_when_its_link_is_lost_even_if_it_uses_it_no_more() -> None:
    ended = asyncio.Event()
    stop = asyncio.Event()
    links: list[Link] = []

    async def session(link: Link) -> None:
        links.append(link)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def hang_up(peer: Peer) -> None:
        await peer.greet()

    async with scripted_broker(hang_up) as url:
        keeping = asyncio.create_task(keep_connected(settings(url, "a"), session, backoff=quick(), stop=stop))
        async with running(keeping, stop):
            await asyncio.wait_for(ended.wait(), BOUND_S)
            await until(lambda: len(links) >= 2)
        assert len(set(map(id, links))) == len(links)


async def test_each_attempt_has_a_will_of_its_own(broker: Broker, unique: Unique, topic_root: str) -> None:
    stop = asyncio.Event()
    numbers: list[int] = []

    async def will() -> Will:
        numbers.append(len(numbers) + 1)
        return Will(topic=f"{topic_root}/status", payload=b"%d" % numbers[-1], delay_s=0)

    async def session(link: Link) -> None:
        raise LinkLost(f"enough, {link.session_present}")

    async with connect(settings(broker.url, unique("watch"))) as watch:
        await watch.subscribe([f"{topic_root}/#"])
        keeping = asyncio.create_task(
            keep_connected(settings(broker.url, unique("a")), session, will_factory=will, backoff=quick(), stop=stop)
        )
        async with running(keeping, stop):
            assert [message.payload for message in await take(watch, 3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("says_why", [True, False])
async def test_two_with_one_id_are_told_so(says_why: bool) -> None:
    stop = asyncio.Event()
    errors: list[TransportError] = []

    def note(state: LinkState) -> None:
        if state.error is not None:
            errors.append(state.error)

    async def script(peer: Peer) -> None:
        await peer.greet()
        if says_why:
            await peer.send(bytes.fromhex("e0028e00"))

    async with scripted_broker(script) as url:
        keeping = asyncio.create_task(
            keep_connected(settings(url, "twin"), forever, backoff=quick(), stop=stop, on_state=note)
        )
        async with running(keeping, stop):
            await until(lambda: len(errors) >= 4)
    # Told at once, or concluded from three short links in a row.
    silent = 0 if says_why else 2
    assert [type(error) for error in errors[:4]] == [LinkLost] * silent + [TakenOver] * (4 - silent)
    assert all(error.code == "broker.taken_over" for error in errors[silent:4])
    assert "client id" in str(errors[3])


async def test_two_real_connections_with_one_id_find_out(broker: Broker, unique: Unique) -> None:
    stop = asyncio.Event()
    states: list[LinkState] = []
    who = settings(broker.url, unique("twin"))
    async with asyncio.timeout(BOUND_S):
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(
                    keep_connected(who, forever, backoff=quick(), stop=stop, on_state=states.append), name="twin"
                )
            await until(lambda: any(isinstance(state.error, TakenOver) for state in states))
            stop.set()


@pytest.mark.parametrize("defect", [False, True])
async def test_a_session_whose_link_is_lost_while_it_is_stopped(defect: bool) -> None:
    """The loss is no news and nothing is left to complain about; a defect is raised all the same."""
    stop = asyncio.Event()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    inside = asyncio.Event()

    async def session(_link: Link) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ExceptionGroup("ended", [ZeroDivisionError("a bug") if defect else LinkLost("gone")])

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.silence()

    async with scripted_broker(script) as url:
        keeping = asyncio.create_task(keep_connected(settings(url, "twin"), session, backoff=quick(), stop=stop))
        await asyncio.wait_for(inside.wait(), BOUND_S)
        stop.set()
        await asyncio.wait({keeping}, timeout=BOUND_S)
    error = keeping.exception()
    assert (error is not None) is defect
    assert not defect or "a bug" in repr(error)
    del keeping, error
    gc.collect()
    assert complaints == []


async def test_a_refusal_is_tried_again_later_and_named(production_broker: ProductionBroker) -> None:
    stop = asyncio.Event()
    errors: list[TransportError] = []

    def note(state: LinkState) -> None:
        if state.error is not None:
            errors.append(state.error)

    async def session(link: Link) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(link))
            group.create_task(link.publish("flotilla/v1/controller/status", b"not mine"))

    who = production_broker.settings("dev-c")
    keeping = asyncio.create_task(keep_connected(who, session, backoff=quick(), stop=stop, on_state=note))
    async with running(keeping, stop):
        await until(lambda: len(errors) >= 2)
    assert {type(error) for error in errors} == {PublishRefused}

    errors.clear()
    stop.clear()
    wrong = production_broker.settings("dev-c", password="wrong")
    keeping = asyncio.create_task(keep_connected(wrong, session, backoff=quick(), stop=stop, on_state=note))
    async with running(keeping, stop):
        await until(lambda: len(errors) >= 2)
    assert {type(error) for error in errors} == {ConnectRefused}


@pytest.mark.parametrize("grouped", [True, False])
async def test_a_bug_in_a_session_is_no_loss_of_the_link(broker: Broker, unique: Unique, grouped: bool) -> None:
    async def fail() -> None:
        raise KeyError("bug")

    async def session(_link: Link) -> None:
        if not grouped:
            await fail()
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    with pytest.raises(ExceptionGroup if grouped else KeyError) as raised:
        await asyncio.wait_for(keep_connected(settings(broker.url, unique("a")), session), BOUND_S)
    assert "bug" in repr(raised.value)


async def test_settings_that_can_never_work_end_it() -> None:
    with pytest.raises(SettingsError, match="mqtt://HOST:PORT"):
        await asyncio.wait_for(keep_connected(settings("broker", "a"), forever), BOUND_S)


async def test_a_session_that_returns_ends_it(broker: Broker, unique: Unique) -> None:
    states: list[LinkState] = []

    async def session(link: Link) -> None:
        await link.subscribe([unique("t")])

    who = settings(broker.url, unique("a"))
    await asyncio.wait_for(keep_connected(who, session, on_state=states.append), BOUND_S)
    assert [state.state for state in states] == ["connecting", "connected", "stopped"]


async def test_cancelling_it_from_outside_closes_the_link(broker: Broker, unique: Unique) -> None:
    links: list[Link] = []

    async def session(link: Link) -> None:
        links.append(link)
        await forever(link)

    keeping = asyncio.create_task(keep_connected(settings(broker.url, unique("a")), session))
    await until(lambda: bool(links))
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(keeping, BOUND_S)
    with pytest.raises(LinkLost):
        await links[0].publish("t", b"x")
