"""Events leave the outbox when the broker has taken them; the report follows what is true."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from device_agent import due_report
from device_agent import reporter as module
from device_agent.policy import DeviceView
from device_agent.reporter import TOO_LARGE, Reporter
from schemas.codec import decode
from schemas.messages import InstalledPackage, Phase, Presence, Reported
from schemas.topics import Topics
from tests.support.links import until
from tests.unit.agent_shell.fakes import NOW, FakeLink, MemoryOutbox
from transport import LinkLost, PublishRefused

EVENTS = Topics().device("pi-1", "events")
REPORTED = Topics().device("pi-1", "reported")
TACHO = InstalledPackage(
    version="1.0.0", manifest="0" * 64, installed_at=NOW, previous=None, phase=Phase.SUCCEEDED, rollout=None
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFUSED_FIRST_S", "REFUSED_LONGEST_S"):
        monkeypatch.setattr(module, name, 0.01)
    for name in ("COALESCE_S", "REPORT_EVERY_S"):
        monkeypatch.setattr(due_report, name, 0.01)


def make_reporter(outbox: MemoryOutbox) -> Reporter:
    return Reporter(
        topics=Topics(),
        outbox=outbox,
        view=lambda: DeviceView(id="pi-1", channel="beta", tags={"site": "harbour"}, facts={"model": "Pi"}),
        boot_id="boot",
        device="pi-1",
        now=lambda: NOW,
    )


@asynccontextmanager
async def running(reporter: Reporter, link: FakeLink) -> "AsyncIterator[asyncio.Task[None]]":
    task = asyncio.create_task(reporter.run(link))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def events(link: FakeLink) -> list[int]:
    return [int(payload.split()[1]) for topic, payload, _ in link.published if topic == EVENTS]


def reports(link: FakeLink) -> list[Reported]:
    return [decode(payload, Reported) for topic, payload, retain in link.published if topic == REPORTED and retain]


def refused(code: int = 0x87) -> PublishRefused:
    return PublishRefused("not authorised", topic=EVENTS, reason_code=code)


async def test_events_go_out_in_order_and_are_marked_when_the_broker_has_them() -> None:
    outbox, link = MemoryOutbox(70), FakeLink()
    async with running(make_reporter(outbox), link):
        await until(lambda: len(outbox.sent) == 70)
        outbox.add()
        await until(lambda: len(outbox.sent) == 71)
    assert events(link) == list(range(1, 72))
    assert outbox.sent == list(range(1, 72))


async def test_what_was_in_flight_when_the_link_was_lost_is_sent_again() -> None:
    outbox, first, second = MemoryOutbox(3), FakeLink(), FakeLink()
    reporter = make_reporter(outbox)
    first.answers = [None, LinkLost("gone"), LinkLost("gone"), LinkLost("gone")]
    async with running(reporter, first) as task:
        await asyncio.wait({task})
        assert task.exception() is not None
    assert outbox.sent == [1]
    async with running(reporter, second):
        await until(lambda: len(outbox.sent) == 3)
    assert events(second) == [2, 3]


async def test_a_denied_event_is_tried_again_with_one_line_and_stays_in_the_outbox(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbox, link = MemoryOutbox(2), FakeLink()
    link.answers = [refused(), refused()]
    async with running(make_reporter(outbox), link):
        await until(lambda: outbox.sent == [1, 2])
    assert events(link) == [1, 2, 1, 2]
    assert len([r for r in caplog.records if "action=events" in r.message]) == 1


async def test_an_event_that_is_too_large_for_the_broker_does_not_hold_up_the_others() -> None:
    outbox, link = MemoryOutbox(3), FakeLink()
    link.answers = [None, refused(TOO_LARGE), None]
    async with running(make_reporter(outbox), link):
        await until(lambda: sorted(outbox.sent) == [1, 2, 3])
    assert events(link) == [1, 2, 3]


async def test_events_are_sent_again_on_request_and_requests_become_one() -> None:
    outbox, link = MemoryOutbox(40), FakeLink()
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(outbox.sent) == 40)
        reporter.replay(38)
        reporter.replay(36)
        await until(lambda: len(events(link)) == 44)
    assert events(link)[40:] == [37, 38, 39, 40]


async def test_a_replay_goes_on_with_the_next_connection() -> None:
    outbox, first, second = MemoryOutbox(4), FakeLink(), FakeLink()
    outbox.sent = [1, 2, 3, 4]
    reporter = make_reporter(outbox)
    reporter.replay(1)
    first.answers = [LinkLost("gone")] * 5
    async with running(reporter, first) as task:
        await asyncio.wait({task})
    async with running(reporter, second):
        await until(lambda: events(second) == [2, 3, 4])


async def test_a_report_is_published_at_once_on_change_and_on_request() -> None:
    outbox, link = MemoryOutbox(1), FakeLink()
    reporter = make_reporter(outbox)

    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        outbox.packages["tacho"] = TACHO
        reporter.stir()
        await until(lambda: len(reports(link)) == 2)
        reporter.stir()  # nothing has changed
        reporter.report_soon()
        await until(lambda: len(reports(link)) == 3)
        outbox.add()
        reporter.stir()  # only the number of the last event: that can wait
        await until(lambda: outbox.sent == [1, 2])
    first, second, third = reports(link)
    assert (first.channel, first.tags, first.facts) == ("beta", {"site": "harbour"}, {"model": "Pi"})
    assert (first.packages, second.packages, third.packages) == ({}, {"tacho": TACHO}, {"tacho": TACHO})
    assert third.seq == 1


async def test_changes_that_come_together_are_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_report, "COALESCE_S", 0.2)
    outbox, link = MemoryOutbox(), FakeLink()
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        for number in range(5):
            outbox.packages[f"p{number}"] = TACHO
            reporter.stir()
            await asyncio.sleep(0)
        await until(lambda: len(reports(link)) == 1)
    assert len(reports(link)[0].packages) == 5


async def test_the_end_of_an_update_is_reported_at_once_and_what_leads_to_it_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox, link = MemoryOutbox(), FakeLink()
    outbox.packages["tacho"] = TACHO
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        for name in ("COALESCE_S", "REPORT_EVERY_S"):
            monkeypatch.setattr(due_report, name, 3600.0)
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.1.0", phase=Phase.PROBATION)
        reporter.stir()
        await asyncio.sleep(0.05)  # what must not happen has no condition to wait for
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.1.0")
        reporter.stir()
        await until(lambda: len(reports(link)) == 2)
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.2.0", phase=Phase.PROBATION)
        reporter.stir()
        await asyncio.sleep(0.05)
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.1.0", previous="1.0.0")  # and back
        reporter.stir()
        await until(lambda: len(reports(link)) == 3)
    assert [report.packages["tacho"].version for report in reports(link)] == ["1.0.0", "1.1.0", "1.1.0"]
    assert {report.packages["tacho"].phase for report in reports(link)} == {Phase.SUCCEEDED}


async def test_a_report_that_is_due_goes_out_though_something_stirs_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(due_report, "SEQ_ONLY_S", 3600.0)
    outbox, link = MemoryOutbox(), FakeLink()
    reporter = make_reporter(outbox)
    truth = outbox.installed

    def stirring() -> dict[str, InstalledPackage]:
        reporter.stir()
        return truth()

    monkeypatch.setattr(outbox, "installed", stirring)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        outbox.packages["tacho"] = structs.replace(TACHO, phase=Phase.PROBATION)
        await until(lambda: len(reports(link)) == 2)


async def test_nobody_looks_at_what_is_true_for_events_that_change_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox, link = MemoryOutbox(), FakeLink()
    reporter = make_reporter(outbox)
    looks, truth = 0, outbox.installed

    def counted() -> dict[str, InstalledPackage]:
        nonlocal looks
        looks += 1
        return truth()

    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        monkeypatch.setattr(due_report, "COALESCE_S", 0.1)
        await asyncio.sleep(0.05)  # what must not happen has no condition to wait for
        monkeypatch.setattr(outbox, "installed", counted)
        for phase in (Phase.ACCEPTED, Phase.FETCHING, Phase.FETCHING, Phase.STAGED):
            outbox.add()
            reporter.stir(phase)
            await asyncio.sleep(0.01)
        assert looks == 0
        for phase in (Phase.SWITCHED, Phase.PROBATION):
            outbox.add()
            outbox.packages["tacho"] = structs.replace(TACHO, phase=phase)
            reporter.stir(phase)
        await until(lambda: len(reports(link)) == 2)
        assert looks <= 2, "when it is due, and once more to see what is due next"
        outbox.add()
        outbox.packages["tacho"] = TACHO
        reporter.stir(Phase.SUCCEEDED)
        await until(lambda: len(reports(link)) == 3)
        assert looks <= 4
    assert [one.seq for one in reports(link)] == [0, 6, 7]


async def test_nobody_looks_again_after_a_report_unless_something_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, link = MemoryOutbox(), FakeLink()
    looks, truth = 0, outbox.installed

    def counted() -> dict[str, InstalledPackage]:
        nonlocal looks
        looks += 1
        return truth()

    monkeypatch.setattr(outbox, "installed", counted)
    async with running(make_reporter(outbox), link):
        await until(lambda: len(reports(link)) == 1)
        await asyncio.sleep(0.05)  # what must not happen has no condition to wait for
    assert looks == 2, "at first, and when it was due"


async def test_a_report_keeps_its_distance_from_one_that_was_long_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowLink(FakeLink):
        gate = asyncio.Event()

        async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> None:
            await super().publish(topic, payload, retain=retain, timeout_s=timeout_s)
            await self.gate.wait()

    outbox, link = MemoryOutbox(), SlowLink()
    outbox.packages["tacho"] = TACHO
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.1.0", phase=Phase.PROBATION)
        reporter.stir(Phase.SWITCHED)
        monkeypatch.setattr(due_report, "REPORT_EVERY_S", 3600.0)
        link.gate.set()
        await asyncio.sleep(0.1)  # what must not happen has no condition to wait for
        assert len(reports(link)) == 1
        outbox.packages["tacho"] = structs.replace(TACHO, version="1.1.0")
        reporter.stir(Phase.SUCCEEDED)
        await until(lambda: len(reports(link)) == 2)
    assert reports(link)[1].packages["tacho"].phase is Phase.SUCCEEDED


async def test_events_that_change_nothing_but_the_number_are_reported_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(due_report, "SEQ_ONLY_S", 0.1)
    outbox, link = MemoryOutbox(), FakeLink()
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        for phase in (Phase.ACCEPTED, Phase.FETCHING):
            outbox.add()
            reporter.stir(phase)
        await until(lambda: len(reports(link)) == 2)
        reporter.stir(Phase.FETCHING)  # told of late: that report had counted it
        await asyncio.sleep(0.2)  # what must not happen has no condition to wait for
    assert [one.seq for one in reports(link)] == [0, 2]


@pytest.mark.parametrize("phase", [Phase.ROLLED_BACK, Phase.SUCCEEDED, None])
async def test_the_end_of_an_update_is_looked_at_at_once(phase: Phase | None, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, link = MemoryOutbox(), FakeLink()
    outbox.packages["tacho"] = structs.replace(TACHO, phase=Phase.PROBATION)
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        for name in ("COALESCE_S", "REPORT_EVERY_S"):
            monkeypatch.setattr(due_report, name, 3600.0)
        outbox.packages["tacho"] = TACHO
        reporter.stir(phase)
        await until(lambda: len(reports(link)) == 2)


async def test_the_number_of_the_last_event_is_reported_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_report, "SEQ_ONLY_S", 0.05)
    outbox, link = MemoryOutbox(), FakeLink()
    reporter = make_reporter(outbox)
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        outbox.add()
        reporter.stir()
        await until(lambda: len(reports(link)) == 2)
    assert reports(link)[1].seq == 1


async def test_a_report_that_is_denied_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    outbox, link = MemoryOutbox(), FakeLink()
    link.answers = [refused()]
    async with running(make_reporter(outbox), link):
        await until(lambda: len(reports(link)) == 2)
    assert len([r for r in caplog.records if "action=reported" in r.message]) == 1


async def test_a_report_goes_out_behind_the_events_that_it_counts() -> None:
    outbox, link = MemoryOutbox(2), FakeLink()
    link.answers = [refused(), refused()]
    async with running(make_reporter(outbox), link):
        await until(lambda: len(reports(link)) == 1)
    assert [topic for topic, _, _ in link.published] == [EVENTS] * 4 + [REPORTED]
    assert reports(link)[0].seq == 2


async def test_a_report_does_not_wait_for_ever_for_events_that_the_broker_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EVENTS_FIRST_S", 0.05)
    monkeypatch.setattr(module, "REFUSED_FIRST_S", 60.0)
    outbox, link = MemoryOutbox(1), FakeLink()
    link.answers = [refused()]
    async with running(make_reporter(outbox), link):
        await until(lambda: len(reports(link)) == 1)
    assert outbox.sent == []


@pytest.mark.parametrize("say", ["online", "goodbye", "will"])
async def test_presence_carries_the_connections_number(say: str) -> None:
    reporter, link = make_reporter(MemoryOutbox()), FakeLink()
    if say == "online":
        await reporter.say_online(link, 7)
    elif say == "goodbye":
        assert await reporter.say_goodbye(link, 7)
    will = reporter.will(7)
    topic, payload, retain = (will.topic, will.payload, will.retain) if say == "will" else link.published[0]
    assert (topic, retain) == (Topics().device("pi-1", "status"), True)
    said = decode(payload, Presence)
    assert (said.online, said.session, said.boot_id) == (say == "online", 7, "boot")
    assert will.delay_s == 15


async def test_a_goodbye_that_nobody_hears_is_left_to_the_will() -> None:
    reporter, link = make_reporter(MemoryOutbox()), FakeLink()
    link.answers = [LinkLost("gone")]
    assert not await reporter.say_goodbye(link, 7)


async def test_facts_that_change_all_the_time_are_no_reason_for_a_report() -> None:
    temperatures, link = itertools.count(40), FakeLink()
    reporter = Reporter(
        topics=Topics(),
        outbox=MemoryOutbox(),
        view=lambda: DeviceView(id="pi-1", channel="beta", facts={"temperature_c": next(temperatures)}),
        boot_id="boot",
        device="pi-1",
        now=lambda: NOW,
    )
    async with running(reporter, link):
        await until(lambda: len(reports(link)) == 1)
        for _ in range(20):
            reporter.stir()
            await asyncio.sleep(0.005)  # what must not happen has no condition to wait for
        assert [report.facts for report in reports(link)] == [{"temperature_c": 40}]
        reporter.report_soon()
        await until(lambda: len(reports(link)) == 2)
    assert reports(link)[1].facts == {"temperature_c": 41}
