"""State around a switch: copied, migrated, put back; at any power cut it ends whole, and on the right side."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent import snapshots
from device_agent.durability import Space
from device_agent.seams import HookResult, ReleaseContext
from device_agent.snapshots import SLACK_BYTES, Snapshots, copy_tree, measure
from device_agent.store import ReleaseStore
from schemas.errors import DeviceError
from schemas.manifest import Hook
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build

MIGRATIONS = ("migrate_up", "migrate_down")
ONE = build(version="1.0.0")
TWO = build(version="2.0.0", hooks=MIGRATIONS)
KEPT = build(version="2.0.0", hooks=MIGRATIONS, state_snapshot=True)


def data(device: Device, package: str = "tacho") -> Path:
    return device.folders.package(package).state / "data"


def migrations(device: Device) -> list[str]:
    """The migrations that ran, with the versions they were told."""
    return [call for call in device.power.calls if call.startswith("migrate")]


@pytest.fixture
async def updated(device: Device) -> Device:
    """Runs 1.0.0, whose application has written into its state."""
    writing_migrations(device)
    await device.update_to(ONE, 1)
    (data(device) / "log").write_text("one")
    device.power.calls.clear()
    return device


def writing_migrations(device: Device) -> None:
    """Migrations really change the state; services of the package must stand still meanwhile."""
    real = device.hooks.run

    async def run(name: str, hook: Hook, context: ReleaseContext) -> HookResult:
        if name in MIGRATIONS:
            assert not device.services.running.get(context.package)
            log = context.state_folder / "data/log"
            log.write_text(f"{log.read_text() if log.exists() else ''}|{name}")
        return await real(name, hook, context)

    device.hooks.run = run  # type: ignore[method-assign]  # wrapped


async def test_the_newer_release_migrates_up_and_down(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    assert migrations(updated) == ["migrate_up tacho 2.0.0"]
    told = updated.hooks.contexts["migrate_up"].environment
    assert (told["FLOTILLA_FROM_VERSION"], told["FLOTILLA_TO_VERSION"]) == ("1.0.0", "2.0.0")
    calls = updated.power.calls
    assert calls.index("stop tacho") < calls.index("migrate_up tacho 2.0.0") < calls.index("start tacho 2.0.0")
    await updated.end_of(await updated.manager.rollback("tacho"))
    assert migrations(updated) == ["migrate_up tacho 2.0.0", "migrate_down tacho 2.0.0"]
    told = updated.hooks.contexts["migrate_down"].environment
    assert (told["FLOTILLA_FROM_VERSION"], told["FLOTILLA_TO_VERSION"]) == ("2.0.0", "1.0.0")
    assert (data(updated) / "log").read_text() == "one|migrate_up|migrate_down"
    updated.assert_runs(ONE)


async def test_an_announced_downgrade_migrates_down_with_the_release_that_is_left(updated: Device) -> None:
    await updated.update_to(TWO, 2)
    updated.power.calls.clear()
    await updated.update_to(ONE, 3, allow_downgrade=True)
    assert migrations(updated) == ["migrate_down tacho 2.0.0"]
    assert updated.hooks.contexts["migrate_down"].folder.name.startswith("2.0.0")
    updated.assert_runs(ONE, previous={"tacho": TWO})


async def test_a_first_installation_migrates_up_from_nothing(device: Device) -> None:
    await device.update_to(TWO, 1)
    assert device.hooks.contexts["migrate_up"].environment["FLOTILLA_FROM_VERSION"] == ""


@pytest.mark.parametrize("reason", ["the migration fails", "the release is ill"])
async def test_what_was_migrated_is_migrated_back(updated: Device, reason: str) -> None:
    if reason == "the migration fails":
        updated.hooks.failing.add(("migrate_up", "2.0.0"))
    else:
        updated.probe.sick.add("2.0.0")
    update = await updated.update_to(TWO, 2)
    assert update.phase is Phase.ROLLED_BACK
    assert migrations(updated) == ["migrate_up tacho 2.0.0", "migrate_down tacho 2.0.0"]
    detail = updated.events()[-1].detail
    assert detail is not None
    assert detail["migrate_down"] == "migrate_down was here"
    updated.assert_runs(ONE)


async def test_a_migration_back_that_fails_is_told_and_the_way_back_goes_on(updated: Device) -> None:
    updated.probe.sick.add("2.0.0")
    updated.hooks.failing.add(("migrate_down", "2.0.0"))
    await updated.update_to(TWO, 2)
    detail = updated.events()[-1].detail
    assert detail is not None
    assert "migrate_down ended with 1" in detail["migrate_down"]
    updated.assert_runs(ONE)


async def test_nothing_is_migrated_back_where_nothing_was_migrated(updated: Device) -> None:
    two = build(version="2.0.0", hooks=("migrate_down", "pre_switch"))
    updated.hooks.failing.add(("pre_switch", "2.0.0"))
    assert (await updated.update_to(two, 2)).phase is Phase.FAILED
    assert migrations(updated) == []
    assert updated.services.running["tacho"] == {"web": "1.0.0"}


async def test_a_completed_migration_is_not_run_again_after_a_restart(updated: Device) -> None:
    updated.power.cut_when = lambda point: point == "before start tacho 2.0.0"
    await updated.submit(TWO, 2)
    await updated.lose_power()
    await updated.start()
    await updated.rest()
    assert migrations(updated) == ["migrate_up tacho 2.0.0"]
    updated.assert_runs(TWO, previous={"tacho": ONE})


async def test_a_snapshot_is_put_back_by_a_rollback(updated: Device) -> None:
    updated.probe.sick.add("2.0.0")
    update = await updated.update_to(KEPT, 2)
    assert update.phase is Phase.ROLLED_BACK
    assert (data(updated) / "log").read_text() == "one"
    assert migrations(updated) == ["migrate_up tacho 2.0.0"]
    detail = updated.events()[-1].detail
    assert detail is not None
    assert detail["state_restored"] is True
    assert not (updated.folders.package("tacho").root / "snapshots").exists()
    updated.assert_runs(ONE)


async def test_a_snapshot_is_removed_after_success_and_then_the_way_back_migrates(updated: Device) -> None:
    await updated.update_to(KEPT, 2)
    assert not (updated.folders.package("tacho").root / "snapshots").exists()
    await updated.end_of(await updated.manager.rollback("tacho"))
    assert (data(updated) / "log").read_text() == "one|migrate_up|migrate_down"


async def test_without_room_for_a_snapshot_nothing_is_stopped(updated: Device) -> None:
    (data(updated) / "large").write_bytes(b"x" * 3_000_000)
    updated.power.calls.clear()
    updated.hooks.contexts.clear()
    two = build(version="2.0.0", hooks=("post_switch",), state_snapshot=True)

    updated.space = Space(free=SLACK_BYTES + 2_000_000, inodes=10**6, block=4096)
    update = await updated.update_to(two, 2)
    assert update.phase is Phase.FAILED
    assert update.error is not None
    assert update.error.code == "disk.full"
    assert "snapshot" in update.error.message
    assert "stop tacho" not in updated.power.calls
    assert updated.services.running["tacho"] == {"web": "1.0.0"}


@pytest.mark.parametrize("kind", ["healthy", "sick"])
@pytest.mark.timeout(120)
async def test_a_power_cut_at_any_point_leaves_the_right_state(make_device: MakeDevice, kind: str) -> None:
    """After the cut the update either succeeds, with the state migrated, or it is as if it had never been."""

    async def prepared(name: str) -> Device:
        device = await make_device(name).start()
        writing_migrations(device)
        await device.update_to(ONE, 1)
        (data(device) / "log").write_text("one")
        if kind == "sick":
            device.probe.sick.add("2.0.0")
        device.power.points.clear()
        return device

    device = await prepared("undisturbed")
    await device.update_to(KEPT, 2)
    points = list(device.power.points)
    first = next(n for n, point in enumerate(points) if point.startswith("before stop"))
    last = len(points) - 1 - next(n for n, p in enumerate(reversed(points)) if p.startswith("before start"))
    assert 5 < last - first < 60
    for number in range(first + 1, last + 2):
        device = await prepared(f"cut-{number}")
        device.power.cut_at = number
        await device.submit(KEPT, 2)
        where = await device.lose_power()
        await device.start()
        await device.rest()
        text = (data(device) / "log").read_text()
        if kind == "sick":
            device.assert_runs(ONE)
            assert text == "one", where
        else:
            device.assert_runs(KEPT, previous={"tacho": ONE})
            # again only where it was cut off in the middle, or right before it was journaled
            assert text in ("one|migrate_up", "one|migrate_up|migrate_up"), where
        assert not (device.folders.package("tacho").root / "snapshots").exists(), where
        await device.stop()


class TestCopies:
    """`Snapshots` and `copy_tree` by themselves."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ReleaseStore:
        store = ReleaseStore(tmp_path / "root")
        state = store.package("tacho").state
        (state / "data").mkdir(parents=True)
        (state / "data/db").write_bytes(b"database" * 1000)
        return store

    def test_a_copy_is_a_file_of_its_own(self, store: ReleaseStore) -> None:
        snapshots, state = Snapshots(store), store.package("tacho").state
        assert snapshots.make("tacho", "u1")
        with (state / "data/db").open("r+b") as file:
            file.write(b"IN PLACE")
        snapshots.restore("tacho", "u1")
        assert (state / "data/db").read_bytes() == b"database" * 1000

    def test_looks_are_kept(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub/file").write_bytes(b"x")
        (source / "sub/link").symlink_to("nowhere")
        (source / "sub/file").chmod(0o640)
        os.utime(source / "sub/file", (1000, 2000))
        (source / "sub").chmod(0o500)
        os.mkfifo(source / "pipe")
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(source)  # a socket's name is short
            try:
                server.bind("socket")
            finally:
                os.chdir(here)
        copy_tree(source, tmp_path / "copy", limit=1000)
        (source / "sub").chmod(0o700)
        looks = (tmp_path / "copy/sub/file").stat()
        assert (stat.S_IMODE(looks.st_mode), looks.st_mtime) == (0o640, 2000)
        assert stat.S_IMODE((tmp_path / "copy/sub").stat().st_mode) == 0o500
        assert (tmp_path / "copy/sub/link").readlink() == Path("nowhere")
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {"sub"}
        (tmp_path / "copy/sub").chmod(0o700)

    def test_holes_stay_holes(self, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        with (tmp_path / "source/sparse").open("wb") as file:
            file.write(b"start")
            file.seek(50_000_000)
            file.write(b"end")
            file.truncate(60_000_000)
        assert measure(tmp_path / "source").size < 1_000_000
        copy_tree(tmp_path / "source", tmp_path / "copy", limit=1_000_000)
        copy = tmp_path / "copy/sparse"
        assert copy.stat().st_blocks * 512 < 1_000_000
        assert copy.read_bytes() == (tmp_path / "source/sparse").read_bytes()

    def test_no_more_is_written_than_there_is_room_for(self, store: ReleaseStore, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="space"):
            copy_tree(store.package("tacho").state, tmp_path / "copy", limit=7999)

    def test_an_interrupted_copy_starts_over_and_a_whole_one_is_kept(
        self, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshots, state = Snapshots(store), store.package("tacho").state

        def fail(*_: Any) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr("device_agent.snapshots._copy_looks", fail)
            with pytest.raises(DeviceError, match="snapshot"):
                snapshots.make("tacho", "u1")
        (state / "data/new").write_text("new")
        assert snapshots.make("tacho", "u1")
        (state / "data/new").write_text("newer")
        assert not snapshots.make("tacho", "u1")
        snapshots.restore("tacho", "u1")
        assert (state / "data/new").read_text() == "new"
        (state / "data/new").write_text("later")
        snapshots.restore("tacho", "u1")
        assert (state / "data/new").read_text() == "later"

    def test_a_restoring_that_was_cut_off_between_its_renames_is_finished(self, store: ReleaseStore) -> None:
        snapshots, folders = Snapshots(store), store.package("tacho")
        snapshots.make("tacho", "u1")
        folders.state.rename(folders.root / "snapshots/u1.left")
        snapshots.restore("tacho", "u1")
        assert (folders.state / "data/db").read_bytes() == b"database" * 1000
        snapshots.sweep("tacho", [])
        assert not (folders.root / "snapshots").exists()


@pytest.mark.parametrize("becomes", ["link", "pipe"])
def test_a_file_that_becomes_something_else_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    secret, source = tmp_path / "secret", tmp_path / "source"
    secret.write_text("of root alone")
    source.mkdir()
    (source / "file").write_text("mine")
    real = snapshots._walk

    def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
        for path, looks in real(folder):
            path.unlink()
            path.symlink_to(secret) if becomes == "link" else os.mkfifo(path)
            yield path, looks

    monkeypatch.setattr(snapshots, "_walk", walk)
    if becomes == "link":
        with pytest.raises(OSError, match="symbolic links"):
            copy_tree(source, tmp_path / "copy", limit=1_000_000)
    else:
        copy_tree(source, tmp_path / "copy", limit=1_000_000)
    assert not (tmp_path / "copy/file").exists()
