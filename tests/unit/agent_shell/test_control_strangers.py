"""What else may come through the control socket, or lie where it is to be."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from device_agent import control
from device_agent.control import SOCKET, ControlServer, hand_over_to, is_listening
from device_agent.local_work import Begun, LocalWork
from device_agent.logs import logger
from schemas.errors import FlotillaError, OperatorError
from schemas.messages import Phase, UpdateEvent
from tests.support.links import until
from tests.unit.agent_shell.fakes import NOW, ROLLOUT
from tests.unit.agent_shell.test_by_hand import make_work, serving


class Endless(LocalWork):
    """Work whose events never end."""

    def __init__(self) -> None:
        self.told = 0

    async def install(self, _: Path) -> Begun:
        return Begun(update=ROLLOUT, after_seq=0, note="installing")

    async def follow(self, _: Begun) -> AsyncIterator[UpdateEvent]:
        while True:
            self.told += 1
            yield UpdateEvent(
                device="pi-1", boot_id="", seq=self.told, update=ROLLOUT, rollout=None, attempt=1, package="tacho",
                version="1.1.0", from_version=None, phase=Phase.FETCHING, at=NOW,
            )  # fmt: skip
            await asyncio.sleep(0)


async def test_a_command_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SAY_S", 0.3)
    work, server = Endless(), None
    server = ControlServer(tmp_path, work)
    task = asyncio.create_task(server.serve())
    await until(lambda: is_listening(tmp_path))
    _, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    writer.write(b'{"verb": "install", "subject": "/a.flotilla"}\n')
    await until(lambda: work.told > 0)
    await until(lambda: not server._clients)
    writer.close()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(("verb", "subject"), [("install", "/a\0b"), ("rollback", "ta\0cho"), ("install", "/a" * 3000)])
async def test_a_subject_that_is_none_is_refused_in_one_line(tmp_path: Path, verb: str, subject: str) -> None:
    work, updates = make_work([Phase.SUCCEEDED])
    work._is_file = os.path.isfile
    async with serving(tmp_path, work), hand_over_to(tmp_path) as worker:
        assert worker is not None
        with pytest.raises(FlotillaError) as refused:
            await (worker.install(Path(subject)) if verb == "install" else worker.rollback(subject))
    assert refused.value.code == "input.bad"
    assert updates.requests == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
async def test_what_is_no_plain_file_is_not_even_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.flotilla"
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "folder":
        path.mkdir()
    _, updates = make_work([])
    work = LocalWork(
        journal=make_work([])[0]._journal,
        updates=updates,
        read_head=_must_not,
        on_hold=lambda: False,
        keep_hold=lambda _: None,
    )
    with pytest.raises(OperatorError, match="not a file"):
        await work.install(path)


def _must_not(path: Path) -> NoReturn:
    pytest.fail(f"{path} was read")


@pytest.mark.parametrize("kind", ["pipe", "dangling link", "stale socket"])
async def test_what_holds_nothing_makes_room_for_the_socket(tmp_path: Path, kind: str) -> None:
    path = tmp_path / SOCKET
    if kind == "pipe":
        os.mkfifo(path)
        async with hand_over_to(tmp_path) as worker:
            assert worker is None
        assert not is_listening(tmp_path)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        with control._bound(path):
            pass
    async with serving(tmp_path, make_work([])[0]):
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_somebody_keeps_there_stays(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SOCKET
    path.write_text("mine") if kind == "file" else path.mkdir()
    async with hand_over_to(tmp_path) as worker:
        assert worker is None
    said: list[object] = []
    monkeypatch.setattr(logger(), "warning", said.append)
    await asyncio.wait_for(ControlServer(tmp_path, make_work([])[0]).serve(), 10)
    assert path.is_dir() or path.read_text() == "mine"
    assert len(said) == 1
    assert "is in the way" in str(said[0])
