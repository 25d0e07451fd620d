"""What devices meet: packages that need each other, files changed by hand, long absences, twins."""

import shutil
from pathlib import Path

import pytest

from broker_config import free_port
from controller.fleet.views import Device
from controller.http.views import Page
from schemas.messages import Phase, Verb
from tests.support.fleet import NO_PROBATION, Fleet
from tests.support.gauge import NAME, UPDATED, running_version, settings
from tests.support.packages import build, make_source
from tests.support.wholeness import assert_nothing_lost, assert_on_disk
from tests.support.world import World, source_tree, tree_of

pytestmark = [pytest.mark.journey, pytest.mark.broker]

DEVICE = "pi-1"
DIAL = "dial"


def publish_dial(world: World, version: str, needs: str) -> Path:
    """Announce a package without services that needs versions of the sample; gives its source."""
    source = make_source(
        world.folder / "sources" / f"{DIAL}-{version}",
        DIAL,
        version,
        {"dial.json": f'{{"version": "{version}"}}\n'},
        requires={"packages": {NAME: needs}},
        health=NO_PROBATION,
    )
    world.publish(build(source, world.folder / "built"))
    return source


def test_a_package_that_needs_another_waits_for_it_or_is_refused(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    source = publish_dial(world, "1.0.1", "^1.1")
    end = world.wait_for_end(DEVICE, "1.0.1")
    assert end.phase is Phase.REJECTED
    assert end.error is not None
    assert (end.error.code, end.error.message) == (
        "requires.packages",
        f"{DIAL} 1.0.1 needs {NAME} ^1.1, installed is 1.0.0",
    )
    assert world.current_tree(DEVICE, DIAL) == {}

    fleet.publish("1.1.0")
    fleet.wait_for("1.1.0", Phase.SUCCEEDED)
    world.command(DEVICE, Verb.RETRY, package=DIAL)
    world.wait(lambda: world.wait_for_end(DEVICE, "1.0.1").phase is Phase.SUCCEEDED, "the dial to fit")
    assert_on_disk(world, DEVICE, source, "1.0.1", package=DIAL)

    # both at once, in the order that does not work: the one waits for the other
    world.desire(DEVICE, hold=True)
    world.wait(lambda: '"hold": true' in world.agent("status", DEVICE, "--json").stdout, "the device to be on hold")
    source = publish_dial(world, "2.0.1", "^2.0")
    world.wait_for_phase(DEVICE, Phase.DEFERRED, "2.0.1")
    fleet.publish("2.0.0")
    world.wait_for_phase(DEVICE, Phase.DEFERRED, "2.0.0")
    world.desire(DEVICE, hold=False)
    assert world.wait_for_end(DEVICE, "2.0.1").phase is Phase.SUCCEEDED
    waited = [(e.detail or {}).get("reason") for e in world.events(DEVICE) if e.version == "2.0.1"]
    assert [reason for reason in waited if reason] == ["hold", "requires"]
    assert world.phases(DEVICE, "2.0.1") == [Phase.ACCEPTED, Phase.DEFERRED, Phase.ACCEPTED, Phase.DEFERRED, *UPDATED]
    assert_on_disk(world, DEVICE, source, "2.0.1", package=DIAL)
    fleet.assert_runs("2.0.0")


def test_files_changed_by_hand_are_found_before_the_switch(world: World) -> None:
    world.start_controller()
    policies = {"pi-1": "abort", "pi-2": "overwrite", "pi-3": "keep-copy"}
    fleet = Fleet(world)
    for device, policy in policies.items():
        one = Fleet(world, device, policy={"local_changes": policy})
        fleet.ports |= one.ports
    fleet.install("1.0.0")
    for device in policies:
        change_by_hand(world, device)
    changed = {device: world.current_tree(device, NAME) for device in policies}
    fleet.publish("1.1.0")

    end = world.wait_for_end("pi-1", "1.1.0")
    assert end.phase is Phase.FAILED
    assert end.error is not None
    assert end.error.code == "conflict.local_changes"
    for words in ("share/dials/rpm.json (changed)", "share/needle.bin (missing)", "version.txt (changed)"):
        assert words in end.error.message
    assert world.phases("pi-1", "1.1.0") == [Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.FAILED]
    assert world.current_tree("pi-1", NAME) == changed["pi-1"]
    assert running_version(fleet.ports["pi-1"]) == "1.0.0"

    for device in ("pi-2", "pi-3"):
        assert world.wait_for_end(device, "1.1.0").phase is Phase.SUCCEEDED
        # the new release has the file that was edited in place as it was published
        assert world.current_tree(device, NAME) == source_tree(fleet.sources["1.1.0"])
        told = world.wait_for_phase(device, Phase.SWITCHED, "1.1.0").detail or {}
        assert "share/dials/rpm.json (changed)" in told["local_changes"]
        assert ("kept" in told) is (device == "pi-3")
    (kept,) = (world.root("pi-3") / "packages" / NAME / "kept").iterdir()
    assert tree_of(kept) == {name: changed["pi-3"][name] for name in ("share/dials/rpm.json", "version.txt")}
    assert not (world.root("pi-2") / "packages" / NAME / "kept").exists()

    # undone by hand, the update that was refused goes on when asked for
    restore_by_hand(world, "pi-1", fleet.sources["1.0.0"])
    world.command("pi-1", Verb.RETRY, package=NAME)
    world.wait(lambda: world.wait_for_end("pi-1", "1.1.0").phase is Phase.SUCCEEDED, "the update to go on")
    fleet.assert_runs("1.1.0")


def test_a_device_with_another_name_is_a_new_one_that_goes_on_with_what_it_has(world: World) -> None:
    wrong, right = "pi-thre", "pi-three"
    world.start_controller()
    fleet = Fleet(world, wrong)
    fleet.install("1.0.0")
    world.desire(wrong, pins={NAME: "1.0.0"})
    told = lambda: '"pins": {' in world.agent("status", wrong, "--json").stdout  # noqa: E731  # read as a sentence
    world.wait(told, "the pin to be there")
    world.stop_agent(wrong)

    world.add_agent(right, root=str(world.root(wrong)), settings=settings(fleet.ports[wrong]))
    world.start_agent(right)
    assert world.device(right).packages[NAME].version == "1.0.0"
    # the pin was the other one's, and a release is taken and told under the new name
    fleet.publish("1.1.0")
    assert world.wait_for_end(right, "1.1.0").phase is Phase.SUCCEEDED
    assert [event.seq for event in world.events(right)] == list(range(1, len(UPDATED) + 1))
    assert running_version(fleet.ports[wrong]) == "1.1.0"
    world.wait(lambda: world.device(right).missing == 0, "nothing to be missing")

    world.wait(lambda: not world.device(wrong).online, "the old name to be offline")
    assert world.flotilla("forget", wrong).returncode == 0
    assert [one.id for one in world.client.get(Page[Device], "devices").items] == [right]


def change_by_hand(world: World, device: str) -> None:
    """One file edited in place, one replaced as editors do, one removed, one added."""
    current = world.root(device) / "packages" / NAME / "current"
    in_place = current / "share" / "dials" / "rpm.json"
    in_place.chmod(0o644)
    in_place.write_text('{"full_scale": 9000}\n')
    replaced = current / "version.txt.new"
    replaced.write_text("mine\n")
    replaced.rename(current / "version.txt")
    (current / "share" / "needle.bin").unlink()
    (current / "added.txt").write_text("added\n")


def restore_by_hand(world: World, device: str, source: Path) -> None:
    """The content is what it was; times and modes need not be."""
    current = world.root(device) / "packages" / NAME / "current"
    for name in ("share/dials/rpm.json", "version.txt", "share/needle.bin"):
        (current / name).unlink(missing_ok=True)
        shutil.copyfile(source / name, current / name)
        (current / name).chmod(0o444)


def test_a_device_that_was_off_while_two_releases_passed_gets_the_newest_only(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE, "pi-2")
    fleet.install("1.0.0")
    world.stop_agent(DEVICE)
    world.kill_agent("pi-2")
    fleet.publish("1.1.0")
    fleet.publish("1.2.0")
    for device in fleet.ports:
        world.start_agent(device)
    fleet.wait_for("1.2.0", Phase.SUCCEEDED)
    for device in fleet.ports:
        assert world.phases(device, "1.1.0") == []
        assert world.phases(device, "1.2.0") == UPDATED
        previous = world.journal(device).installs[NAME].previous
        assert previous is not None
        assert previous.version == "1.0.0"
    fleet.assert_runs("1.2.0")


def test_of_two_agents_with_one_id_one_says_so_and_ends(world: World) -> None:
    world.start_controller()
    fleet = Fleet(world, DEVICE)
    fleet.install("1.0.0")
    root = world.add_agent("twin", id=DEVICE, packages=["other"], settings=settings(free_port()))
    before = tree_of(world.root(DEVICE) / "packages")
    world.start_agent("twin", ready=False)

    gone = world.wait(world.processes.ended, "one of the twins to give up", 60)
    (name,) = gone
    assert world.processes.wait(name, 1) == 1
    said = world.processes.log(name).read_text()
    complaints = [line for line in said.splitlines() if line.startswith("flotilla-agent: ")]
    assert len(complaints) == 1
    assert f"another agent with the id {DEVICE} connects to" in complaints[0]
    assert "give one of them another id" in complaints[0]
    assert said.splitlines()[-1] == complaints[0]
    assert "Traceback" not in said

    assert tree_of(world.root(DEVICE) / "packages") == before
    assert not (root / "packages").exists()
    other = ({DEVICE, "twin"} - {name}).pop()
    assert other in world.processes.names()
    world.wait(lambda: world.device(DEVICE).online, "the other to be connected")
    if other == "twin":
        world.stop_agent("twin")
        world.start_agent(DEVICE)
    fleet.assert_runs("1.0.0")
    assert_nothing_lost(world, DEVICE)
