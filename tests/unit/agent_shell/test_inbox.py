"""Messages in: decoded once, decided on, acknowledged when that is durable."""

from typing import Any

import pytest

from device_agent.inbox import Inbox
from schemas.codec import MAX_PAYLOAD, encode
from schemas.errors import DeviceError
from schemas.ids import uuid7
from schemas.messages import Announcement, Command, Desired, Verb
from schemas.topics import Topics
from tests.unit.agent_shell.fakes import NOW, ROLLOUT, FakeLink, announced, message
from transport import LinkLost

TOPICS = Topics()
RELEASE = TOPICS.release("stable", "tacho")


class Decisions:
    """Keeps what it is given; raises the faults in turn first."""

    def __init__(self, faults: list[Exception] | None = None) -> None:
        self.taken: list[Any] = []
        self.faults = faults or []

    def take(self, what: Any) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.taken.append(what)

    async def take_announcement(self, announcement: Announcement) -> None:
        self.take(announcement)

    async def take_withdrawal(self, channel: str, package: str) -> None:
        self.take((channel, package))

    async def take_desired(self, desired: Desired | None) -> None:
        self.take(desired)

    async def take_command(self, command: Command, _valid_s: int | None) -> None:
        self.take(command)


async def run(decisions: Decisions, *messages: tuple[str, bytes]) -> tuple[FakeLink, list[float]]:
    link = FakeLink(later=[[message(topic, payload)] for topic, payload in messages])
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        assert len(link.acknowledged) < len(messages)
        slept.append(seconds)

    await run_to_its_end(inbox_for(decisions, sleep=sleep), link)
    return link, slept


async def run_to_its_end(inbox: Inbox, link: FakeLink) -> None:
    with pytest.raises(LinkLost):
        await inbox.run(link)


def inbox_for(decisions: Decisions, **changes: Any) -> Inbox:
    return Inbox(
        topics=TOPICS,
        device="pi-1",
        decisions=decisions,
        take_command=decisions.take_command,
        quiet_s=0.01,
        **changes,
    )


