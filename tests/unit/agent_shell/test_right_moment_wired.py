"""What agent.toml says about the right moment reaches the engine that the agent and its commands open."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent import engine as engine_module
from device_agent.app import _Agent
from device_agent.config import AgentConfig, DevicePolicy
from device_agent.engine import open_engine
from device_agent.gate import Readings
from device_agent.heard import Heard
from device_agent.journal import Journal
from device_agent.owner_rules import Gate
from device_agent.updates import UpdateRequest
from schemas.messages import Desired, Phase
from tests.support.links import until
from transport import LinkState


async def reason_to_wait(config: AgentConfig) -> str:
    """Why an update is deferred that is asked for with this configuration."""
    async with open_engine(config) as engine:
        serving = asyncio.create_task(engine.manager.serve())
        submitted = await engine.manager.submit(UpdateRequest(package="tacho", version="1.0.0"))
        assert submitted.update is not None
        await until(lambda: engine.journal.history()[0].phase is not Phase.ACCEPTED)
        serving.cancel()
        await asyncio.wait({serving})
        update = engine.journal.history()[0]
    assert update.phase is Phase.DEFERRED, update
    return update.waiting.reason if update.waiting else ""


def configured(root: Path, gate: Gate | None = None, **policy: Any) -> AgentConfig:
    rules = DevicePolicy(services="supervisor", link_install_path=False, **policy)
    return AgentConfig(id="pi-1", root=root, policy=rules, gate=gate or Gate())


async def test_the_owners_windows_count_in_the_devices_own_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    elsewhere = datetime.now(UTC)  # where it is open now
    opens, closes = elsewhere - timedelta(hours=1), elsewhere + timedelta(hours=1)
    assert await reason_to_wait(configured(tmp_path, windows=[f"{opens:%H:%M}-{closes:%H:%M}"])) == "window"


async def test_the_devices_own_health_is_looked_at(tmp_path: Path) -> None:
    assert await reason_to_wait(configured(tmp_path, Gate(memory_free_mib=1_000_000))) == "memory"


async def test_the_devices_clock_is_held_against_what_was_proven(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/last-seen").write_text((datetime.now(UTC) + timedelta(hours=5)).isoformat())
    assert await reason_to_wait(configured(tmp_path, Gate(clock_behind_s=3600))) == "clock"


async def test_the_devices_own_health_is_among_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "read_health", lambda *_, **__: Readings(temperature_c=61.2, throttled=True))
    async with open_engine(configured(tmp_path)) as engine:
        facts = await asyncio.to_thread(engine.device.facts)
    assert (facts["temperature_c"], facts["throttled"]) == (61, True)


async def test_what_may_be_fetched_and_kept_is_the_owners_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    def noted(make: Any) -> Any:
        def noting(**options: Any) -> Any:
            told.update(options)
            return make(**options)

        return noting

    for name in ("process_source_factory", "UpdateManager"):
        monkeypatch.setattr(engine_module, name, noted(getattr(engine_module, name)))
    config = configured(tmp_path, max_bytes_per_s=50_000, max_bytes=7_000_000, keep_bytes=9_000_000)
    config = msgspec.structs.replace(config, repositories=["https://near.example"])
    async with open_engine(config):
        limits = (told["max_bytes_per_s"], told["max_bytes"], told["keep_bytes"])
    assert limits == (50_000, 7_000_000, 9_000_000)
    assert told["repositories"] == ["https://near.example"]


async def test_a_hold_counts_in_commands_too_that_open_an_engine_of_their_own(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        Heard(journal).keep_hold(on=True)
    assert await reason_to_wait(configured(tmp_path)) == "hold"


async def test_the_connection_tells_whether_the_broker_must_be_reached_after_a_switch(tmp_path: Path) -> None:
    async with open_engine(configured(tmp_path)) as engine:
        agent, ready = _Agent(engine, asyncio.Event()), engine.manager._queue._steps.ready
        assert not ready.broker_counts()
        agent._connection._note(LinkState(state="connected"), asyncio.Event())
        assert ready.broker_counts()
        agent._connection._note(LinkState(state="waiting"), asyncio.Event())
        assert not ready.broker_counts()
    async with open_engine(configured(tmp_path, reach_broker_s=0)) as engine:
        agent, ready = _Agent(engine, asyncio.Event()), engine.manager._queue._steps.ready
        agent._connection._note(LinkState(state="connected"), asyncio.Event())
        assert not ready.broker_counts()


async def test_a_command_by_hand_speaks_as_the_agent_that_ran_here(
    tmp_path: Path,
) -> None:
    config, kept = configured(tmp_path), list[str]()
    for name, runs, former in (("pi-1", True, "pi-1"), ("host-name", False, "pi-1"), ("pi-1", True, "pi-1")):
        async with open_engine(msgspec.structs.replace(config, id=name), runs=runs) as engine:
            assert engine.journal.speaker == former
            assert engine.journal._device == former
            if engine.heard.desired() is None:
                engine.heard.keep_desired(Desired(rev=1, hold=True))
                kept.append(name)
    assert kept == ["pi-1"], "what it was told is kept once, and stays"
