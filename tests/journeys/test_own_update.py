"""The agent updates itself as any other package, and a broken release of it brings the old one back by itself."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from device_agent.processes import process_fields
from schemas.manifest import Health, Service
from schemas.messages import Phase, UpdateEvent
from tests.support import own_agents
from tests.support.agents import Control, agent_process, announce, control
from tests.support.broker import Broker
from tests.support.links import until
from tests.support.repository import add_release, make_repository, serve_folder

pytestmark = [
    pytest.mark.journey,
    pytest.mark.broker,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

DEVICE = "pi-1"
UPDATED = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
UNDONE = [*UPDATED[:4], "rolling_back", "rolled_back"]
QUICK = Health(start_period_s=5, interval_s=0.1, probation_s=0.1)
SERVICE = Service(name="web", command=[sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    made = make_repository(tmp_path / "controller")
    for version in ("1.0.0", "1.1.0"):
        add_release(made, "tacho", version, {"page": version}, health=QUICK, services=[SERVICE])
    return made


@pytest.fixture
def options(tmp_path: Path, repository: PackageRepository, broker: Broker, topic_root: str) -> Iterator[list[str]]:
    root_file = tmp_path / "root.json"
    root_file.write_bytes(repository.trusted_root())
    with serve_folder(repository.folder) as url:
        yield [
            *("--root", str(tmp_path / "device"), "--id", DEVICE, "--trusted-root", str(root_file)),
            *("--topic-root", topic_root, "--broker", broker.url, "--repository", url),
            *("--services", "supervisor", "--agent-start-s", "30"),
        ]


async def update(controller: Control, package: str, version: str) -> UpdateEvent:
    """Announce a release; gives the last word about it."""
    await controller.announce(announce(package, version))
    await controller.until(lambda: controller.ended(version))
    return next(e for e in reversed(controller.events) if e.version == version)


def agents_below(launcher: int) -> list[int]:
    """The agents that a launcher runs."""
    return [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if (fields := process_fields(int(path.name))) and fields[1] == str(launcher) and fields[0] != "Z"
    ]


def services_of(launcher: int) -> list[int]:
    return [pid for one in agents_below(launcher) for pid in agents_below(one) if "sleep(600)" in command_of(pid)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def says_version(controller: Control, version: str) -> Callable[[], bool]:
    """Whether the agent that is online is this one."""
    return lambda: (
        bool(controller.presences)
        and controller.presences[-1].online
        and controller.presences[-1].agent_version == version
    )


async def test_the_agent_updates_itself_and_a_broken_one_brings_the_old_one_back(
    repository: PackageRepository, options: list[str], tmp_path: Path, broker: Broker, topic_root: str
) -> None:
    own_agents.add_agent(repository, "1.0.0")
    own_agents.add_agent(repository, "2.0.0")
    own_agents.add_agent(repository, "3.0.0", own_agents.RAISES)
    own_agents.add_agent(repository, "3.2.0", own_agents.DEAF)
    log = tmp_path / "agent.log"
    with agent_process(["launch", *options], log) as launcher:
        async with control(broker.url, topic_root, DEVICE) as controller:
            try:
                assert (await update(controller, "tacho", "1.0.0")).phase is Phase.SUCCEEDED
                for version, before in (("1.0.0", None), ("2.0.0", "1.0.0")):
                    end = await update(controller, own_agents.NAME, version)
                    assert (end.phase, end.from_version) == (Phase.SUCCEEDED, before)
                    await controller.until(says_version(controller, version))
                for version, reason in (
                    ("3.0.0", "ended with status 1"),
                    ("3.2.0", "has not reached the broker"),
                ):
                    end = await update(controller, own_agents.NAME, version)
                    assert controller.phases(version) == UNDONE
                    assert end.error is not None
                    assert (end.phase, end.error.code) == (Phase.ROLLED_BACK, "service.agent")
                    assert reason in end.error.message
                    assert ("what-this-release-forgot" in end.error.log_tail) == (version == "3.0.0")
                    await controller.until(says_version(controller, "2.0.0"))
                    assert len(agents_below(launcher.pid)) == 1
                    await until(lambda: len(services_of(launcher.pid)) == 1)
                assert (await update(controller, "tacho", "1.1.0")).phase is Phase.SUCCEEDED
                await controller.until(lambda: controller.reports[-1].seq == controller.events[-1].seq)
                packages = controller.reports[-1].packages
                assert {name: one.version for name, one in packages.items()} == {
                    "flotilla-agent": "2.0.0",
                    "tacho": "1.1.0",
                }
                assert [e.seq for e in controller.events] == list(range(1, len(controller.events) + 1))
                assert not (tmp_path / "device/launcher.json").exists()
            except BaseException:
                print(log.read_text())
                raise
            print(log.read_text())
        launcher.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(launcher.wait, 20) == 0
    assert agents_below(launcher.pid) == []
