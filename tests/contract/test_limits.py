"""What nobody may have all of: a real controller, and somebody who takes as much as they can."""

import asyncio
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from controller.fleet.intake_store import IntakeStore
from controller.fleet.surplus import LOOK_AFTER, MOST_EVENTS
from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import ControllerProcess, controller_process
from tests.support.database import opened
from tests.support.fake_device import fake_device
from tests.unit.fleet.builders import NOW, an_id, event_in

pytestmark = pytest.mark.broker


async def test_one_device_that_says_more_than_is_kept(
    tmp_path: Path, broker: Broker, topic_root: str, unique: Callable[[str], str]
) -> None:
    data, name = tmp_path / "data", unique("pi")
    data.mkdir()
    engine = opened(data / "flotilla.db")
    said = [event_in(name, seq, Phase.FAILED, update=an_id(seq), rollout=None) for seq in range(1, MOST_EVENTS + 1)]
    IntakeStore(engine).take_in(said, NOW)
    engine.dispose()
    with controller_process(data, broker.url, topic_root=topic_root) as controller:
        async with fake_device(broker.url, name, topic_root=topic_root) as device, asyncio.TaskGroup() as group:
            device.seq = MOST_EVENTS
            for _ in range(LOOK_AFTER):
                group.create_task(device.say(Phase.FAILED))
        line = f"device {name} says so much that its oldest"
        await asyncio.to_thread(partial(controller.until, lambda: line in controller.log_text(), 15.0))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system about another process")
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048, reason="no more files may be opened here")
def test_it_opens_more_files_than_usual_by_itself(controller: ControllerProcess) -> None:
    soft, hard = resource.prlimit(controller.pid, resource.RLIMIT_NOFILE)
    assert soft >= min(hard, 16_384)