async def test_each_kind_of_message_gets_where_it_belongs() -> None:
    decisions = Decisions()
    desired = Desired(rev=1, hold=True)
    command = Command(id=ROLLOUT, verb=Verb.REPORT, expires_at=NOW)
    link, _ = await run(
        decisions,
        (RELEASE, encode(announced())),
        (RELEASE, b""),
        (TOPICS.device("pi-1", "desired"), encode(desired)),
        (TOPICS.device("pi-1", "desired"), b""),
        (TOPICS.device("pi-1", "commands"), encode(command)),
    )
    assert decisions.taken == [announced(), ("stable", "tacho"), desired, None, command]
    assert len(link.acknowledged) == 5


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        (RELEASE, b"{", "message.json"),
        (RELEASE, b"null", "message.json"),
        (RELEASE, b"\xff", "message.json"),
        (RELEASE, b'{"schema":1}', "message.json"),
        (RELEASE, b'{"schema":2}', "message.schema"),
        (RELEASE, b" " * (MAX_PAYLOAD + 1), "message.size"),
        (RELEASE, encode(announced(package="other")), "message.topic"),
        (RELEASE, encode(announced(channel="beta")), "message.topic"),
        (TOPICS.device("pi-1", "commands"), b"", "message.json"),
        (TOPICS.device("pi-1", "desired"), b'{"schema":1,"rev":-1}', "message.json"),
        (TOPICS.device("pi-2", "desired"), b'{"schema":1,"rev":1}', "message.topic"),
        (TOPICS.device("pi-1", "events"), b"{}", "message.topic"),
        (TOPICS.controller_status(), b"{}", "message.topic"),
        ("somewhere/else", b"{}", "message.topic"),
    ],
)
async def test_what_is_not_understood_costs_one_line_and_is_acknowledged(
    topic: str, payload: bytes, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    decisions = Decisions()
    link, _ = await run(decisions, (topic, payload), (RELEASE, encode(announced())))
    assert decisions.taken == [announced()]
    assert len(link.acknowledged) == 2
    refused = [r.message for r in caplog.records]
    assert len(refused) == 1
    assert f"action=refused topic={topic} code={code} message=" in refused[0]
    assert "\n" not in refused[0]


async def test_the_same_refusal_again_says_nothing_until_something_else_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Subscriptions overlap, so what is said of an installed package comes twice; what is retained, with each link."""
    bad, worse, good = (RELEASE, b"{"), (RELEASE, b'{"schema":2}'), (RELEASE, encode(announced()))
    elsewhere = (TOPICS.release("stable", "radio"), b"{")
    link, _ = await run(Decisions(), bad, bad, elsewhere, bad, worse, worse, good, good, bad)
    said = [(r.message.split(" code=")[0].removeprefix("action=refused topic="), r.levelname) for r in caplog.records]
    assert said == [(topic, "WARNING") for topic, _ in (bad, elsewhere, worse, bad)]
    assert len(link.acknowledged) == 9


async def test_what_could_not_be_written_down_is_tried_again_and_acknowledged_only_then() -> None:
    full = DeviceError("disk.full", "no space left")
    decisions = Decisions([full, full, full])
    link, slept = await run(decisions, (RELEASE, encode(announced())))
    assert decisions.taken == [announced()]
    assert slept == [1.0, 2.0, 4.0]
    assert len(link.acknowledged) == 1


async def test_of_what_piled_up_only_the_last_word_about_a_release_counts() -> None:
    """A broker gives a device that was away everything that was said meanwhile."""
    decisions = Decisions()
    old, halted, radio = announced(revision=3), announced(revision=4, state="halted"), announced(package="radio")
    desired = Desired(rev=1)
    wishes = TOPICS.device("pi-1", "desired")
    kept = [message(RELEASE, encode(old)), message(wishes, encode(desired)), message(wishes, b"")]
    retained = [message(RELEASE, encode(halted)), message(TOPICS.release("stable", "radio"), encode(radio))]
    later = message(RELEASE, b"")
    link = FakeLink(piled_up=[kept, retained], later=[[later]])
    await run_to_its_end(inbox_for(decisions), link)
    assert decisions.taken == [desired, None, halted, radio, ("stable", "tacho")]
    assert link.acknowledged == [kept[0], *kept[1:], *retained, later]


async def test_commands_that_piled_up_are_carried_out_after_all_else_that_did() -> None:
    """A retry waits in the device's queue; that its rollout was halted since is retained, and comes behind it."""
    decisions = Decisions()
    first, second = (
        Command(id=uuid7(one, b"0" * 10), verb=Verb.RETRY, args={"package": "tacho"}, expires_at=NOW) for one in (1, 2)
    )
    halted = announced(revision=4, state="halted")
    to_me = TOPICS.device("pi-1", "commands")
    kept = [message(to_me, encode(first)), message(to_me, encode(second))]
    retained = [message(RELEASE, encode(halted)), message(TOPICS.device("pi-1", "desired"), encode(Desired(rev=1)))]
    link = FakeLink(piled_up=[kept, retained], later=[])
    await run_to_its_end(inbox_for(decisions), link)
    assert decisions.taken == [halted, Desired(rev=1), first, second]
    assert link.acknowledged == [*retained, *kept]


async def test_an_announcement_that_comes_twice_at_once_is_acted_on_once() -> None:
    """Subscriptions overlap, so what is announced of an installed package comes twice."""
    decisions = Decisions()
    wish = encode(announced(revision=3))
    desired = (TOPICS.device("pi-1", "desired"), encode(Desired(rev=1)))
    twice = [message(RELEASE, wish), message(*desired), message(RELEASE, wish), message(*desired)]
    apart = [[message(RELEASE, wish)], [message(RELEASE, wish)]]
    link = FakeLink(later=[twice, *apart])
    await run_to_its_end(inbox_for(decisions), link)
    taken = announced(revision=3)
    assert decisions.taken == [taken, Desired(rev=1), Desired(rev=1), taken, taken]
    assert link.acknowledged == [twice[2], twice[0], twice[1], twice[3], *apart[0], *apart[1]]


async def test_a_broken_announcement_does_not_keep_the_device_from_the_one_before_it() -> None:
    decisions = Decisions()
    at_once = [message(RELEASE, encode(announced())), message(RELEASE, b"{}")]
    link = FakeLink(later=[at_once])
    await run_to_its_end(inbox_for(decisions), link)
    assert decisions.taken == [announced()]
    assert link.acknowledged == at_once


async def test_an_announcement_that_was_withdrawn_while_the_device_was_away_is_not_begun() -> None:
    decisions = Decisions()
    link = FakeLink(piled_up=[[message(RELEASE, encode(announced())), message(RELEASE, b"")]], later=[])
    await run_to_its_end(inbox_for(decisions), link)
    assert decisions.taken == [("stable", "tacho")]
    assert len(link.acknowledged) == 2


async def test_a_defect_that_one_message_shows_does_not_end_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    """The broker would send it again with every connection, to every device."""
    decisions = Decisions(faults=[OverflowError("date value out of range")])
    link, _ = await run(
        decisions, (RELEASE, encode(announced())), (TOPICS.device("pi-1", "desired"), encode(Desired(rev=1)))
    )
    assert decisions.taken == [Desired(rev=1)]
    assert len(link.acknowledged) == 2
    assert "OverflowError" in caplog.text
    assert "internal.error" in caplog.text
