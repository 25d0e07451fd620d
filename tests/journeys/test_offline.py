"""A device that reaches no controller and no broker: files carried to it, installed, taken back, and run."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from broker_config import free_port
from controller.database import open_database, sqlite_url, utc_now
from controller.repository.package_repository import PackageRepository
from schemas.messages import Phase
from tests.support.fleet import Fleet
from tests.support.gauge import NAME, running_version, settings
from tests.support.wholeness import assert_on_disk, service_processes
from tests.support.world import World, tree_of

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE = "pi-1"


def finished(ended: "subprocess.CompletedProcess[str]", status: int = 0) -> str:
    """What a command printed that ended with this status, and without a traceback."""
    assert ended.returncode == status, (ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended.stdout


def refused(ended: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a command that refused; what it says while it works is not counted."""
    finished(ended, 1)
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if ": " in line and "action=trust" not in line]
    assert len(said) == 1, (ended.stdout, ended.stderr)
    return said[0]


class Shelf:
    """Versions of the sample at a controller, and what it exported; the controller is gone when the device works."""

    def __init__(self, world: World, *versions: str, sick: str = "") -> None:
        world.start_controller()
        self._world = world
        self.fleet = Fleet(world)
        self.exports: dict[str, Path] = {}
        for version in versions:
            package = self.fleet.make(
                version, sick=version == sick, health={"start_period_s": 0.5} if version == sick else {}
            )
            finished(world.flotilla("push", package))
            self.exports[version] = world.folder / f"{version}.release"
            finished(world.flotilla("export", NAME, version, "-o", self.exports[version]))
        finished(world.flotilla("root", "-o", world.trusted_root))
        world.stop_controller()
        world.broker.stop()

    def export_expired(self, version: str) -> Path:
        """As if it had been exported for a day, forty days ago."""
        engine = open_database(sqlite_url(self._world.data / "flotilla.db"))
        past = utc_now() - timedelta(days=40)
        repository = PackageRepository(self._world.data / "repository", engine, clock=lambda: past)
        return repository.export(NAME, version, "any", self._world.folder / "expired.release", 1)


@pytest.mark.long(45)
def test_files_are_installed_taken_back_and_run_without_controller_and_broker(world: World) -> None:
    shelf = Shelf(world, "1.0.0", "1.1.0", "1.2.0", "1.3.0", sick="1.2.0")
    port = free_port()
    world.add_agent(DEVICE, settings=settings(port))

    def phases(printed: str) -> list[str]:
        return [line.split()[0] for line in printed.splitlines()[1:] if not line.startswith((" ", "fetching"))]

    for version in ("1.0.0", "1.1.0"):
        printed = finished(world.agent("install", DEVICE, shelf.exports[version]))
        assert phases(printed) == ["accepted", "staged", "switched", "probation", "succeeded"]
        assert_on_disk(world, DEVICE, shelf.fleet.sources[version], version)
    again = world.agent("install", DEVICE, shelf.exports["1.1.0"])
    assert finished(again) == f"{NAME} 1.1.0 is installed already\n"

    sick = world.agent("install", DEVICE, shelf.exports["1.2.0"])
    assert phases(finished(sick, 1)) == ["accepted", "staged", "switched", "rolling_back", "rolled_back"]
    assert_on_disk(world, DEVICE, shelf.fleet.sources["1.1.0"], "1.1.0")

    assert phases(finished(world.agent("rollback", DEVICE, NAME))) == ["accepted", "rolling_back", "rolled_back"]
    assert_on_disk(world, DEVICE, shelf.fleet.sources["1.0.0"], "1.0.0")
    assert f"{NAME} has no previous release" in refused(world.agent("rollback", DEVICE, NAME))

    # an agent without a broker runs what is installed, and takes over what is asked of it by hand
    assert running_version(port) == ""
    world.start_agent(DEVICE, ready=False)
    world.wait(lambda: running_version(port) == "1.0.0", "the installed service to run")
    printed = finished(world.agent("install", DEVICE, shelf.exports["1.3.0"]))
    assert phases(printed) == ["accepted", "staged", "switched", "probation", "succeeded"]
    assert running_version(port) == "1.3.0"
    status = json.loads(finished(world.agent("status", DEVICE, "--json")))
    assert (status["running"], status["packages"][NAME]["version"]) == (True, "1.3.0")
    package = world.root(DEVICE) / "packages" / NAME
    assert len(service_processes(package)) <= 1
    assert world.stop_agent(DEVICE) == 0
    assert service_processes(package) == []

    # what happened without a broker is told once there is one
    world.broker.start()
    world.restart_controller()
    world.start_agent(DEVICE)
    world.wait(lambda: len(world.events(DEVICE)) == world.journal(DEVICE).last_seq, "all that had happened")
    assert [event.phase for event in world.last_words(DEVICE)] == [
        Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.ROLLED_BACK, Phase.SUCCEEDED,
    ]  # fmt: skip


def test_what_is_expired_or_not_signed_is_refused_and_changes_nothing(world: World) -> None:
    shelf = Shelf(world, "1.0.0", "1.1.0")
    port = free_port()
    world.add_agent(DEVICE, settings=settings(port))
    finished(world.agent("install", DEVICE, shelf.exports["1.0.0"]))
    before = tree_of(world.root(DEVICE) / "packages")

    unsigned = refused(world.agent("install", DEVICE, shelf.fleet.built / f"{NAME}-1.1.0-any.flotilla"))
    assert unsigned.startswith("flotilla-agent: ")
    assert "is an unsigned package; push it to a controller and install what `flotilla export` makes of it" in unsigned
    assert len(world.journal(DEVICE).updates) == 1

    expired = refused(world.agent("install", DEVICE, shelf.export_expired("1.1.0")))
    assert "trust.expired" in expired
    update = world.journal(DEVICE).updates[-1]
    assert (update.phase, update.error and update.error.code) == (Phase.REJECTED, "trust.expired")

    assert tree_of(world.root(DEVICE) / "packages") == before
    world.start_agent(DEVICE, ready=False)
    world.wait(lambda: running_version(port) == "1.0.0", "the installed service to run")
    # the file that is neither goes in, so the others were refused for what they are
    finished(world.agent("install", DEVICE, shelf.exports["1.1.0"]))
    assert running_version(port) == "1.1.0"
