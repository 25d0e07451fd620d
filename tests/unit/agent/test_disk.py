"""A disk that is full, refuses or is taken by something else: one clear error, and the running release stays."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from device_agent import install_path
from device_agent.durability import Space
from device_agent.journal import Journal
from device_agent.threads import in_thread
from schemas.errors import DeviceError
from schemas.manifest import DirectoryEntry
from schemas.requirements import SLACK_BYTES
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import PLENTY, Device, until
from tests.unit.agent.releases import build, expected_tree, files_of, tree_of

WELL = ["accepted", "fetching", "staged", "switched", "probation", "succeeded"]
ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


async def test_a_full_disk_is_noticed_before_anything_is_fetched(device: Device) -> None:
    await device.update_to(ONE, 1)
    device.power.calls.clear()
    device.space = Space(free=SLACK_BYTES, inodes=10**6, block=4096)
    update = await device.update_to(TWO, 2)
    assert device.story(update.id) == ["accepted", "failed"]
    assert update.error is not None
    assert update.error.code == "disk.full"
    assert f"there are {SLACK_BYTES}" in update.error.message
    assert "fetch" not in device.power.calls
    device.assert_runs(ONE)


async def test_too_few_inodes_are_a_full_disk_too(device: Device) -> None:
    device.space = Space(free=10**12, inodes=10, block=4096)
    update = await device.update_to(ONE, 1)
    assert update.error is not None
    assert update.error.code == "disk.full"
    assert device.shelf.fetched == []


async def test_contents_that_nothing_needs_make_room(device: Device) -> None:
    await device.update_to(ONE, 1)
    stray = device.folders.object("ab" * 32)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"of an update that came to nothing")

    class Room:
        def __call__(self, _: Path) -> Space:
            return PLENTY if not stray.exists() else Space(free=0, inodes=10**6, block=4096)

    device.manager._queue._store._space = Room()
    update = await device.update_to(TWO, 2)
    assert device.story(update.id) == WELL
    device.assert_runs(TWO, previous={"tacho": ONE})


@pytest.mark.parametrize(
    ("code", "told"),
    [(errno.ENOSPC, "disk.full"), (errno.EDQUOT, "disk.full"), (errno.EIO, "disk.io"), (errno.EROFS, "disk.io")],
)
async def test_a_disk_that_refuses_while_staging(
    device: Device, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    await device.update_to(ONE, 1)
    real = os.link

    def link(source: Any, target: Any, **more: Any) -> None:
        if "only-1.1.0" in str(target):
            raise OSError(code, os.strerror(code))
        real(source, target, **more)

    monkeypatch.setattr(os, "link", link)
    update = await device.update_to(TWO, 2)
    assert device.story(update.id) == ["accepted", "fetching", "failed"]
    assert update.error is not None
    assert update.error.code == told
    assert "1.1.0" in update.error.message
    device.assert_runs(ONE, spare_objects=True)


async def test_a_switch_that_the_disk_refuses_is_undone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    await device.update_to(ONE, 1)
    real = os.symlink

    def symlink(source: Any, *args: Any) -> None:
        if str(source).startswith("releases/1.1.0"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, *args)

    monkeypatch.setattr(os, "symlink", symlink)
    update = await device.update_to(TWO, 2)
    assert device.story(update.id) == ["accepted", "fetching", "staged", "rolling_back", "rolled_back"]
    device.assert_runs(ONE)


async def test_a_file_system_without_enough_links_gets_copies(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    monkeypatch.setattr(os, "link", link)
    update = await device.update_to(ONE, 1)
    assert device.story(update.id) == WELL
    await device.update_to(TWO, 2)
    current = device.folders.package("tacho").current.resolve()
    assert tree_of(current) == expected_tree(TWO, "pi-1")


async def test_a_journal_that_cannot_be_written_is_waited_for(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Journal.advance
    refusals = iter([DeviceError("disk.full", "agent.db cannot grow")] * 3)

    def advance(self: Journal, *args: Any, **more: Any) -> Any:
        for error in refusals:
            raise error
        return real(self, *args, **more)

    monkeypatch.setattr(Journal, "advance", advance)
    device.clock.running.clear()
    submitted = await device.submit(ONE, 1)
    await until(lambda: device.manager.trouble != "")
    assert device.manager.trouble == "agent.db cannot grow"
    device.clock.running.set()
    assert submitted.update is not None
    await device.end_of(submitted.update)
    assert device.manager.trouble == ""
    assert device.story(submitted.update) == WELL
    device.assert_runs(ONE)


async def test_folders_that_may_not_be_written_can_be_removed_all_the_same(device: Device) -> None:
    closed = [DirectoryEntry(path="closed", mode=0o555)]
    files = files_of("1") | {"closed/file": (b"inside", 0o644)}
    for minor in range(3):
        await device.update_to(build(version=f"1.{minor}.0", files=files, directories=closed), minor + 1)
    assert len(list(device.folders.package("tacho").releases.iterdir())) == 2


class TestInstallPath:
    """The link from where people look for the package."""

    @pytest.fixture
    async def linking(self, make_device: MakeDevice, tmp_path: Path) -> Device:
        return await make_device(link_install_path=True, install_paths={"engine": tmp_path / "elsewhere"}).start()

    async def test_it_leads_to_the_current_release(self, linking: Device, tmp_path: Path) -> None:
        path = tmp_path / "opt/tacho"
        await linking.update_to(one := build(version="1.0.0", install_path=str(path)), 1)
        assert (path / "bin/run").read_bytes() == b"#!/bin/sh\necho 1.0.0\n"
        moved = tmp_path / "srv/tacho"
        await linking.update_to(two := build(version="1.1.0", install_path=str(moved)), 2)
        assert not path.is_symlink()
        assert (moved / "bin/run").read_bytes() == b"#!/bin/sh\necho 1.1.0\n"
        await linking.end_of(await linking.manager.rollback("tacho"))
        assert not moved.is_symlink()
        assert (path / "bin/run").read_bytes() == b"#!/bin/sh\necho 1.0.0\n"
        linking.assert_runs(one)
        assert two.manifest.install_path == str(moved)

    async def test_what_is_there_already_is_not_touched(self, linking: Device, tmp_path: Path) -> None:
        path = tmp_path / "taken"
        path.mkdir()
        (path / "mine").write_bytes(b"mine")
        update = await linking.update_to(build(version="1.0.0", install_path=str(path)), 1)
        assert linking.story(update.id) == ["accepted", "fetching", "staged", "failed"]
        assert update.error is not None
        assert update.error.code == "conflict.install_path"
        assert (path / "mine").read_bytes() == b"mine"
        linking.assert_runs(spare_objects=True)

    async def test_a_first_installation_that_fails_takes_it_away_again(self, linking: Device, tmp_path: Path) -> None:
        path = tmp_path / "opt/tacho"
        linking.probe.sick.add("1.0.0")
        await linking.update_to(build(version="1.0.0", install_path=str(path)), 1)
        assert not path.is_symlink()
        linking.assert_runs()

    @pytest.mark.parametrize(
        ("code", "told"), [(errno.ENOSPC, "disk.full"), (errno.EIO, "disk.io"), (errno.EACCES, "conflict.install_path")]
    )
    async def test_a_disk_that_refuses_the_link_is_no_conflict(
        self, linking: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
    ) -> None:
        def replace_link(path: Path, target: str) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(install_path, "replace_link", replace_link)
        update = await linking.update_to(build(version="1.0.0", install_path=str(tmp_path / "opt/tacho")), 1)
        assert update.error is not None
        assert update.error.code == told
        linking.assert_runs()

    async def test_the_owner_may_choose_another_place(self, linking: Device, tmp_path: Path) -> None:
        engine = build("engine", "1.0.0", files={"bin/run": (b"engine", 0o755)}, install_path="/opt/engine")
        await linking.update_to(engine, 1)
        assert (tmp_path / "elsewhere/bin/run").read_bytes() == b"engine"

    async def test_or_none(self, device: Device, tmp_path: Path) -> None:
        await device.update_to(build(version="1.0.0", install_path=str(tmp_path / "opt/tacho")), 1)
        assert not await in_thread((tmp_path / "opt").exists)
