"""Commands: once each, not after their time, and one line on what came of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from device_agent.commands import MAX_WAITING, Commands
from device_agent.heard import Heard
from schemas.errors import OperatorError
from schemas.ids import uuid7
from schemas.messages import Command, ReleaseState, Verb
from tests.support.links import until
from tests.unit.agent_shell.fakes import NEWER, NOW, ROLLOUT, MemoryNotes, RecordingUpdates, announced

UPDATE = uuid7(9, b"9" * 10)


class Bench:
    """Commands with recording parts around them."""

    def __init__(self) -> None:
        self.updates = RecordingUpdates()
        self.heard = Heard(MemoryNotes())
        self.did: list[Any] = []
        self.commands = Commands(
            updates=self.updates,
            heard=self.heard,
            now=lambda: NOW,
            replay=lambda seq: self.did.append(("replay", seq)),
            report=lambda: self.did.append("report"),
            check=self._check,
        )

    async def _check(self) -> None:
        self.did.append("check")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    serving = asyncio.create_task(made.commands.serve())
    yield made
    serving.cancel()
    await asyncio.wait({serving})
    assert serving.cancelled()


def command(number: int, verb: Verb, *, valid_s: float = 60, **args: Any) -> Command:
    return Command(id=uuid7(number, b"0" * 10), verb=verb, args=args, expires_at=NOW + timedelta(seconds=valid_s))


async def test_every_verb_does_its_thing_in_order(bench: Bench) -> None:
    wanted = [
        command(1, Verb.REPLAY, after_seq=7),
        command(2, Verb.REPORT),
        command(3, Verb.CHECK),
        command(4, Verb.RETRY, package="tacho"),
        command(5, Verb.CANCEL, package="tacho"),
        command(6, Verb.ROLLBACK, package="tacho"),
    ]
    for one in wanted:
        await bench.commands.take(one)
    await until(lambda: len(bench.updates.asked) == 3)
    assert bench.did == [("replay", 7), "report", "check"]
    assert bench.updates.asked == [("retry", "tacho"), ("cancel", "tacho"), ("rollback", "tacho")]


async def test_a_retry_may_take_whatever_it_takes(bench: Bench) -> None:
    await bench.commands.take(command(1, Verb.RETRY, package="tacho", any_size="yes"))
    await bench.commands.take(command(2, Verb.RETRY, package="tacho", any_size=True))
    await bench.commands.take(command(3, Verb.RETRY, package="tacho", any_size=False))
    await until(lambda: len(bench.updates.asked) == 2)
    assert bench.updates.asked == [("retry whatever it takes", "tacho"), ("retry", "tacho")]


async def test_what_is_asked_for_one_rollout_concerns_that_only(bench: Bench) -> None:
    bench.heard.keep_announcement(announced(), NOW, before=None)
    await bench.commands.take(command(1, Verb.RETRY, package="tacho", rollout=ROLLOUT))
    await bench.commands.take(command(2, Verb.CANCEL, package="tacho", rollout=ROLLOUT, version="1.1.0"))
    await bench.commands.take(command(3, Verb.CANCEL, package="tacho", rollout=ROLLOUT, version="1.1.0", ended=UPDATE))
    await until(lambda: len(bench.updates.asked) == 3)
    assert bench.updates.asked == [
        ("retry", ("tacho", ROLLOUT)),
        ("cancel", ("tacho", ROLLOUT, "1.1.0")),
        ("cancel", ("tacho", ROLLOUT, "1.1.0", UPDATE)),
    ]


@pytest.mark.parametrize("state", ReleaseState)
async def test_a_retry_of_a_rollout_that_was_stopped_meanwhile_starts_nothing(
    bench: Bench, state: ReleaseState, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench.heard.keep_announcement(announced(state=state), NOW, before=None)
    await bench.commands.take(command(1, Verb.RETRY, package="tacho", rollout=ROLLOUT))
    await bench.commands.take(command(2, Verb.REPORT))
    await until(lambda: bench.did == ["report"])
    starts = state in {ReleaseState.ACTIVE, ReleaseState.COMPLETE}
    assert bench.updates.asked == ([("retry", ("tacho", ROLLOUT))] if starts else [])
    assert (f"rollout {ROLLOUT} starts nobody now" in caplog.text) is not starts


@pytest.mark.parametrize("since", ["withdrawn", "superseded"])
async def test_a_retry_of_a_rollout_that_is_not_announced_any_more_starts_nothing(bench: Bench, since: str) -> None:
    before = bench.heard.keep_announcement(announced(), NOW, before=None)
    if since == "withdrawn":
        bench.heard.withdraw_announcement("stable", "tacho")
    else:
        bench.heard.keep_announcement(announced(rollout=NEWER), NOW, before=before)
    await bench.commands.take(command(1, Verb.RETRY, package="tacho", rollout=ROLLOUT))
    await bench.commands.take(command(2, Verb.RETRY, package="tacho"))
    await until(lambda: bench.updates.asked)
    assert bench.updates.asked == [("retry", "tacho")]  # what is asked of this device alone is its operator's wish


async def test_the_same_command_counts_once_and_an_expired_one_not_at_all(bench: Bench) -> None:
    rollback = command(1, Verb.ROLLBACK, package="tacho")
    for one in (rollback, rollback, command(2, Verb.ROLLBACK, valid_s=0, package="tacho"), command(3, Verb.REPORT)):
        await bench.commands.take(one)
    await until(lambda: bench.did == ["report"])
    assert bench.updates.asked == [("rollback", "tacho")]


@pytest.mark.parametrize(
    "bad",
    [
        command(1, Verb.ROLLBACK),
        command(1, Verb.CANCEL, package="../x"),
        command(1, Verb.RETRY, package=5),
        command(1, Verb.RETRY, package="tacho", rollout="some"),
        command(1, Verb.CANCEL, package="tacho", rollout=ROLLOUT, version=1),
        command(1, Verb.REPLAY, after_seq=-1),
        command(1, Verb.REPLAY, after_seq="7"),
        command(1, Verb.REPLAY, after_seq=True),
    ],
)
async def test_wrong_arguments_cost_one_line(bench: Bench, bad: Command, caplog: pytest.LogCaptureFixture) -> None:
    await bench.commands.take(bad)
    await bench.commands.take(command(2, Verb.REPORT))
    await until(lambda: bench.did == ["report"])
    assert bench.updates.asked == []
    assert [r.message for r in caplog.records if "code=message.json" in r.message and bad.id in r.message]


async def test_one_that_cannot_be_done_does_not_stop_the_next(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.updates.fault = OperatorError("release.unknown", "tacho has no previous release")
    await bench.commands.take(command(1, Verb.ROLLBACK, package="tacho"))
    await bench.commands.take(command(2, Verb.REPORT))
    await until(lambda: bench.did == ["report"])
    assert any("tacho has no previous release" in r.message for r in caplog.records)


async def test_a_flood_is_bounded() -> None:
    bench = Bench()  # nobody serves
    for number in range(MAX_WAITING + 10):
        await bench.commands.take(command(number, Verb.REPORT))
    serving = asyncio.create_task(bench.commands.serve())
    await until(lambda: len(bench.did) == MAX_WAITING)
    serving.cancel()
    await asyncio.wait({serving})


async def test_the_brokers_time_counts_where_the_clock_is_years_ahead(bench: Bench) -> None:
    """The broker drops what has expired, and says how long the rest is good for."""
    years_ago = NOW - timedelta(days=4000)
    rollback = Command(id=uuid7(1, b"0" * 10), verb=Verb.ROLLBACK, args={"package": "tacho"}, expires_at=years_ago)
    await bench.commands.take(rollback)
    for _ in range(2):
        await bench.commands.take(rollback, 60)
    await bench.commands.take(command(2, Verb.REPORT), 60)
    await until(lambda: bench.did == ["report"])
    assert bench.updates.asked == [("rollback", "tacho")]


async def test_a_command_that_never_expires_is_carried_out_once(bench: Bench) -> None:
    never = datetime.fromisoformat("9999-12-31T23:59:59-12:00")
    for _ in range(2):
        await bench.commands.take(Command(id=uuid7(1, b"0" * 10), verb=Verb.REPORT, expires_at=never))
    await until(lambda: bench.did == ["report"])
    await bench.commands.take(command(2, Verb.CHECK))
    await until(lambda: bench.did == ["report", "check"])
