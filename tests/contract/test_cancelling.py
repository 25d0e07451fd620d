"""Cancelling takes effect within a second in every phase before the switch, whatever a server or a hook does."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.repository.package_repository import PackageRepository
from device_agent import trees
from device_agent.clock import SystemClock
from device_agent.fetch_process import ProcessSources, process_source_factory
from device_agent.hooks import ProcessHookRunner
from device_agent.sources import source_factory
from device_agent.updates import Cancelled, UpdateRequest
from schemas.manifest import Hook, Hooks
from schemas.messages import Phase
from tests.support.repository import add_release, make_repository, tree_of
from tests.support.scripted_http import Exchange, ScriptedServer, header, scripted_server
from tests.unit.agent.device import Device, until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BIG = b"".join(number.to_bytes(8, "big") for number in range(400_000))
FILES: dict[str, bytes | str] = {"big": BIG, **{f"small/{n}": f"content {n}" for n in range(400)}}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackageRepository, dict[str, bytes]]:
    """A repository with `tacho` 1.0.0, and `hooked` 1.0.0 with a hook that is deaf for a minute; its files by URL."""
    made = make_repository(tmp_path_factory.mktemp("shop"), clock=lambda: NOW)
    add_release(made, "tacho", "1.0.0", FILES)
    hook = Hook(command=["/bin/sh", "-c", "trap '' TERM; : > deaf; exec sleep 60"], timeout_s=100)
    add_release(made, "hooked", "1.0.0", {"x": "x"}, hooks=Hooks(pre_switch=hook))
    return made, {f"/{path}": data for path, data in tree_of(made.folder).items()}


Misbehaviour = Callable[[Exchange, str, bytes], None]


class World:
    """A device, and a server that misbehaves at one path."""

    def __init__(self, folder: Path, shop: tuple[PackageRepository, dict[str, bytes]]) -> None:
        self.repository, self.files = shop
        self.device = Device(folder / "device")
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._own: ProcessSources | None = None

    async def start(self, *, own_process: bool = False) -> Device:
        trusted = self.repository.trusted_root()
        options: dict[str, Any] = {"root": self.device.root, "repositories": [], "now": lambda: NOW}
        if own_process:
            self._own = process_source_factory(trusted_root=lambda: trusted, **options)
        self.device.shelf.source = self._own or source_factory(  # type: ignore[method-assign,assignment]
            trusted_root=lambda: trusted, **options
        )
        return await self.device.start()

    async def close(self) -> None:
        await self.device.stop()
        if self._own is not None:
            await self._own.close()

    @contextmanager
    def serving(self, path: str = "", trick: Misbehaviour | None = None) -> Iterator[ScriptedServer]:
        def script(exchange: Exchange) -> None:
            while True:
                asked = exchange.hear().split(" ")[1]
                content = self.files.get(asked)
                if content is None:
                    exchange.answer(status="404 Not Found")
                elif trick is not None and path == asked:
                    trick(exchange, header(exchange.server.heard[-1][1], "Range"), content)
                else:
                    exchange.answer(content)

        with scripted_server(script) as server:
            yield server

    def has_come_far(self) -> None:
        """From any thread: now cancel."""
        self._loop.call_soon_threadsafe(self.reached.set)

    async def cancelled_at(self, url: str, package: str = "tacho") -> None:
        """Begin an update, wait until it has come far enough, and cancel it."""
        request = UpdateRequest(package=package, version="1.0.0", repository=[url])
        submitted = await self.device.manager.submit(request)
        await asyncio.wait_for(self.reached.wait(), 30)
        begun = time.monotonic()
        assert await self.device.manager.cancel(package) is Cancelled.CANCELLED
        took = time.monotonic() - begun
        assert took < 1, f"{took:.2f} s"
        assert submitted.update is not None
        ended = await self.device.end_of(submitted.update)
        assert ended.phase is Phase.CANCELLED
        assert self.device.journal.installs() == {}
        assert not list(self.device.folders.package(package).releases.glob("*"))


@pytest.fixture
async def world(tmp_path: Path, repository: tuple[PackageRepository, dict[str, bytes]]) -> AsyncIterator[World]:
    made = World(tmp_path, repository)
    yield made
    await made.close()


def big_path(world: World) -> str:
    return max((path for path in world.files if path.startswith("/objects/")), key=lambda path: len(world.files[path]))


async def test_while_metadata_stalls(world: World) -> None:
    def trick(exchange: Exchange, _: str, __: bytes) -> None:
        world.has_come_far()
        exchange.rest()

    await world.start()
    with world.serving("/metadata/timestamp.json", trick) as server:
        await world.cancelled_at(server.url)


@pytest.mark.parametrize("own_process", [False, True], ids=["this process", "own process"])
@pytest.mark.parametrize("every_s", [60.0, 0.02], ids=["stall", "drip"])
async def test_while_content_comes_slowly_or_not_at_all(world: World, every_s: float, own_process: bool) -> None:
    def trick(exchange: Exchange, _: str, content: bytes) -> None:
        exchange.head(Content_Length=str(len(content)))
        exchange.send(content[:1000])
        world.has_come_far()
        exchange.drip(content[1000:], every_s)

    await world.start(own_process=own_process)
    with world.serving(big_path(world), trick) as server:
        await world.cancelled_at(server.url)


async def test_while_a_connection_is_not_taken(world: World) -> None:
    await world.start()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # the queue of those who wait is full
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        asyncio.get_running_loop().call_later(0.5, world.reached.set)
        await world.cancelled_at(f"http://127.0.0.1:{listener.getsockname()[1]}")


async def test_while_the_tree_is_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trees.link_content

    def slow(content: Path, path: Path) -> None:
        world.has_come_far()
        time.sleep(0.05)  # 400 of them
        real(content, path)

    monkeypatch.setattr(trees, "link_content", slow)
    await world.start()
    with world.serving() as server:
        await world.cancelled_at(server.url)


async def test_while_the_disk_is_flushed(world: World) -> None:
    over = threading.Event()

    def slow(_: Path) -> None:
        world.has_come_far()
        over.wait(20)

    world.device._flush = slow  # type: ignore[method-assign]
    await world.start()
    try:
        with world.serving() as server:
            await world.cancelled_at(server.url)
    finally:
        over.set()


async def test_while_a_hook_runs(world: World) -> None:
    class Runner(ProcessHookRunner):
        async def run(self, *args: Any) -> Any:
            running = asyncio.create_task(super().run(*args))
            await until((args[2].folder / "deaf").exists)
            world.has_come_far()
            return await running

    world.device.hooks = Runner()  # type: ignore[assignment]
    await world.start()
    with world.serving() as server:
        await world.cancelled_at(server.url, "hooked")


async def test_progress_is_told_once_a_second_at_most(world: World) -> None:
    def trick(exchange: Exchange, _: str, content: bytes) -> None:
        exchange.head(Content_Length=str(len(content)))
        for start in range(0, len(content), len(content) // 100):
            exchange.send(content[start : start + len(content) // 100])
            exchange.rest(0.025)

    world.device.clock = SystemClock()  # type: ignore[assignment]
    await world.start()
    begun = time.monotonic()
    with world.serving(big_path(world), trick) as server:
        submitted = await world.device.manager.submit(
            UpdateRequest(package="tacho", version="1.0.0", repository=[server.url])
        )
        assert submitted.update is not None
        await until(lambda: any(event.phase is Phase.STAGED for event in world.device.events()))
    told = [event for event in world.device.events() if event.phase is Phase.FETCHING]
    done = [event.progress.bytes_done for event in told if event.progress is not None]
    assert 1 < len(told) <= 2 + (time.monotonic() - begun)
    assert done == sorted(done)
    await world.device.manager.cancel("tacho")
