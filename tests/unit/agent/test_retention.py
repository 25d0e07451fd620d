"""Which releases stay on a device, and going back to one that is not the previous one."""

import pytest

from schemas.errors import OperatorError
from schemas.messages import Phase
from tests.unit.agent.conftest import MakeDevice
from tests.unit.agent.device import Device
from tests.unit.agent.releases import Built, build

SIZE = 1000


def release(number: int, *, size: int = SIZE) -> Built:
    """A release with `size` bytes of its own and a few that all have."""
    files = {"bin/run": (b"#!/bin/sh\n", 0o755), "own": (bytes([number]) * size, 0o644)}
    return build(version=f"{number}.0.0", files=files)


async def run_through(device: Device, *numbers: int, size: int = SIZE) -> None:
    for number in numbers:
        await device.update_to(release(number, size=size), number)


def there(device: Device) -> set[str]:
    """Versions that are on the device, with everything in them."""
    folders = device.folders.package("tacho")
    trees = {path.name.partition("+")[0] for path in folders.releases.iterdir() if (path / "own").stat().st_size}
    return {version.removesuffix(".0.0") for version in trees}


async def test_without_a_limit_only_two_are_kept(device: Device) -> None:
    await run_through(device, 1, 2, 3, 4)
    assert there(device) == {"3", "4"}


@pytest.mark.parametrize(
    ("limit", "kept"), [(SIZE - 1, "56"), (SIZE, "456"), (2 * SIZE + 500, "3456"), (10**9, "123456")]
)
async def test_as_many_more_are_kept_as_fit_the_newest_first(make_device: MakeDevice, limit: int, kept: str) -> None:
    device = await make_device(keep_bytes=limit).start()
    await run_through(device, 1, 2, 3, 4, 5, 6)
    assert there(device) == set(kept)
    await device.restart()
    assert there(device) == set(kept)


async def test_one_that_failed_or_was_left_is_not_kept(make_device: MakeDevice) -> None:
    device = await make_device(keep_bytes=10**9).start()
    device.probe.sick.add("3.0.0")
    await run_through(device, 1, 2, 3, 4)
    await device.end_of(await device.manager.rollback("tacho"))
    await run_through(device, 5)
    assert there(device) == {"1", "2", "5"}


async def test_going_back_to_one_that_was_kept(make_device: MakeDevice) -> None:
    device = await make_device(keep_bytes=10**9).start()
    await run_through(device, 1, 2, 3, 4)
    update = await device.manager.rollback("tacho", "2.0.0")
    ended = await device.end_of(update)
    assert ended.phase is Phase.ROLLED_BACK
    event = device.events()[-1]
    assert (event.version, event.from_version) == ("4.0.0", "2.0.0")
    assert (await device.manager.installed())["tacho"].version == "2.0.0"
    assert device.services.running["tacho"] == {"web": "2.0.0"}
    assert there(device) == {"1", "2", "3"}


async def test_a_power_cut_on_the_way_to_a_kept_one(make_device: MakeDevice) -> None:
    device = await make_device(keep_bytes=10**9).start()
    await run_through(device, 1, 2, 3)
    device.options["keep_bytes"] = 0  # the limit was lowered while it was off
    device.power.cut_when = lambda point: point == "after stop"
    await device.manager.rollback("tacho", "1.0.0")
    await device.lose_power()
    await device.start()
    await device.rest()
    assert (await device.manager.installed())["tacho"].version == "1.0.0"
    assert there(device) == {"1"}


@pytest.mark.parametrize("version", ["9.0.0", "4.0.0", "1.0.0", "not a version"])
async def test_what_is_not_there_cannot_be_gone_back_to(make_device: MakeDevice, version: str) -> None:
    device = await make_device(keep_bytes=SIZE).start()
    await run_through(device, 1, 2, 3, 4)
    with pytest.raises(OperatorError, match=r"there are 3\.0\.0, 2\.0\.0") as refused:
        await device.manager.rollback("tacho", version)
    assert refused.value.code == "release.unknown"
    assert (await device.manager.installed())["tacho"].version == "4.0.0"
