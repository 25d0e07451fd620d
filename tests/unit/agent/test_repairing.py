"""What a power cut did to installed files is found by hash, repaired and told; edits are not touched."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent import damage
from device_agent.agent_db import DATABASE
from device_agent.journal import Journal
from device_agent.layout import FIXED_MTIME
from device_agent.updates import Origin
from schemas.errors import DeviceError, NetworkError
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build, expected_tree, tree_of

ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))
SEALED = float(FIXED_MTIME)


def put(path: Path, content: bytes, time: float) -> None:
    """Another content in the same inode, as a file system leaves it."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.truncate(0)
        stream.write(content)
    path.chmod(mode)
    os.utime(path, (time, time))


@pytest.fixture
async def device(make_device: MakeDevice) -> Device:
    device = await make_device().start()
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    return device


async def cut(device: Device, *spoil: Callable[[Path], object], in_order: bool = False) -> None:
    """The power fails; then the disk holds something else; then the agent starts."""
    await device.stop()
    device.services.running.clear()
    device.power.calls.clear()
    for one in spoil:
        one(device.folders.package("tacho").current)
    if not in_order:
        (device.root / f"{DATABASE}-wal").write_bytes(b"\0" * 4096)
    await device.start()


async def repaired(device: Device) -> None:
    await device.rest()
    update = device.journal.history()[0]
    assert update.request.origin is Origin.REPAIR
    assert update.phase is Phase.SUCCEEDED, update.error
    assert tree_of(device.folders.package("tacho").current.resolve()) == expected_tree(TWO, "pi-1")
    device.assert_runs(TWO, previous={"tacho": ONE})


@pytest.mark.parametrize(
    "content", [b"", b"only in 1.1", b"only in 1.1.0\n" * 49 + b"\0" * 14], ids=["empty", "short", "zeros at the end"]
)
async def test_a_torn_file_that_was_sealed(device: Device, content: bytes) -> None:
    device.shelf.fetched.clear()
    await cut(device, lambda tree: put(tree / "lib/only-1.1.0.txt", content, SEALED))
    assert any("lib/only-1.1.0.txt" in trouble and "repaired" in trouble for trouble in device.troubles)
    await repaired(device)
    assert len(device.shelf.fetched) == 1
    begun, ended = device.events()[-2:]
    assert begun.detail == {"origin": "repair", "damaged": ["lib/only-1.1.0.txt"], "files": 1}
    assert ended.detail is not None
    assert ended.detail["repaired"] == ["lib/only-1.1.0.txt"]


async def test_the_service_gets_the_repaired_files(device: Device) -> None:
    await cut(device, lambda tree: put(tree / "bin/run", b"", SEALED))
    await repaired(device)
    calls = [call for call in device.power.calls if call.startswith(("start", "stop"))]
    assert calls == ["start tacho 1.1.0", "stop tacho", "start tacho 1.1.0"]


async def test_an_empty_file_that_is_older_than_the_installation(device: Device) -> None:
    long_ago = device.journal.installs()["tacho"].current.installed_at.timestamp() - 5
    await cut(device, lambda tree: put(tree / "lib/only-1.1.0.txt", b"", long_ago))
    await repaired(device)


async def test_a_repair_keeps_to_the_bytes_that_an_update_may_take(make_device: MakeDevice) -> None:
    device = await make_device(max_bytes=5_000_000).start()
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    device.shelf.ways.clear()
    manifest = device.folders.package("tacho").manifest("1.1.0", TWO.sha256)
    await cut(
        device,
        lambda _: manifest.write_bytes(b""),
        lambda tree: put(tree / "lib/only-1.1.0.txt", b"", SEALED),
    )
    await repaired(device)
    assert device.shelf.at_hand[-1].max_bytes == 5_000_000
    assert [way.max_bytes for way in device.shelf.ways] == [5_000_000 - 100]
    assert device.journal.history()[0].fetched_bytes > 100


async def test_a_repair_that_takes_too_much_can_be_let_through(make_device: MakeDevice) -> None:
    device = await make_device(max_bytes=5_000_000).start()
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    device.shelf.resolve_errors.append(DeviceError("fetch.limit", "the server sent more"))
    manifest = device.folders.package("tacho").manifest("1.1.0", TWO.sha256)
    await cut(device, lambda _: manifest.write_bytes(b""))
    await device.rest()
    assert device.journal.history()[0].phase is Phase.FAILED
    again = await device.manager.retry("tacho", any_size=True)
    assert again is not None
    assert again.update is not None
    await device.end_of(again.update)
    assert device.shelf.at_hand[-1].max_bytes is None
    await repaired(device)


