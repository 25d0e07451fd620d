"""A database that was put back from a backup: nothing goes back with it. On a real broker."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.database import open_database, sqlite_url
from controller.fleet.service import FleetService
from controller.rollouts.plan import RolloutState, Verdict
from schemas.messages import Desired, Phase, ReleaseState, RolloutPolicy, Targets
from tests.support.broker import Broker
from tests.support.fake_device import fake_device
from tests.support.links import until
from tests.unit.fleet.serving import make_service, serving

pytestmark = pytest.mark.broker

REPOSITORY = ["http://repository"]


class Site:
    """A controller whose database is put back from a backup."""

    def __init__(self, folder: Path, broker: Broker, root: str, client_id: str) -> None:
        self._folder, self._broker, self.root, self._client_id = folder, broker, root, client_id

    def service(self, name: str = "today") -> FleetService:
        return make_service(open_database(self._url(name)), self._broker.url, self.root, self._client_id)

    def back_up(self) -> None:
        """Nobody writes meanwhile."""
        shutil.copyfile(self._folder / "today.db", self._folder / "yesterday.db")
        for end in ("-wal", "-shm"):
            source = self._folder / f"today.db{end}"
            if source.exists():
                shutil.copyfile(source, self._folder / f"yesterday.db{end}")

    def _url(self, name: str) -> str:
        return sqlite_url(self._folder / f"{name}.db")


@pytest.fixture
def site(tmp_path: Path, broker: Broker, topic_root: str, unique: Callable[[str], str]) -> Site:
    return Site(tmp_path, broker, topic_root, unique("controller"))


def release(service: FleetService, version: str, targets: Targets | None = None) -> str:
    made = service.steering.create_release(
        package="tacho", version=version, channel="stable", repository=REPOSITORY, targets=targets
    )
    return made.id


async def test_a_rollout_that_was_halted_since_stays_halted_under_a_later_revision(
    site: Site, broker: Broker, unique: Callable[[str], str]
) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=site.root) as device:
        async with serving(site.service()) as service:
            rollout = release(service, "1.1.0")
            await device.announcement("1.1.0")
            site.back_up()
            service.steering.set_state(rollout, RolloutState.HALTED)
            await device.until(lambda: device.announcements[-1].state is ReleaseState.HALTED)
        heard = device.announcements[-1]
        async with serving(site.service("yesterday")) as service:
            await device.until(lambda: device.announcements[-1].revision > heard.revision)
            assert device.announcements[-1].state is ReleaseState.HALTED
            assert service.rollouts.rollout(rollout).state is RolloutState.HALTED
            service.steering.set_state(rollout, RolloutState.ACTIVE)
            await device.until(lambda: device.announcements[-1].state is ReleaseState.ACTIVE)
    revisions = [one.revision for one in device.announcements]
    assert revisions == sorted(revisions)
    states = [one.state for one in device.announcements if one.revision > 1]
    assert states == [ReleaseState.HALTED, ReleaseState.HALTED, ReleaseState.ACTIVE]


async def test_a_rollout_of_today_goes_on_and_what_devices_said_comes_in_again(
    site: Site, broker: Broker, unique: Callable[[str], str]
) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=site.root) as device:
        async with serving(site.service()) as service:
            old = release(service, "1.1.0")
            await device.announcement("1.1.0")
            await device.report()
            await until(lambda: service.registry.devices(channel="stable"))
            site.back_up()
            new = release(service, "1.2.0", Targets(exclude=["pi-lab"]))
            announced = await device.announcement("1.2.0")
            said = await device.update(announced, Phase.ACCEPTED, Phase.FETCHING)
            # once a later batch is here, what came before it was acknowledged and does not come again by itself
            for tags in ({"after": "these"}, {"after": "that"}):
                await device.report(seq=device.seq, tags=tags)
                await until(lambda tags=tags: service.registry.device(device.id).tags == tags)
            assert service.registry.device(device.id).seq == device.seq
        async with serving(site.service("yesterday")) as service:
            await until(lambda: service.rollouts.rollouts(package="tacho")[0].id == new)
            taken_over = service.rollouts.rollout(new)
            assert (taken_over.version, taken_over.state) == ("1.2.0", RolloutState.ACTIVE)
            assert taken_over.targets.exclude == ["pi-lab"]
            assert service.rollouts.rollout(old).state is RolloutState.SUPERSEDED
            # its report says how many events there are: those that are not here are asked for
            await device.until(lambda: any(one.args == {"after_seq": 0} for one in device.commands))
            for event in said:
                await device.repeat(event)
            await until(lambda: service.registry.device(device.id).seq == device.seq)
            await until(lambda: service.rollouts.rollout(new).verdicts == {Verdict.UPDATING: 1})
        assert [one.version for one in device.announcements] == ["1.1.0", "1.2.0", "1.2.0"]
        assert device.announcements[-1] == announced


async def test_what_a_device_was_told_since_stays(site: Site, broker: Broker, unique: Callable[[str], str]) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=site.root) as device:
        async with serving(site.service()) as service:
            await device.report()
            await until(lambda: service.registry.devices(channel="stable"))
            service.steering.change_desired(device.id, lambda _: Desired(rev=0, hold=False))
            await device.until(lambda: device.desired)
            site.back_up()
            service.steering.change_desired(device.id, lambda _: Desired(rev=0, pins={"tacho": "1.0.0"}))
            await device.until(lambda: device.desired[-1].pins)
        async with serving(site.service("yesterday")) as service:
            await until(lambda: (told := service.orders.desired(device.id)) is not None and told.pins)
            after = service.steering.change_desired(device.id, lambda _: Desired(rev=0, hold=True))
            await device.until(lambda: device.desired[-1].hold)
    assert after.rev == 3
    assert [one.rev for one in device.desired] == sorted(one.rev for one in device.desired)


async def test_a_release_that_was_made_before_the_broker_came_back_goes_before_what_the_broker_holds(
    site: Site, broker: Broker, unique: Callable[[str], str]
) -> None:
    async with fake_device(broker.url, unique("pi"), topic_root=site.root) as device:
        async with serving(site.service()) as service:
            release(service, "1.1.0")
            site.back_up()
            for version in ("1.2.0", "1.3.0"):
                release(service, version)
                await device.announcement(version)
        heard = device.announcements[-1]
        again = site.service("yesterday")
        newest = again.steering.create_release(
            package="tacho", version="1.4.0", channel="stable", repository=REPOSITORY, policy=RolloutPolicy(jitter_s=1)
        )
        async with serving(again) as service:
            announced = await device.announcement("1.4.0")
            assert announced.revision > heard.revision
            assert service.rollouts.rollout(newest.id).state is RolloutState.ACTIVE
    assert [one.version for one in device.announcements][-2:] == ["1.3.0", "1.4.0"]
