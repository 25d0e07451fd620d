"""Nothing that an interruption, a given-up download or a local change leaves behind stays for ever."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from device_agent import clearing
from device_agent.updates import LocalChanges
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build

ONE, TWO = build(version="1.0.0"), build(version="1.1.0")


def put(path: Path, size: int = 4, age: timedelta = timedelta(), now: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    if now:
        os.utime(path, (now - age.total_seconds(),) * 2)
    return path


async def test_what_a_killed_process_had_not_finished_goes_at_the_next_start(device: Device) -> None:
    await device.update_to(ONE, 1)
    await device.stop()
    unfinished = [
        put(device.root / "metadata/tmpahxjz7gz"),
        put(device.root / "metadata/.last-seen.new"),
        put(device.root / "run/.tacho.web.tmp"),
        put(device.folders.package("tacho").root / ".current.new"),
        put(device.root / "downloads/abc.tmp"),
    ]
    other = put(device.root / "metadata/timestamp.json")
    await device.start()
    assert [path for path in unfinished if path.exists()] == []
    assert other.exists()


async def test_partial_downloads_are_bounded_by_age_and_size(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    now = device.clock.now().timestamp()
    folder = device.root / "downloads"
    fresh = put(folder / "a.zst.part", 10, timedelta(days=1), now)
    older = put(folder / "b.zst.part", 10, timedelta(days=2), now)
    old = put(folder / "c.zst.part", 10, timedelta(days=8), now)
    clearing.bound_downloads(device.root, device.clock.now())
    assert (fresh.exists(), older.exists(), old.exists()) == (True, True, False)
    monkeypatch.setattr(clearing, "MAX_DOWNLOADS_BYTES", 15)
    await device.restart()
    assert (fresh.exists(), older.exists()) == (True, False)


async def test_partial_downloads_of_an_unfinished_update_stay(device: Device) -> None:
    device.clock.running.clear()
    now = device.clock.now()
    await device.submit(ONE, 1, not_before=now + timedelta(days=30))
    part = put(device.root / "downloads/c.zst.part", 10, timedelta(days=8), now.timestamp())
    await device.restart()
    assert part.exists()
    device.clock.running.set()


async def test_copies_of_local_changes_are_bounded(make_device: MakeDevice) -> None:
    device = await make_device(local_changes=LocalChanges.KEEP_COPY).start()
    await device.update_to(ONE, 1)
    kept = device.folders.package("tacho").kept
    for month in range(1, 13):
        put(kept / f"0.9.0-2026{month:02}01T000000Z" / "etc/app.conf")
    ancient = put(kept / "0.1.0-20200101T000000Z/etc/app.conf")
    changed = device.folders.package("tacho").current / "lib/only-1.0.0.txt"
    changed.chmod(0o644)
    changed.write_bytes(b"edited")
    update = await device.update_to(TWO, 2)
    copy = next(Path(str((event.detail or {})["kept"])) for event in device.events() if "kept" in (event.detail or {}))
    assert (copy / "lib/only-1.0.0.txt").read_bytes() == b"edited"
    assert update.error is None
    assert not ancient.parent.parent.exists()
    assert len(list(kept.iterdir())) == clearing.MAX_KEPT
    assert not list(device.folders.trash.iterdir())


async def test_the_newest_copy_stays_whatever_its_size(device: Device, tmp_path: Path) -> None:
    put(tmp_path / "kept/1.0.0-20200101T000000Z/large").open("wb").truncate(clearing.MAX_KEPT_BYTES + 1)
    assert clearing.kept_too_long(tmp_path / "kept", device.clock.now()) == []
    newer = put(tmp_path / "kept/1.0.0-20200102T000000Z/large")
    assert clearing.kept_too_long(tmp_path / "kept", device.clock.now()) == [
        newer.parent.with_name("1.0.0-20200101T000000Z")
    ]
