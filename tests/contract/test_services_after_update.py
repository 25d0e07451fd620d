"""A service that ends long after its update has succeeded is restarted, and told where it keeps ending."""

import sys
from pathlib import Path

import pytest

from device_agent.config import AgentConfig, DevicePolicy
from device_agent.services import supervisor
from schemas.manifest import Health, Service
from tests.support.agents import agent, announce, control
from tests.support.broker import Broker
from tests.support.links import until
from tests.support.repository import add_release, make_repository, serve_folder


async def test_a_crash_loop_after_success_is_reported_until_it_is_over(
    tmp_path: Path, broker: Broker, topic_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.1)
    broken, starts = tmp_path / "broken", tmp_path / "starts"
    code = (
        f"import os, sys, time; open({str(starts)!r}, 'a').write('x')\n"
        f"while not os.path.exists({str(broken)!r}): time.sleep(0.02)\nsys.exit(9)"
    )
    repository = make_repository(tmp_path / "controller")
    add_release(
        repository, "tacho", "1.0.0", {"page": "1"}, health=Health(start_period_s=5, probation_s=0.1, interval_s=0.1),
        services=[Service(name="web", command=[sys.executable, "-c", code])],
    )  # fmt: skip
    root_file = tmp_path / "root.json"
    root_file.write_bytes(repository.trusted_root())
    with serve_folder(repository.folder) as url:
        config = AgentConfig(
            id="pi-1", root=tmp_path / "device", broker=broker.url, topic_root=topic_root, trusted_root=root_file,
            repositories=[url], policy=DevicePolicy(services="supervisor"),
        )  # fmt: skip
        async with control(broker.url, topic_root, "pi-1") as controller, agent(config):
            await controller.announce(announce("tacho", "1.0.0"))
            await controller.until(controller.ended)
            assert controller.phases()[-1] == "succeeded"
            broken.touch()
            await controller.until(lambda: controller.reports and "services" in controller.reports[-1].facts)
            await until(lambda: len(starts.read_text()) > 1)
            said = str(controller.reports[-1].facts["services"])
            events = len(controller.events)
    assert said.startswith("tacho 1.0.0: service web ")
    assert "ended with status 9" in said
    assert controller.phases()[-1] == "succeeded"  # its update has had its last word
    assert events == len(controller.events)
