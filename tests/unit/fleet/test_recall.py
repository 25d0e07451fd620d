"""What the controller waits for before it says anything, and what it takes of what it hears."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import pytest
from sqlalchemy import Engine

from controller.database import utc_now
from controller.fleet import recall
from controller.fleet.orders import OrderStore
from controller.fleet.recall import Recall
from controller.fleet.recall_store import Recalled, RecallStore, Said
from controller.fleet.refusals import Refusals
from controller.fleet.service import FleetService
from controller.rollouts.announcing import AnnouncementStore
from schemas.codec import encode
from schemas.messages import MAX_SEQ, Announcement, Desired, ReleaseState, RolloutPolicy, Targets
from schemas.topics import Topics
from tests.unit.fleet.builders import NOW, an_id
from transport import LinkSettings, Message


def retained(topic: str, payload: bytes) -> Message:
    return Message(topic=topic, payload=payload, retain=True, qos=1, content_type=None, expiry_s=None, handle=(0, 1))


def release(package: str, revision: int = 1) -> Message:
    said = Announcement(
        rollout=an_id(len(package)),
        revision=revision,
        package=package,
        version="2.0.0",
        channel="stable",
        state=ReleaseState.ACTIVE,
        targets=Targets(),
        policy=RolloutPolicy(),
        repository=["http://r"],
        published_at=NOW,
    )
    return retained(Topics().release("stable", package), encode(said))


async def test_what_is_no_utf8_is_left_alone_and_the_rest_is_taken(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A field that this version does not know is skipped unread, so the message itself is a good one."""
    recalled: list[Recalled] = []
    hearing = Recall(Topics(), RecallStore(engine), recalled.append, is_greeting=lambda _presence: False, clock=utc_now)
    refusals = Refusals()
    good = release("nix")
    bad_wish = retained(Topics().device("pi-1", "desired"), b'{"schema":1,"rev":3,"note":"\xff"}')
    tacho = release("tacho")
    bad_release = retained(tacho.topic, tacho.payload[:-1] + b',"note":"\xff"}')
    await hearing.take([bad_wish, bad_release, good], refusals)
    assert [topic.package for topic in AnnouncementStore(engine).topics(changed_only=False)] == ["nix"]
    assert len(recalled) == 1
    assert refusals.counts == {"message.json": 2}
    assert [topic in caplog.text for topic in (bad_wish.topic, bad_release.topic)] == [True, True]


async def test_what_cannot_be_taken_over_is_left_alone_and_the_rest_is_taken(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing later can be said after the last revision that there is."""
    hearing = Recall(
        Topics(), RecallStore(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )
    refusals = Refusals()
    await hearing.take([release("tacho")], refusals)
    wish = retained(Topics().device("pi-1", "desired"), encode(Desired(rev=3)))
    await hearing.take([release("tacho", MAX_SEQ), release("nix", 4), wish], refusals)
    topics = AnnouncementStore(engine).topics(changed_only=False)
    assert {topic.package: topic.revision for topic in topics} == {"tacho": 1, "nix": 4}
    assert refusals.counts == {"internal.error": 1}
    assert "tacho on channel stable is left alone" in caplog.text
    assert [(row.device, row.rev) for row in OrderStore(engine).desired_rows(changed_only=False)] == [("pi-1", 3)]


class CountingStore(RecallStore):
    """Notes what it is asked to learn from."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.asked: list[Sequence[Said]] = []

    def learn(self, said: Sequence[Said], now: datetime) -> Recalled:
        self.asked.append(said)
        return super().learn(said, now)


async def test_the_controllers_own_echo_is_not_looked_up_but_whatever_differs_or_comes_again_is(
    engine: Engine,
) -> None:
    store = CountingStore(engine)
    hearing = Recall(Topics(), store, lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now)
    refusals = Refusals()
    await hearing.take([release("tacho")], refusals)
    assert len(store.asked) == 1
    first, second = release("tacho", 2), release("tacho", 3)
    hearing.expect(first.topic, first.payload)
    hearing.expect(second.topic, second.payload)
    await hearing.take([second], refusals)
    assert len(store.asked) == 1
    await hearing.take([second], refusals)
    assert len(store.asked) == 2
    hearing.expect(first.topic, first.payload)
    await hearing.take([second], refusals)
    assert len(store.asked) == 3
    hearing.begin()  # what the broker holds at the beginning of a connection is always looked at
    await hearing.take([first], refusals)
    assert len(store.asked) == 4


async def test_echoes_that_never_come_are_not_kept_for_ever(engine: Engine) -> None:
    hearing = Recall(
        Topics(), RecallStore(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )
    hearing.expect("flotilla/devices/pi-1/desired", bytes(recall.LARGEST_EXPECTED + 1))
    assert hearing.expected == 0
    for number in range(3 * recall.MOST_EXPECTED):
        hearing.expect(f"flotilla/devices/pi-{number}/desired", b"{}")
    assert 0 < hearing.expected <= recall.MOST_EXPECTED


class OnAServer(RecallStore):
    """Its database may be exchanged for one that is behind."""

    keeps_what_it_took = False


async def test_where_the_database_may_lose_what_it_took_every_echo_is_looked_at(engine: Engine) -> None:
    hearing = Recall(
        Topics(), OnAServer(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )
    hearing.expect("flotilla/devices/pi-1/desired", b"{}")
    assert hearing.expected == 0


def test_the_announcer_tells_of_what_it_says(engine: Engine) -> None:
    service = FleetService(engine, LinkSettings(url="mqtt://127.0.0.1:1", client_id="c"), Topics(), version="1.0.0")
    assert service._announcer._on_said == service._recall.expect


async def test_devices_that_are_never_quiet_do_not_keep_the_controller_from_speaking(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recall, "LONGEST_S", 0.05)
    deaf = Recall(
        Topics(), RecallStore(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )

    async def chatter() -> None:
        while True:
            await deaf.take([], Refusals())
            await asyncio.sleep(0)

    deaf.begin()
    devices = asyncio.create_task(chatter())
    try:
        async with asyncio.timeout(5):
            await deaf.done()
    finally:
        devices.cancel()
    assert "what devices have said is still coming in" in caplog.text
    assert "does not let the controller hear" not in caplog.text


async def test_a_broker_that_says_nothing_does_not_let_the_controller_hear_itself(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recall, "QUIET_S", 0.01)
    deaf = Recall(
        Topics(), RecallStore(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )
    deaf.begin()
    async with asyncio.timeout(5):
        await deaf.done()
    assert "does not let the controller hear" in caplog.text
    assert "still coming in" not in caplog.text
