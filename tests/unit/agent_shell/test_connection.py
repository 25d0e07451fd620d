"""Subscriptions that follow what the device takes, and two agents with one id."""

import asyncio
from collections.abc import Sequence

import pytest

from device_agent.conditions import BrokerReach
from device_agent.connection import MAX_TAKE_OVERS, Connection, NotKeptError
from device_agent.heard import Heard
from device_agent.inbox import Inbox
from device_agent.policy import DeviceView
from device_agent.reporter import Reporter
from schemas.errors import DeviceError, NetworkError
from schemas.topics import Topics
from tests.support.links import until
from tests.unit.agent_shell.fakes import NOW, FakeLink, MemoryNotes, MemoryOutbox
from tests.unit.agent_shell.test_inbox import Decisions
from transport import LinkSettings, LinkState, PublishRefused, SubscribeRefused, TakenOver, TransportError

OWN = ["flotilla/v1/devices/pi-1/desired", "flotilla/v1/devices/pi-1/commands"]


class SubscribableLink(FakeLink):
    """Remembers what is subscribed to; `denied` filters are refused."""

    def __init__(self, denied: Sequence[str] = ()) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.denied = denied
        self.will_withdrawn = False

    async def subscribe(self, topics: Sequence[str]) -> None:
        self.asked += topics
        for topic in topics:
            if topic in self.denied:
                raise SubscribeRefused(f"{topic}: not authorised", topic=topic, reason_code=0x87)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self.ended += topics

    def withdraw_will(self) -> None:
        self.will_withdrawn = True


class Bench:
    """A connection with parts that remember; `view` is what the device takes."""

    def __init__(self) -> None:
        self.view = DeviceView(id="pi-1", channel="stable", packages=frozenset({"tacho"}), every_package=False)
        self.notes = MemoryNotes()
        self.time = 0.0
        self.stop = asyncio.Event()
        decisions = Decisions()
        reporter = Reporter(
            topics=Topics(),
            outbox=MemoryOutbox(),
            view=lambda: self.view,
            boot_id="boot",
            device="pi-1",
            now=lambda: NOW,
        )
        inbox = Inbox(topics=Topics(), device="pi-1", decisions=decisions, take_command=decisions.take_command)
        self.reach = BrokerReach()
        self.connection = Connection(
            settings=LinkSettings(url="mqtt://127.0.0.1:1", client_id="pi-1"),
            topics=Topics(),
            device="pi-1",
            inbox=inbox,
            reporter=reporter,
            subscriptions=Heard(self.notes),
            view=lambda: self.view,
            next_session=lambda: 1,
            stop=self.stop,
            clock=lambda: self.time,
            reach=self.reach,
        )

    async def attend(self, link: SubscribableLink) -> "asyncio.Task[None]":
        task = asyncio.create_task(self.connection._attend(link))  # type: ignore[arg-type]  # a fake link
        await until(lambda: len(link.asked) >= 3)
        return task


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


async def test_the_devices_own_topics_come_first_and_presence_before_releases() -> None:
    bench, link = Bench(), SubscribableLink()
    await end(await bench.attend(link))
    assert link.asked == [*OWN, "flotilla/v1/release/stable/tacho"]
    assert link.published[0][0].endswith("/status")


async def test_a_broker_that_refuses_presence_does_not_cost_the_releases() -> None:
    bench, link = Bench(), SubscribableLink()
    link.answers = [PublishRefused("not authorised", topic="status", reason_code=0x87)] * 1000
    await end(await bench.attend(link))
    assert link.published[0][0].endswith("/status")
    assert link.asked == [*OWN, "flotilla/v1/release/stable/tacho"]


async def test_installed_and_pinned_packages_are_named_and_the_wildcard_only_for_all() -> None:
    bench, link = Bench(), SubscribableLink()
    bench.view = DeviceView(id="pi-1", channel="stable", installed=frozenset({"radio"}), pins={"camera": "1.0.0"})
    task = await bench.attend(link)
    await until(lambda: len(link.asked) == 5)
    await end(task)
    assert link.asked[2:] == [f"flotilla/v1/release/stable/{name}" for name in ("+", "camera", "radio")]


async def test_a_change_of_channel_changes_subscriptions_at_once_and_once() -> None:
    bench, link = Bench(), SubscribableLink()
    task = await bench.attend(link)
    bench.view = DeviceView(id="pi-1", channel="beta", packages=frozenset({"tacho"}), every_package=False)
    bench.connection.refresh()
    await until(lambda: bool(link.ended))
    bench.connection.refresh()
    await until(lambda: len(link.asked) == 4)
    await end(task)
    assert link.asked[2:] == ["flotilla/v1/release/stable/tacho", "flotilla/v1/release/beta/tacho"]
    assert link.ended == ["flotilla/v1/release/stable/tacho"]


