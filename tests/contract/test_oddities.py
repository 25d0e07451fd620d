"""Clocks that are years off, and a controller that was away for a day; `docs/oddities.md` says what happens."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.database import utc_now
from controller.fleet.service import FleetService
from controller.rollouts.plan import RolloutState, Verdict
from schemas.messages import InstalledPackage, Phase, ReleaseState
from tests.support.broker import Broker
from tests.support.database import opened
from tests.support.fake_device import FakeDevice, fake_device
from tests.support.links import until
from tests.unit.fleet.serving import make_service, serving

pytestmark = pytest.mark.broker

AHEAD, BEHIND = datetime(2100, 1, 1, tzinfo=UTC), datetime(1970, 1, 2, tzinfo=UTC)
STEPS = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.SWITCHED, Phase.PROBATION, Phase.SUCCEEDED)


class Site:
    """A database, and services that connect to one broker with it."""

    def __init__(self, folder: Path, broker: Broker, root: str) -> None:
        self._engine = opened(folder / "flotilla.db")
        self.broker, self.root = broker, root

    def service(self, client_id: str) -> FleetService:
        return make_service(self._engine, self.broker.url, self.root, client_id)

    @asynccontextmanager
    async def device(self, service: FleetService, name: str) -> AsyncIterator[FakeDevice]:
        """A device that the service has heard of."""
        async with fake_device(self.broker.url, name, topic_root=self.root) as made:
            await made.report()
            await until(lambda: any(one.id == name for one in service.registry.devices(channel="stable")))
            yield made


@pytest.fixture
def site(tmp_path: Path, broker: Broker, topic_root: str) -> Site:
    return Site(tmp_path, broker, topic_root)


def release(service: FleetService) -> str:
    return service.steering.create_release(
        package="tacho", version="1.1.0", channel="stable", repository=["http://r"]
    ).id


def runs(rollout: str, at: datetime) -> dict[str, InstalledPackage]:
    return {
        "tacho": InstalledPackage(
            version="1.1.0", manifest="a" * 64, installed_at=at, previous=None, phase=Phase.SUCCEEDED, rollout=rollout
        )
    }


@pytest.mark.parametrize("clock", [AHEAD, BEHIND])
async def test_a_device_whose_clock_is_years_off_is_judged_by_the_controllers_clock(
    site: Site, unique: Callable[[str], str], clock: datetime
) -> None:
    service = site.service(unique("controller"))
    async with serving(service), site.device(service, unique("pi")) as device:
        rollout = release(service)
        announced = await device.announcement("1.1.0")
        for number, phase in enumerate(STEPS):
            # it jumps back in the middle, as a clock does that is put right
            at = clock - timedelta(days=number)
            await device.update(announced, phase, update=device_update(device), at=at)
        await device.report(seq=device.seq, at=clock, packages=runs(rollout, clock))
        await until(lambda: service.rollouts.rollout(rollout).verdicts == {Verdict.SUCCEEDED: 1})
        await until(lambda: service.rollouts.rollout(rollout).state is RolloutState.COMPLETE)
        seen = service.registry.device(device.id)
        assert abs(utc_now() - seen.last_seen) < timedelta(minutes=5)
        assert [taken.event.phase for taken in service.registry.device_events(device.id)] == list(STEPS)
        assert all(abs(utc_now() - one.received_at) < timedelta(minutes=5) for one in device_taken(service, device))


def device_update(device: FakeDevice) -> str:
    return f"0198a1b2-c3d4-7e5f-8a6b-{abs(hash(device.id)) % 16**12:012x}"


def device_taken(service: FleetService, device: FakeDevice) -> list[object]:
    return list(service.registry.device_events(device.id))


async def test_what_devices_said_while_the_controller_was_away_comes_from_the_broker_or_is_asked_for(
    site: Site, unique: Callable[[str], str]
) -> None:
    name, first_session, other_session = unique("pi"), unique("controller"), unique("controller")
    service = site.service(first_session)
    async with serving(service), site.device(service, name) as device:
        rollout = release(service)
        announced = await device.announcement("1.1.0")
    away = site.service(first_session)
    async with fake_device(site.broker.url, name, topic_root=site.root, session=2) as device:
        said = await device.update(announced, *STEPS[:3])
        async with serving(away):  # the same session: the broker has kept it all
            await until(lambda: away.registry.device(name).seq == 3)
            assert [one.args for one in device.commands] == []
        said += await device.update(announced, *STEPS[3:], update=said[0].update)
        await device.report(seq=device.seq, packages=runs(rollout, utc_now()))
        fresh = site.service(other_session)
        async with serving(fresh):  # as if the broker had forgotten the session: the report tells what is missing
            await device.until(lambda: any(one.args == {"after_seq": 3} for one in device.commands))
            for event in said[3:]:
                await device.repeat(event)
            await until(lambda: fresh.registry.device(name).seq == 6)
            await until(lambda: fresh.rollouts.rollout(rollout).verdicts == {Verdict.SUCCEEDED: 1})
            await device.until(lambda: device.announcements[-1].state is ReleaseState.COMPLETE)
        stored = fresh.registry.device_events(name)
    assert [one.event.phase for one in stored] == list(STEPS)
