"""After an update's last word, what it left behind goes away; whoever is about to end the agent can wait for that."""

import asyncio
import threading
from typing import Any

import pytest

from device_agent.store import ReleaseStore
from tests.unit.agent.device import LIMIT_S, Device
from tests.unit.agent.releases import build

ONE, TWO, THREE = (build(version=version) for version in ("1.0.0", "1.1.0", "1.2.0"))


async def test_one_can_wait_for_the_clearing_up(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    await device.update_to(ONE, 1)
    await device.update_to(TWO, 2)
    go_on, sweep = threading.Event(), ReleaseStore.sweep

    def slow_sweep(*arguments: Any) -> None:
        go_on.wait(LIMIT_S)
        sweep(*arguments)

    monkeypatch.setattr(ReleaseStore, "sweep", slow_sweep)
    submitted = await device.submit(THREE, 3)
    assert submitted.update is not None
    assert await device.manager.wait(submitted.update, LIMIT_S) is not None
    assert not await device.manager.clear_up(0.05)
    clearing = asyncio.create_task(device.manager.clear_up(LIMIT_S))
    go_on.set()
    assert await clearing
    device.assert_runs(THREE, previous={THREE.package: TWO})
    assert await device.manager.clear_up(LIMIT_S)


async def test_there_is_nothing_to_wait_for_where_nothing_was_done(device: Device) -> None:
    assert await device.manager.clear_up(LIMIT_S)
