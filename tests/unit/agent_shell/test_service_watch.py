"""Services after their update: what ends for good is told, what could not be started is started later."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_agent.seams import ReleaseContext
from device_agent.service_watch import FIRST_RETRY_S, MAX_RETRY_S, ServiceWatch
from device_agent.services.supervisor import Supervisor
from device_agent.updates import Install, Release
from schemas.errors import DeviceError
from schemas.manifest import MANIFEST_FORMAT, Manifest, Service
from tests.unit.agent_leaves.builders import release_context
from tests.unit.agent_leaves.fake_clock import FakeClock

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WEB = Service(name="web", command=["web"])


class Services:
    """A service manager whose services are as a test says."""

    def __init__(self) -> None:
        self.look_s = 5.0
        self.trouble = ""
        self.is_lost = False
        self.refuses: DeviceError | None = None
        self.starts = 0

    async def failed(self, _package: str, _services: Sequence[Service]) -> str:
        return self.trouble

    async def start(self, _services: Sequence[Service], _context: ReleaseContext) -> None:
        self.starts += 1
        if self.refuses is not None:
            raise self.refuses
        self.trouble, self.is_lost = "", False

    def lost(self, _package: str, _services: Sequence[Service]) -> bool:
        return self.is_lost


class Bench:
    """A watch over one installed package."""

    def __init__(self, folder: Path) -> None:
        self.services, self.clock, self.changes = Services(), FakeClock(), 0
        self.version = "1.0.0"
        self.installed = True
        self.busy: str | None = None
        self.watch = ServiceWatch(
            services=self.services,
            installs=self.installs,
            manifest=self.manifest,
            context=lambda _: release_context(folder),
            busy=lambda package: package == self.busy,
            clock=self.clock,
            changed=self.change,
        )

    def installs(self) -> dict[str, Install]:
        current = Release(version=self.version, manifest="a" * 64, installed_at=NOW)
        return {"tacho": Install(package="tacho", current=current)} if self.installed else {}

    def manifest(self, package: str, version: str, _sha256: str) -> Manifest:
        return Manifest(format=MANIFEST_FORMAT, package=package, version=version, platform="any", services=[WEB])

    def change(self) -> None:
        self.changes += 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_trouble_is_told_once_when_it_begins_and_once_when_it_ends(bench: Bench) -> None:
    await bench.watch.look()
    assert (bench.watch.summary(), bench.changes) == ("", 0)
    for times in (3, 4, 5):
        bench.services.trouble = f"service web keeps ending: {times} times"
        await bench.watch.look()
        assert bench.watch.summary() == f"tacho 1.0.0: service web keeps ending: {times} times"
        assert bench.changes == 1
    assert bench.services.starts == 0  # whoever keeps it running restarts it by its own rules
    bench.services.trouble = ""
    await bench.watch.look()
    assert (bench.watch.summary(), bench.changes) == ("", 2)


async def test_the_package_whose_update_is_under_way_is_left_to_that(bench: Bench) -> None:
    bench.busy, bench.services.trouble, bench.services.is_lost = "tacho", "service web is down", True
    await bench.watch.look()
    assert (bench.watch.summary(), bench.services.starts) == ("", 0)


async def test_what_is_not_installed_any_more_is_no_trouble(bench: Bench) -> None:
    bench.services.trouble = "service web is down"
    await bench.watch.look()
    bench.installed = False
    bench.watch.refresh()
    await bench.watch.look()
    assert (bench.watch.summary(), bench.changes) == ("", 2)


async def test_another_release_is_looked_at_when_there_is_one(bench: Bench) -> None:
    await bench.watch.look()
    bench.version, bench.services.trouble = "1.1.0", "service web is down"
    bench.watch.refresh()
    await bench.watch.look()
    assert bench.watch.summary() == "tacho 1.1.0: service web is down"


async def test_what_was_never_started_is_started_with_pauses_that_grow(bench: Bench) -> None:
    services = bench.services
    services.trouble, services.is_lost = "service web is not running", True
    services.refuses = DeviceError("service.start", "the disk is not there")
    starts = []
    for _ in range(2000):
        before = services.starts
        await bench.watch.look()
        if services.starts > before:
            starts.append(bench.clock.monotonic())
        bench.clock.advance(1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert max(pauses) == MAX_RETRY_S
    assert bench.changes == 1
    services.refuses = None
    bench.clock.advance(MAX_RETRY_S)
    await bench.watch.look()
    await bench.watch.look()
    assert (bench.watch.summary(), bench.changes) == ("", 2)


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    made = Supervisor(tmp_path / "root", clock=FakeClock())
    yield made
    await made.close()


async def test_a_service_that_ends_for_good_and_one_that_keeps_ending_are_found(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    assert supervisor.lost("tacho", [WEB])
    ends = [sys.executable, "-c", "raise SystemExit(3)"]
    for name, restart, words in (("once", "never", "not to be restarted"), ("again", "always", "keeps ending")):
        service = Service(name=name, command=ends, restart=restart)  # type: ignore[arg-type]  # one of its words
        await supervisor.start([service], release_context(tmp_path))
        assert not supervisor.lost("tacho", [service])
        async with asyncio.timeout(20):
            while words not in (said := await supervisor.failed("tacho", [service])):  # noqa: ASYNC110  # processes
                await asyncio.sleep(0.01)
        assert f"service {name}" in said
