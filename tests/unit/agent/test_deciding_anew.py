"""After a restart in the middle of fetching, what was decided before is decided again."""

import asyncio

from device_agent.durability import Space
from schemas.messages import Phase
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build


async def test_room_that_is_gone_after_a_restart_ends_the_update(device: Device) -> None:
    device.shelf.block = asyncio.Event()
    submitted = await device.submit(build())
    assert submitted.update is not None
    await device.shelf.blocked.wait()
    await device.stop()
    device.shelf.block = None
    device.space = Space(free=0, inodes=10**9, block=4096)
    await device.start()
    ended = await device.end_of(submitted.update)
    assert ended.phase is Phase.FAILED
    assert ended.error is not None
    assert ended.error.code == "disk.full"
