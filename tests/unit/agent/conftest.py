"""Devices for tests, stopped when the test is over."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.unit.agent.device import Device

MakeDevice = Callable[..., Device]


@pytest_asyncio.fixture
async def make_device(tmp_path: Path) -> AsyncIterator[MakeDevice]:
    """Makes devices on folders of their own."""
    made: list[Device] = []

    def make(name: str = "device", **options: Any) -> Device:
        device = Device(tmp_path / name, **options)
        made.append(device)
        return device

    yield make
    for device in made:
        device.power.back()
        await device.stop()


@pytest_asyncio.fixture
async def device(make_device: MakeDevice) -> Device:
    """A device that is running, with nothing installed."""
    return await make_device().start()
