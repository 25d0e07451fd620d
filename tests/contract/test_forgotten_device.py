"""A device that was forgotten, on a real broker, which still has what the device said."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.fleet.feed import DeviceForgotten
from controller.rollouts.plan import Verdict
from schemas.errors import OperatorError
from schemas.messages import Desired, Phase
from tests.support.broker import Broker
from tests.support.database import opened
from tests.support.fake_device import fake_device
from tests.support.links import BOUND_S, until
from tests.unit.fleet.serving import make_service, serving

pytestmark = [pytest.mark.broker, pytest.mark.wire]


async def test_it_stays_away_until_it_speaks_again_and_is_then_like_any_other(
    tmp_path: Path, broker: Broker, topic_root: str, unique: Callable[[str], str]
) -> None:
    name, who = unique("pi"), unique("controller")
    engine = opened(tmp_path / "flotilla.db")

    async with serving(make_service(engine, broker.url, topic_root, who)) as service:
        made = service.steering.create_release(
            package="tacho", version="1.1.0", channel="stable", repository=["http://repository"]
        )
        async with fake_device(broker.url, name, topic_root=topic_root) as device:
            announced = await device.announcement("1.1.0")
            await device.report()
            said = await device.update(announced, Phase.ACCEPTED, Phase.FETCHING)
            await until(lambda: service.rollouts.rollout(made.id).verdicts == {Verdict.UPDATING: 1})
            service.steering.change_desired(name, lambda _: Desired(rev=0, hold=True))
            await device.until(lambda: device.desired)
            with pytest.raises(OperatorError, match="is there, and would be back"):
                service.steering.forget(name)
        await until(lambda: not service.registry.device(name).online)
        with service.feed.watch() as watcher:
            service.steering.forget(name)
            async with asyncio.timeout(BOUND_S):
                async for item in watcher:
                    if item == DeviceForgotten(name):
                        break
        await until(lambda: service.rollouts.rollout(made.id).verdicts == {})
        assert service.registry.devices() == []
        assert service.status().incomplete_devices == 0

    # another controller on the same database hears all that the broker keeps
    async with serving(make_service(engine, broker.url, topic_root, unique("controller"))) as service:
        async with fake_device(broker.url, unique("pi"), topic_root=topic_root) as other:
            await other.report()
            await until(lambda: [one.id for one in service.registry.devices()] == [other.id])
        async with fake_device(broker.url, name, topic_root=topic_root) as device:
            await until(lambda: name in {one.id for one in service.registry.devices()})
            await device.until(lambda: device.desired)
            assert (device.desired[-1].rev, device.desired[-1].hold) == (2, None)
            device.seq = said[-1].seq
            await device.report(seq=device.seq)
            # what it said before is asked for, and taken in once
            await device.until(lambda: any(one.args == {"after_seq": 0} for one in device.commands))
            for event in said:
                await device.repeat(event)
            await until(lambda: service.registry.device(name).seq == device.seq)
            await until(lambda: service.rollouts.rollout(made.id).verdicts.get(Verdict.UPDATING) == 1)
            assert service.registry.device(name).life == 1
    engine.dispose()
