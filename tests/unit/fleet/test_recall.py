"""What the controller waits for before it says anything."""

import asyncio

import pytest
from sqlalchemy import Engine

from controller.database import utc_now
from controller.fleet import recall
from controller.fleet.recall import Recall
from controller.fleet.recall_store import RecallStore
from schemas.topics import Topics


async def test_devices_that_are_never_quiet_do_not_keep_the_controller_from_speaking(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recall, "LONGEST_S", 0.05)
    deaf = Recall(
        Topics(), RecallStore(engine), lambda _recalled: None, is_greeting=lambda _presence: False, clock=utc_now
    )

    async def chatter() -> None:
        while True:
            await deaf.take([])
            await asyncio.sleep(0)

    deaf.begin()
    devices = asyncio.create_task(chatter())
    try:
        async with asyncio.timeout(5):
            await deaf.done()
    finally:
        devices.cancel()
    assert "does not let the controller hear" in caplog.text
