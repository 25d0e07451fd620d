"""Files that somebody changed on the device are found before a switch, and what is done is the owner's policy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.updates import LocalChanges
from schemas.messages import Phase, UpdateEvent
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build, expected_tree, tree_of

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")

Change = Callable[[Path], None]


def edit_in_place(tree: Path) -> None:
    path = tree / "lib/common.txt"
    path.chmod(0o644)
    path.write_bytes(b"changed in place\n")


def edit_by_rename(tree: Path) -> None:
    (tree / "bin/new").write_bytes(b"#!/bin/sh\necho mine\n")
    (tree / "bin/new").replace(tree / "bin/run")


def edit_same_size(tree: Path) -> None:
    path = tree / "lib/common.txt"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.swapcase())
    path.chmod(0o444)


def edit_configuration(tree: Path) -> None:
    (tree / "etc/app.conf").write_bytes(b"device=mine\n")


def remove(tree: Path) -> None:
    (tree / "lib/common.txt").unlink()


def make_a_folder_of_it(tree: Path) -> None:
    (tree / "lib/common.txt").unlink()
    (tree / "lib/common.txt").mkdir()


def turn_the_link(tree: Path) -> None:
    (tree / "lib/latest").unlink()
    (tree / "lib/latest").symlink_to("common.txt")


def make_executable(tree: Path) -> None:
    path = tree / "lib/common.txt"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o755)


CHANGES: dict[str, tuple[Change, str]] = {
    "edited in place": (edit_in_place, "lib/common.txt (changed)"),
    "edited by a rename": (edit_by_rename, "bin/run (changed)"),
    "edited to the same size": (edit_same_size, "lib/common.txt (changed)"),
    "configuration edited": (edit_configuration, "etc/app.conf (changed)"),
    "removed": (remove, "lib/common.txt (missing)"),
    "made a folder": (make_a_folder_of_it, "lib/common.txt (replaced)"),
    "link turned": (turn_the_link, "lib/latest (link)"),
    "made executable": (make_executable, "lib/common.txt (mode)"),
}


async def changed_device(make_device: MakeDevice, change: Change, policy: LocalChanges) -> tuple[Device, Path]:
    device = await make_device(local_changes=policy).start()
    await device.update_to(ONE, 1)
    tree = device.folders.package("tacho").release("1.0.0", ONE.sha256)
    change(tree)
    return device, tree


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
async def test_by_default_the_update_is_refused_and_nothing_is_touched(
    make_device: MakeDevice, change: Change, told: str
) -> None:
    device, tree = await changed_device(make_device, change, LocalChanges.ABORT)
    before = tree_of(tree)
    stops = device.power.calls.count("stop tacho")
    update = await device.update_to(TWO, 2)
    assert device.story(update.id) == ["accepted", "fetching", "staged", "failed"]
    assert update.error is not None
    assert update.error.code == "conflict.local_changes"
    assert told in update.error.message
    assert tree_of(tree) == before
    assert device.power.calls.count("stop tacho") == stops
    assert device.folders.package("tacho").current.resolve() == tree.resolve()
    assert device.services.running["tacho"] == {"web": "1.0.0"}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
async def test_overwrite_goes_on_and_says_so(make_device: MakeDevice, change: Change, told: str) -> None:
    device, _ = await changed_device(make_device, change, LocalChanges.OVERWRITE)
    await device.update_to(TWO, 2)
    detail = switched(device).detail
    assert detail is not None
    assert told in detail["local_changes"]
    assert "kept" not in detail
    assert_current_is_two(device)


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
async def test_keep_copy_keeps_what_was_changed(make_device: MakeDevice, change: Change, told: str) -> None:
    device, tree = await changed_device(make_device, change, LocalChanges.KEEP_COPY)
    path = told.partition(" ")[0]
    mine = tree_of(tree).get(path)
    await device.update_to(TWO, 2)
    detail = switched(device).detail
    assert detail is not None
    kept = Path(detail["kept"])
    assert kept.parent == device.folders.package("tacho").kept
    assert kept.name.startswith("1.0.0-2026")
    copies = {name: looks for name, looks in tree_of(kept).items() if looks[0] != "folder"}
    assert copies == ({path: mine} if mine and mine[0] != "folder" else {})
    assert_current_is_two(device)


async def test_a_touched_file_state_and_added_files_are_no_changes(device: Device) -> None:
    await device.update_to(ONE, 1)
    current = device.folders.package("tacho").current
    (current / "bin/run").touch()
    (current / "lib/__pycache__").mkdir()
    (current / "lib/__pycache__/x.pyc").write_bytes(b"made by the service")
    (current / "data/seed.txt").write_bytes(b"state is there to be changed")
    await device.update_to(TWO, 2)
    assert_current_is_two(device)


async def test_a_content_that_was_damaged_in_place_is_fetched_again(make_device: MakeDevice) -> None:
    device, _ = await changed_device(make_device, edit_in_place, LocalChanges.OVERWRITE)
    device.shelf.fetched.clear()
    await device.update_to(TWO, 2)
    common = next(e.sha256 for e in TWO.manifest.files if e.path == "lib/common.txt")
    # the copy with the other mode was whole, so that nothing had to come over the wire
    assert common not in device.shelf.fetched
    assert_current_is_two(device)


async def test_a_content_of_which_every_copy_is_damaged_is_fetched_again(device: Device) -> None:
    await device.update_to(ONE, 1)
    device.shelf.fetched.clear()
    for path in device.folders.objects.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b"more")
    await device.restart()
    device.manager._queue._steps.switch._local_changes = LocalChanges.OVERWRITE
    await device.update_to(TWO, 2)
    assert sorted(device.shelf.fetched) == sorted(TWO.contents)
    assert_current_is_two(device)


def switched(device: Device) -> UpdateEvent:
    return next(e for e in reversed(device.events()) if e.phase is Phase.SWITCHED)


def assert_current_is_two(device: Device) -> None:
    folders = device.folders.package("tacho")
    assert tree_of(folders.current.resolve()) == expected_tree(TWO, "pi-1")
    assert device.journal.installs()["tacho"].current.manifest == TWO.sha256
