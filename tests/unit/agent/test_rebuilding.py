"""A damaged journal: put aside, begun anew, and what is installed runs on and is known again."""

from datetime import timedelta
from pathlib import Path

import pytest

from device_agent.agent_db import DATABASE, DamagedDatabaseError
from device_agent.journal import Journal
from device_agent.rebuilding import DAMAGED, MAX_DAMAGED, last_seq, open_journal
from device_agent.updates import Origin
from schemas.codec import decode
from schemas.messages import Phase, UpdateEvent
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build

ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))


def spoil_header(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"\0" * 100)


def spoil_middle(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(4096 + 8)
        stream.write(b"\xff" * 3000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def write_garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 2000)


async def damaged(make_device: MakeDevice, spoil: object) -> tuple[Device, int]:
    """A device with two releases whose journal was spoilt while no agent ran; the last event's number."""
    device = await make_device().start()
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    last = device.journal.last_seq()
    await device.stop()
    device.services.running.clear()
    spoil(device.root / DATABASE)  # type: ignore[operator]  # one of the above
    (device.root / f"{DATABASE}-wal").write_bytes(b"\0" * 4096)  # what is left where nobody closed it
    return device, last


def reopened(device: Device) -> Journal:
    journal, _ = open_journal(device.root, device="pi-1", boot_id="boot-2", now=device.clock.now())
    return journal


@pytest.mark.parametrize("spoil", [spoil_header, spoil_middle, empty, remove, write_garbage])
async def test_what_is_installed_runs_on_and_is_known_again(make_device: MakeDevice, spoil: object) -> None:
    device, _ = await damaged(make_device, spoil)
    reopened(device).close()
    await device.start()
    assert device.services.running == {"tacho": {"web": "1.1.0"}}
    install = device.journal.installs()["tacho"]
    assert (install.current.version, install.current.manifest) == ("1.1.0", TWO.sha256)
    assert install.previous is not None
    assert install.previous.manifest == ONE.sha256
    assert any("tacho 1.1.0 runs here" in trouble for trouble in device.troubles)
    (update,) = device.journal.history()
    assert (update.request.origin, update.phase) == (Origin.REPAIR, Phase.SUCCEEDED)
    kept = [decode(event.payload, UpdateEvent) for event in device.journal.events_after(0)]
    assert [event.phase for event in kept] == [Phase.ACCEPTED, Phase.SUCCEEDED]
    assert kept[0].detail == {"origin": "repair"}
    assert (await device.manager.installed())["tacho"].phase is Phase.SUCCEEDED
    submitted = await device.submit(THREE, 3)
    assert submitted.update is not None
    ended = await device.manager.wait(submitted.update, 30)
    assert ended is not None
    assert ended.phase is Phase.SUCCEEDED
    assert device.journal.installs()["tacho"].previous == install.current


async def test_numbers_go_on_where_they_were(make_device: MakeDevice) -> None:
    device, last = await damaged(make_device, spoil_header)
    assert last_seq(device.root / DATABASE) == last
    journal, rebuilt = open_journal(device.root, device="pi-1", boot_id="boot-2", now=device.clock.now())
    with journal:
        assert rebuilt is not None
        assert rebuilt.seq == journal.last_seq() == last
        assert journal.next_session() > 1_000_000_000
    assert (device.root / rebuilt.kept).stat().st_size > 4096
    await device.start()
    numbers = [event.seq for event in device.journal.events_after(0)]
    assert numbers == [last + 1, last + 2]


async def test_damaged_journals_are_kept_for_people_but_not_all(make_device: MakeDevice) -> None:
    device, _ = await damaged(make_device, spoil_header)
    for day in range(4):
        write_garbage(device.root / DATABASE)
        open_journal(device.root, device="pi-1", boot_id="", now=device.clock.now() + timedelta(days=day))[0].close()
    names = {path.name.removesuffix("-wal").removesuffix("-shm") for path in device.root.glob(f"{DAMAGED}*")}
    assert len(names) == MAX_DAMAGED
    assert max(names).startswith("agent.db.damaged-2026")


async def test_a_journal_that_was_closed_in_order_is_not_looked_through(device: Device) -> None:
    assert device.journal.ended_in_order
    await device.update_to(ONE, 1)
    with pytest.raises(DamagedDatabaseError):
        await device.stop()
        write_garbage(device.root / DATABASE)
        Journal(device.root, device="pi-1", boot_id="")
    device.root.joinpath(DATABASE).unlink()


async def test_a_link_to_a_release_without_a_whole_manifest_is_told(make_device: MakeDevice) -> None:
    device, _ = await damaged(make_device, remove)
    (device.root / f"{DATABASE}-wal").unlink()
    device.folders.package("tacho").manifest("1.1.0", TWO.sha256).write_bytes(TWO.plain[:100])
    await device.start()
    assert any("no whole manifest" in trouble for trouble in device.troubles)
    assert device.journal.installs() == {}
    assert device.folders.package("tacho").current.resolve().is_dir()