async def test_a_file_that_both_releases_have(device: Device) -> None:
    await cut(device, lambda tree: put(tree / "lib/common.txt", b"", SEALED))
    await repaired(device)
    before = device.folders.package("tacho").release("1.0.0", ONE.sha256)
    assert tree_of(before) == expected_tree(ONE, "pi-1")


async def test_a_torn_result_of_a_template(device: Device) -> None:
    long_ago = device.journal.installs()["tacho"].current.installed_at.timestamp() - 5
    await cut(device, lambda tree: put(tree / "etc/app.conf", b"\0" * 30, long_ago))
    await repaired(device)


async def test_a_torn_manifest(device: Device) -> None:
    manifest = device.folders.package("tacho").manifest("1.1.0", TWO.sha256)
    await cut(device, lambda _: manifest.write_bytes(b""))
    await repaired(device)
    assert device.services.running == {"tacho": {"web": "1.1.0"}}


@pytest.mark.parametrize("content", [b"", b"edited\n"])
async def test_an_edit_is_left_alone(device: Device, content: bytes) -> None:
    later = device.journal.installs()["tacho"].current.installed_at.timestamp() + 5
    edited = device.folders.package("tacho").current.resolve() / "lib/only-1.1.0.txt"
    await cut(device, lambda _: put(edited, content, later))
    assert device.troubles == []
    update = await device.update_to(THREE, 3)
    assert update.error is not None
    assert update.error.code == "conflict.local_changes"
    assert edited.read_bytes() == content


async def test_an_old_file_copied_over_with_its_time_is_an_edit(device: Device) -> None:
    await cut(device, lambda tree: put(tree / "lib/only-1.1.0.txt", b"an older one", 1_600_000_000))
    assert device.troubles == []


async def test_after_an_end_in_order_nothing_is_read(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "is_damaged", lambda *_: pytest.fail("a file was examined"))
    await cut(device, in_order=True)
    assert device.troubles == []


async def test_a_start_that_came_to_nothing_does_not_hide_the_damage(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device.stop()
    put(device.folders.package("tacho").current / "lib/only-1.1.0.txt", b"", SEALED)
    (device.root / f"{DATABASE}-wal").write_bytes(b"\0" * 4096)
    Journal(device.root).close()
    assert not (device.root / f"{DATABASE}-wal").exists()
    await device.start()
    await repaired(device)
    await device.stop()
    with Journal(device.root, read_only=True) as journal:
        assert journal.ended_in_order


async def test_damage_is_no_local_change_for_the_next_update(device: Device) -> None:
    await cut(device, lambda tree: put(tree / "lib/only-1.1.0.txt", b"", SEALED), in_order=True)
    update = await device.update_to(THREE, 3)
    assert update.phase is Phase.SUCCEEDED, update.error


async def test_without_a_repository_it_is_tried_again(device: Device) -> None:
    device.shelf.resolve_errors.append(NetworkError("fetch.unreachable", "nobody answers"))
    manifest = device.folders.package("tacho").manifest("1.1.0", TWO.sha256)
    await cut(device, lambda _: manifest.write_bytes(b""))
    await repaired(device)
    assert "deferred" in device.story(device.journal.history()[0].id)
    assert device.journal.history()[0].attempt == 2


async def test_a_repair_that_failed_begins_again_with_the_next_start(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", link)
    await cut(device, lambda tree: put(tree / "lib/only-1.1.0.txt", b"", SEALED))
    await device.rest()
    assert device.journal.history()[0].phase is Phase.FAILED
    monkeypatch.setattr(os, "link", real)
    await device.restart()
    await repaired(device)


async def test_what_is_read_before_services_start_is_bounded(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    release = device.folders.package("tacho").current.resolve()
    installed_at = device.journal.installs()["tacho"].current.installed_at
    put(release / "lib/only-1.1.0.txt", b"x" * 700, SEALED)
    found = damage.examine(release, TWO.manifest, {}, installed_at=installed_at, max_bytes=600)
    assert (found.damaged, found.left) == ([], 1)
    found = damage.examine(release, TWO.manifest, {}, installed_at=installed_at, max_bytes=None)
    assert ([file.path for file in found.damaged], found.left) == (["lib/only-1.1.0.txt"], 0)
