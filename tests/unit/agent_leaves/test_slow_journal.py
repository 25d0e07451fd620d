"""A journalctl that takes its time, as on a worn card, holds nothing of the agent up."""

import asyncio
from pathlib import Path

import pytest

from device_agent.checks import ReleaseProbe
from device_agent.conditions import Conditions
from device_agent.contexts import Contexts
from device_agent.journal import Journal
from device_agent.layout import DeviceFolders
from device_agent.services.systemd import SystemdServices
from device_agent.steps.health import HealthStep
from device_agent.updates import DeviceProfile
from schemas.errors import DeviceError
from schemas.manifest import MANIFEST_FORMAT, Health, Manifest, Service
from tests.support.links import until
from tests.unit.agent_leaves.builders import release_context
from tests.unit.agent_leaves.fake_clock import FakeClock
from tests.unit.agent_leaves.fake_systemd import FakeSystemd

WEB = Service(name="web", command=["sleep", "100"])


async def test_the_event_loop_turns_while_the_journal_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, asked, answer = FakeSystemd(tmp_path / "systemd"), tmp_path / "asked", tmp_path / "answer"
    monkeypatch.setenv("PATH", fake.path)
    waits = f"#!/bin/sh\n: > '{asked}'\nwhile [ ! -e '{answer}' ]; do sleep 0.02; done\necho the last words\n"
    (fake.bin / "journalctl").write_text(waits)
    (tmp_path / "root").mkdir()
    services = SystemdServices(tmp_path / "root", unit_folder=fake.units, clock=FakeClock())
    await services.start([WEB], release_context(tmp_path))
    fake.set("flotilla-tacho.web.service", ActiveState="failed")
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        package="tacho",
        version="1.0.0",
        platform="any",
        services=[WEB],
        health=Health(start_period_s=0),
    )
    profile = DeviceProfile(device="pi-1", platform="linux-x86_64", agent_version="1.0.0")
    with Journal(tmp_path / "root") as journal:
        step = HealthStep(
            journal=journal,
            services=services,
            probe=ReleaseProbe(),
            contexts=Contexts(DeviceFolders(tmp_path / "root"), lambda: profile),
            clock=FakeClock(),
            conditions=Conditions(),
        )
        answering = asyncio.create_task(_answer(asked, answer))  # only a loop that turns does it
        with pytest.raises(DeviceError) as failed:
            await step.first_pass(manifest)
        answering.cancel()
    assert failed.value.log_tail == "the last words\n"


async def _answer(asked: Path, answer: Path) -> None:
    await until(asked.exists)
    await asyncio.to_thread(answer.touch)
