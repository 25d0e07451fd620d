"""A disk on which nothing can be journaled: what is installed runs, one line says why, and it goes on when it can."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent import app, without_journal
from device_agent.agent_db import DATABASE, LOCK
from device_agent.cli.status import gather_status
from device_agent.config import AgentConfig, DevicePolicy
from device_agent.journal import Journal
from device_agent.sdnotify import Notifier
from schemas.errors import DeviceError
from tests.support.links import until
from tests.support.wholeness import service_processes
from tests.unit.agent.device import Device
from tests.unit.agent.releases import build, files_of

ONE = build(version="1.0.0", files={**files_of("1.0.0"), "bin/run": (b"#!/bin/sh\nexec sleep 60\n", 0o755)})


@pytest.fixture
async def config(tmp_path: Path) -> AgentConfig:
    """Of a device on which a release is installed and no agent runs."""
    device = await Device(tmp_path / "root").start()
    await device.update_to(ONE, 1)
    await device.stop()
    return AgentConfig(id="pi-1", root=device.root, policy=DevicePolicy(services="supervisor"))


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, config: AgentConfig) -> Callable[[], None]:
    """A root folder in which nothing can be opened for writing; the call makes it writable again."""
    real, refused = os.open, [True]

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if refused[0] and str(path).startswith(str(config.root)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", opened)

    def make_writable() -> None:
        refused[0] = False

    return make_writable


async def test_services_run_on_a_read_only_disk(
    config: AgentConfig, read_only: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    stop = asyncio.Event()
    package = config.root / "packages/tacho"
    with caplog.at_level(logging.INFO, logger="flotilla"):
        running = asyncio.create_task(app.run_agent(config, stop, Notifier({})))
        await until(lambda: len(service_processes(package)) == 1)
        stop.set()
        await asyncio.wait_for(running, 30)
    assert service_processes(package) == []
    (line,) = [record.message for record in caplog.records]
    assert "action=disk" in line
    assert "Read-only file system" in line


async def test_the_agent_goes_on_when_the_disk_takes_writes_again(
    config: AgentConfig, read_only: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(without_journal, "PAUSE_S", 0.05)
    opened = asyncio.Event()

    async def run_engine(*_: Any) -> bool:
        opened.set()
        Journal(config.root).close()
        return True

    monkeypatch.setattr(app, "_run_engine", run_engine)
    running = asyncio.create_task(app.run_agent(config, asyncio.Event(), Notifier({})))
    await until(lambda: opened.is_set() and len(service_processes(config.root / "packages/tacho")) == 1)
    assert not running.done()
    read_only()
    assert await asyncio.wait_for(running, 30)


async def test_another_error_ends_the_agent(config: AgentConfig) -> None:
    with Journal(config.root), pytest.raises(DeviceError) as refused:
        await app.run_agent(config, asyncio.Event(), Notifier({}))
    assert refused.value.code == "conflict.busy"


async def test_a_manifest_that_is_not_whole_is_told_and_stops_no_other(config: AgentConfig) -> None:
    (manifest,) = [p for p in (config.root / "packages/tacho/manifests").iterdir() if ".rendered" not in p.name]
    manifest.write_bytes(b'{"format":1}')
    told: list[str] = []
    stop = asyncio.Event()

    def tell(problem: str) -> None:
        told.append(problem)
        stop.set()

    class NoServices:
        async def close(self) -> None:
            """Nothing runs."""

    again = await without_journal.keep_services(
        config.root, services=NoServices(), profile=lambda: None, stop=stop, tell=tell, alive=lambda: 1.0  # type: ignore[arg-type, return-value]  # not asked
    )  # fmt: skip
    assert not again
    assert len(told) == 1
    assert told[0].startswith("tacho: ")


async def test_status_reads_a_read_only_disk(config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode, **_: not mode & os.W_OK)
    before = {path.name for path in config.root.iterdir()}
    facts = gather_status(config)
    assert facts["read_only"]
    assert facts["packages"]["tacho"].version == "1.0.0"
    assert {path.name for path in config.root.iterdir()} == before >= {DATABASE, LOCK}
