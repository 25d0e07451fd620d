"""A simulated device on the wire: it says and does what a real one does, and obeys who a real one obeys."""

from collections.abc import Callable

import pytest

from device_agent.simulator import device
from device_agent.simulator.course import Kind
from schemas.messages import Phase, Targets, Verb
from tests.support.broker import Broker
from tests.support.links import until
from tests.support.simulated import new_id, simulated

pytestmark = pytest.mark.broker

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
UNWELL = ["accepted", "fetching", "staged", "switched", "probation", "rolling_back", "rolled_back"]
PI = "sim-0001"


async def test_it_takes_a_release_and_reports_it(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 2) as fleet:
        assert fleet.reported[PI].facts["simulated"] is True
        assert fleet.presence[PI].online
        announced = await fleet.announce("1.0.0")
        await fleet.until(lambda: all(fleet.phases(device) == WELL for device in (PI, "sim-0002")))
        await fleet.until(lambda: "tacho" in fleet.reported[PI].packages)
        await fleet.until(lambda: fleet.reported[PI].packages["tacho"].phase is Phase.SUCCEEDED)
        installed = fleet.reported[PI].packages["tacho"]
        assert (installed.version, installed.rollout) == ("1.0.0", announced.rollout)
        assert [event.seq for event in fleet.events[PI]] == list(range(1, 7))
        # what is heard of an event may come before the broker's answer to its device
        await fleet.until(lambda: fleet.tally().confirmed == 12)
        tally = fleet.tally()
        assert (tally.written, tally.confirmed, tally.updates, tally.ended, tally.open) == (12, 12, 2, 2, 0)
        assert tally.messages["events"] == 12
    assert not fleet.presence[PI].online


async def test_a_bad_release_is_rolled_back_to_the_one_before(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 1, bad_versions=frozenset({"1.1.0"})) as fleet:
        await fleet.announce("1.0.0")
        await fleet.until(lambda: fleet.phases(PI) == WELL)
        await fleet.announce("1.1.0")
        await fleet.until(lambda: fleet.phases(PI) == WELL + UNWELL)
        last = fleet.events[PI][-1]
        assert last.error is not None
        assert (last.error.code, last.from_version) == ("health.http", "1.0.0")
        assert last.error.log_tail
        await fleet.until(lambda: fleet.reported[PI].seq == last.seq)
        assert fleet.reported[PI].packages["tacho"].version == "1.0.0"


async def test_commands_are_obeyed(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 1, pace_s=0.4) as fleet:
        await fleet.announce("1.0.0")
        await fleet.until(lambda: fleet.phases(PI)[-1:] == ["fetching"])
        await fleet.command(PI, Verb.CANCEL, package="tacho")
        await fleet.until(lambda: fleet.phases(PI) == ["accepted", "fetching", "cancelled"])
        await fleet.command(PI, Verb.RETRY, package="tacho")
        await fleet.until(lambda: fleet.phases(PI)[3:] == WELL)
        said = list(fleet.events[PI])
        await fleet.command(PI, Verb.REPLAY, after_seq=2)
        await fleet.until(lambda: fleet.events[PI] == said + said[2:])
        await fleet.announce("1.1.0")
        await fleet.until(lambda: fleet.phases(PI)[-1] == "succeeded" and fleet.events[PI][-1].version == "1.1.0")
        await fleet.command(PI, Verb.ROLLBACK, package="tacho")
        await fleet.until(lambda: fleet.phases(PI)[-3:] == ["accepted", "rolling_back", "rolled_back"])
        assert "check" not in fleet.reported[PI].facts
        await fleet.command(PI, Verb.CHECK)
        await fleet.until(lambda: fleet.reported[PI].facts.get("check") == "ok (simulated)")


async def test_a_halted_rollout_stops_and_a_reverted_one_goes_back(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 2, pace_s=0.6, rates={Kind.SLOW: 0.5}) as fleet:
        rollout = new_id()
        await fleet.announce("1.0.0", rollout=rollout)
        await fleet.until(lambda: sorted(fleet.phases(d)[-1] for d in fleet.events) == ["fetching", "succeeded"])
        await fleet.announce("1.0.0", rollout=rollout, revision=2, state="halted")
        await fleet.until(lambda: sorted(fleet.phases(d)[-1] for d in fleet.events) == ["cancelled", "succeeded"])
        await fleet.announce("1.0.0", rollout=rollout, revision=3, state="reverted")
        await fleet.until(lambda: sorted(fleet.phases(d)[-1] for d in fleet.events) == ["cancelled", "rolled_back"])


async def test_a_device_that_is_told_to_hold_starts_when_it_may(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 1) as fleet:
        await fleet.desire(PI, rev=1, hold=True)
        await fleet.announce("1.0.0")
        await fleet.until(lambda: fleet.phases(PI) == ["accepted", "deferred"])
        await fleet.desire(PI, rev=2, hold=False)
        await fleet.until(lambda: fleet.phases(PI) == ["accepted", "deferred", *WELL])


async def test_a_silent_device_is_gone_without_a_word(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 2, rates={Kind.SILENT: 0.5}) as fleet:
        await fleet.announce("1.0.0")
        await fleet.until(lambda: sorted(map(len, fleet.events.values())) == [2, 6])
        (silent,) = [device for device, events in fleet.events.items() if len(events) == 2]
        tally = fleet.tally
        await until(lambda: (tally().silent, tally().open, tally().connected) == (1, 0, 1))
        assert fleet.presence[silent].online, "only the broker tells of its end, later"


async def test_a_flapping_device_comes_back_again_and_again(
    broker: Broker, topic_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "FLAP_EVERY_S", 0.05)
    monkeypatch.setattr(device, "FLAP_AWAY_S", 0.01)
    async with simulated(broker.url, topic_root, 2, rates={Kind.FLAPPING: 0.5}) as fleet:
        await fleet.until(lambda: sorted(one.session >= 3 for one in fleet.presence.values()) == [False, True])
        assert fleet.tally().drops >= 2


async def test_the_same_seed_tells_the_same_story(broker: Broker, unique: Callable[[str], str]) -> None:
    async def story(seed: int) -> dict[str, list[tuple[str, str | None]]]:
        rates = {Kind.FAILING: 0.5, Kind.SILENT: 0.1}
        async with simulated(broker.url, f"{unique('test')}/v1", 20, rates=rates, seed=seed) as fleet:
            await fleet.announce("1.0.0")
            await until(lambda: fleet.tally().updates == 20 and fleet.tally().open == 0)
            await until(lambda: sum(map(len, fleet.events.values())) == fleet.tally().written)
            return fleet.story()

    first = await story(7)
    assert len({tuple(events) for events in first.values()}) > 2
    assert await story(7) == first
    assert await story(8) != first


async def test_what_waits_stops_for_a_newer_rollout_that_is_for_others(broker: Broker, topic_root: str) -> None:
    async with simulated(broker.url, topic_root, 1) as fleet:
        await fleet.desire(PI, rev=1, hold=True)
        await fleet.announce("1.0.0")
        await fleet.until(lambda: fleet.phases(PI)[-1:] == ["deferred"])
        await fleet.announce("1.1.0", revision=2, targets=Targets(upto=0))
        await fleet.until(lambda: fleet.phases(PI)[-1:] == ["cancelled"])
        last = fleet.events[PI][-1]
        assert last.error is not None
        assert (last.version, last.error.code) == ("1.0.0", "conflict.superseded")