async def test_what_the_brokers_session_still_holds_from_before_is_ended() -> None:
    bench, first, second = Bench(), SubscribableLink(), SubscribableLink()
    task = await bench.attend(first)
    await until(lambda: bool(bench.notes.notes("subscriptions")))
    await end(task)
    bench.view = DeviceView(id="pi-1", channel="beta", packages=frozenset({"tacho"}), every_package=False)
    await end(await bench.attend(second))
    assert second.ended == ["flotilla/v1/release/stable/tacho"]


async def test_subscriptions_are_noted_where_they_change_and_not_with_every_update() -> None:
    bench, link = Bench(), SubscribableLink()
    noted, looks = list[str | None](), 0
    keep = bench.notes.set_note

    def note(key: str, value: str | None) -> None:
        noted.append(value)
        keep(key, value)

    def view() -> DeviceView:
        nonlocal looks
        looks += 1
        return bench.view

    async def looked(times: int) -> None:
        await until(lambda: looks == times)

    bench.notes.set_note = note  # type: ignore[method-assign]  # to count
    bench.connection._view = view
    task = await bench.attend(link)
    await looked(1)
    for times in (2, 3):
        bench.connection.refresh()
        await looked(times)
    bench.view = DeviceView(id="pi-1", channel="beta", packages=frozenset({"tacho"}), every_package=False)
    bench.connection.refresh()
    await until(lambda: len(noted) == 3)
    await end(task)
    stable, beta = "flotilla/v1/release/stable/tacho", "flotilla/v1/release/beta/tacho"
    assert noted == [f'["{stable}"]', f'["{beta}","{stable}"]', f'["{beta}"]']


async def test_one_subscription_that_is_refused_does_not_cost_the_others(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.view = DeviceView(id="pi-1", channel="stable", packages=frozenset({"camera", "tacho"}), every_package=False)
    link = SubscribableLink(denied=["flotilla/v1/release/stable/camera"])
    task = await bench.attend(link)
    await until(lambda: len(link.asked) == 4)
    await end(task)
    assert len([r for r in caplog.records if "action=subscribe" in r.message]) == 1


@pytest.mark.parametrize("in_order", [True, False])
async def test_the_last_word_is_the_agents_own_only_when_it_was_told_to_end(in_order: bool) -> None:
    bench, link = Bench(), SubscribableLink()
    task = await bench.attend(link)
    if in_order:
        bench.stop.set()
    await end(task)
    assert link.will_withdrawn is in_order
    assert (b'"online":false' in link.published[-1][1]) is in_order


@pytest.mark.parametrize(("apart_s", "gives_up"), [(1.0, True), (29.0, True), (31.0, False)])
async def test_after_three_take_overs_within_a_minute_it_gives_up(
    apart_s: float, gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()

    async def keep_connected(*_: object, **wired: object) -> None:
        for _ in range(MAX_TAKE_OVERS):
            wired["on_state"](LinkState(state="waiting", error=TakenOver("another one came"), wait_s=1))  # type: ignore[operator]
            bench.time += apart_s

    monkeypatch.setattr("device_agent.connection.keep_connected", keep_connected)
    if not gives_up:
        await bench.connection.keep()
        return
    with pytest.raises(NetworkError, match="another agent with the id pi-1") as caught:
        await bench.connection.keep()
    assert caught.value.code == "broker.duplicate"


async def test_whoever_asks_is_told_whether_there_is_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = Bench(), list[bool]()

    async def keep_connected(*_: object, **wired: object) -> None:
        for state in ("connecting", "connected", "waiting", "connecting", "connected", "stopped"):
            wired["on_state"](LinkState(state=state, error=None, wait_s=1))  # type: ignore[operator]
            seen.append(bench.reach.connected)

    monkeypatch.setattr("device_agent.connection.keep_connected", keep_connected)
    await bench.connection.keep()
    assert seen == [False, True, False, False, True, False]


async def test_a_disk_that_takes_nothing_costs_the_connection_and_not_the_agent() -> None:
    bench, link = Bench(), SubscribableLink()

    def full(_key: str, _value: str | None) -> None:
        raise DeviceError("disk.full", "agent.db cannot grow: the disk is full")

    bench.notes.set_note = full  # type: ignore[method-assign]  # as the journal does then
    task = asyncio.create_task(bench.connection._attend(link))  # type: ignore[arg-type]  # a fake link
    await asyncio.wait({task})
    with pytest.raises(NotKeptError, match="the disk is full"):
        task.result()
    # which `keep_connected` takes for a lost connection
    assert issubclass(NotKeptError, TransportError)


async def test_an_outbox_that_cannot_be_written_says_why_however_deep_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, link = Bench(), SubscribableLink()

    def full(_outbox: MemoryOutbox, _limit: int = 100) -> list[object]:
        raise DeviceError("disk.full", "agent.db cannot grow: the disk is full")

    monkeypatch.setattr(MemoryOutbox, "unsent", full)
    task = asyncio.create_task(bench.connection._attend(link))  # type: ignore[arg-type]  # a fake link
    await asyncio.wait({task})
    with pytest.raises(NotKeptError, match="the disk is full"):
        task.result()
