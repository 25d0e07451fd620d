"""The agent's engine as a process that can be had a hundred times a minute: imported once, forked for each run.

`python -m tests.matrix.agent` reads one plan a line. For each it forks a child that opens the real engine on a
folder, wishes for a release, waits for its end, lets the real Reporter tell a make-believe controller, and ends.
What blocks runs in **one** worker thread, so that the n-th call of a kind is the same one in every run; nothing
else differs from an agent but that fetching happens in the same process and that long pauses are short.
"""

import asyncio
import ctypes
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from device_agent import engine as engine_module
from device_agent import file_source, steps, trust, workers, zstd
from device_agent.checks import ReleaseProbe
from device_agent.config import AgentConfig, DevicePolicy
from device_agent.contexts import Contexts
from device_agent.engine import Engine, open_engine
from device_agent.layout import DeviceFolders
from device_agent.reporter import Reporter
from device_agent.seams import Whence
from device_agent.services import supervisor
from device_agent.sources import source_factory
from device_agent.timekeeping import KeptClock
from device_agent.updates import UpdateRequest
from schemas.errors import DeviceError, FlotillaError
from schemas.manifest import decode_manifest
from schemas.topics import Topics
from tests.support.wholeness import service_processes
from transport import TransportError

T = TypeVar("T")

LOADED: Final = (file_source, steps, supervisor, trust, zstd)
"""Imported before the fork: what the agent would load when it needs it."""
LIMIT_S: Final = 30.0
LONGEST_PAUSE_S: Final = 0.1
SUBMIT_TRIES: Final = 5
TROUBLE_S: Final = 3.0
"""How long a disk may refuse everything before the agent is told to end, as a person would."""
SHELF: Final = "http://shelf"
"""What stands before the path of an exported file where an announcement names a repository's address."""
PR_SET_CHILD_SUBREAPER: Final = 36


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        root: the agent's folder.
        trusted_root: the owner's file.
        place: the package's install path.
        request: the wish, as an announcement makes it; None where nothing is announced.
        controller: file to which the make-believe controller writes each event it is sent.
        result: file for how it went.
        log: file for everything printed.
    """

    root: str
    trusted_root: str
    place: str
    request: UpdateRequest | None
    controller: str
    result: str
    log: str


class Result(msgspec.Struct, kw_only=True):
    """How a run ended that was not cut off.

    Attributes:
        refused: the code of the error that ended the agent in order.
        troubles: what recovery said.
        answer: to the wish.
        phase: the update's last word.
        code: its error's.
        ill: what is wrong with what runs at the end; empty while all is well.
    """

    refused: str = ""
    troubles: list[str] = []
    answer: str = ""
    phase: str = ""
    code: str = ""
    ill: str = ""


class _QuickClock(KeptClock):
    """The agent's clock, in which long pauses are short."""

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(min(seconds, LONGEST_PAUSE_S))


class _NearSources:
    """The real sources in this process instead of one of their own, with files for a repository: see `SHELF`."""

    def __init__(self, **more: Any) -> None:
        self._make = source_factory(**more)

    def __call__(self, whence: Whence) -> Any:
        named = not isinstance(whence, Path) and len(whence) > 0
        return self._make(Path(whence[0].removeprefix(SHELF)) if named else whence)

    async def close(self) -> None:
        """Nothing waits."""


class _Controller:
    """A link whose other end keeps every event. It writes in a thread of its own, which nobody traces."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> None:
        """As `Link.publish`, of which only events are looked at."""
        del retain, timeout_s
        if topic.endswith("/events"):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._keep, payload)

    async def publish_all(
        self, topic: str, payloads: Sequence[bytes], *, timeout_s: float = 10.0
    ) -> list[TransportError | None]:
        """As `Link.publish_all`."""
        for payload in payloads:
            await self.publish(topic, payload, timeout_s=timeout_s)
        return [None] * len(payloads)

    def _keep(self, payload: bytes) -> None:
        with self._file.open("ab") as stream:
            stream.write(payload + b"\n")


async def run(plan: Plan) -> Result:
    """The agent, from its start to its end in order."""
    config = AgentConfig(
        id="pi-1",
        root=Path(plan.root),
        trusted_root=Path(plan.trusted_root),
        policy=DevicePolicy(services="supervisor", install_paths={"tacho": Path(plan.place)}),
    )
    result = Result()
    try:
        async with open_engine(config) as engine:
            serving = [
                asyncio.create_task(engine.manager.serve(), name="serve"),
                asyncio.create_task(_tell(engine, Path(plan.controller)), name="tell"),
            ]
            try:
                await _wish(engine, plan.request, result)
                result.ill = await _look(engine, Path(plan.root))
                await _until_told(engine)
            finally:
                for task in serving:
                    task.cancel()
                await asyncio.wait(serving)
                for task in serving:
                    if not task.cancelled():
                        task.result()
    except FlotillaError as error:
        print(f"refused: {error.code}: {error.message}", flush=True)
        result.refused = error.code
    return result


async def _wish(engine: Engine, request: UpdateRequest | None, result: Result) -> None:
    """Hear the announcement, again where it could not be written down; then wait for the end of everything."""
    if request is not None:
        for left in reversed(range(SUBMIT_TRIES)):
            try:
                made = await engine.manager.submit(request)
            except DeviceError as error:
                print(f"submit: {error.code}: {error.message}", flush=True)
                if not left:
                    raise
                await asyncio.sleep(0.02)
            else:
                result.answer = made.answer.value
                break
    await _bounded(lambda: not engine.journal.unfinished(), engine, "the update to end")
    await engine.manager.clear_up(LIMIT_S)
    last = engine.journal.last_update("tacho")
    if last is not None and last.phase is not None:
        result.phase, result.code = last.phase.value, last.error.code if last.error else ""


async def _bounded(condition: Callable[[], bool], engine: Engine, what: str) -> None:
    loop = asyncio.get_running_loop()
    begun, well = loop.time(), loop.time()
    while True:
        try:
            if await asyncio.to_thread(condition):
                return
        except DeviceError:
            pass  # the journal cannot be read for the moment: the trouble below
        else:
            well = well if engine.manager.trouble else loop.time()
        if loop.time() - well > TROUBLE_S:
            raise DeviceError("disk.io", f"given up: {engine.manager.trouble}")
        if loop.time() - begun > LIMIT_S:
            raise TimeoutError(f"waited {LIMIT_S} s for {what}: {engine.journal.unfinished()}")
        await asyncio.sleep(0.01)


async def _until_told(engine: Engine) -> None:
    await _bounded(lambda: not engine.journal.unsent(), engine, "the events to be told")


async def _look(engine: Engine, root: Path) -> str:
    """What is wrong with what runs: each service once, of the current release, and it answers."""
    folders = DeviceFolders(root)
    contexts = Contexts(folders, engine.device.profile)
    for package, install in (await asyncio.to_thread(engine.journal.installs)).items():
        current = install.current
        plain = folders.package(package).manifest(current.version, current.manifest).read_bytes()
        manifest = decode_manifest(plain)
        until = asyncio.get_running_loop().time() + 5.0
        while True:
            ill = await engine.services.failed(package, manifest.services)
            try:
                await ReleaseProbe().check(manifest.health, await asyncio.to_thread(contexts.of_running, manifest))
            except DeviceError as error:
                ill = ill or f"{error.message}: {error.log_tail}"
            count = len(service_processes(folders.package(package).root))
            if count != len(manifest.services):
                ill = ill or f"{count} processes of {package} {current.version} run"
            if not ill or asyncio.get_running_loop().time() > until:
                break
            await asyncio.sleep(0.02)
        if ill:
            return ill
    return ""


async def _tell(engine: Engine, file: Path) -> None:
    reporter = Reporter(
        topics=Topics("flotilla/v1"),
        outbox=engine.journal,
        view=engine.device.view,
        boot_id=engine.device.boot_id,
        device="pi-1",
        now=engine.clock.now,
    )
    while True:
        try:
            await reporter.run(_Controller(file))
        except* DeviceError as group:
            print(f"reporter: {group.exceptions}", flush=True)
            await asyncio.sleep(0.05)  # the connection comes back


def main() -> None:
    """Serve plans until standard input ends."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    go = int(sys.argv[1])
    for text in _lines(0):
        plan = msgspec.json.decode(text, type=Plan)
        child = os.fork()
        if child == 0:
            _be_agent(plan, go)
        while (ended := os.waitpid(-1, 0))[0] != child:
            pass  # a service that a killed agent left, and that was killed with it
        _say(f"ended {ended[1]}")


def _be_agent(plan: Plan, go: int) -> None:
    status = 1
    try:
        with suppress(ProcessLookupError):
            os.setsid()
        log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        executor = ThreadPoolExecutor(max_workers=1)
        worker = executor.submit(threading.get_native_id).result()
        _say(f"ready {os.getpid()} {worker}")
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.read(go, 1)
        with _one_thread(executor):
            result = asyncio.run(_with(executor, plan))
        Path(plan.result).write_bytes(msgspec.json.encode(result))
        status = 0
    except BaseException:  # noqa: BLE001  # a defect of the agent: shown, and an exit status that says so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


async def _with(executor: ThreadPoolExecutor, plan: Plan) -> Result:
    asyncio.get_running_loop().set_default_executor(executor)
    return await run(plan)


@contextmanager
def _one_thread(executor: ThreadPoolExecutor) -> Iterator[None]:
    """Everything that blocks in one thread; see the module."""

    def in_executor(function: Callable[[], T], name: str) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(executor, function)

    workers._in_thread = in_executor
    near = {"process_source_factory": _NearSources, "KeptClock": _QuickClock}
    vars(engine_module).update(near)
    yield


def _lines(descriptor: int) -> Iterator[bytes]:
    """Lines, read byte by byte: what comes after one must not be in a buffer that a child inherits."""
    line = bytearray()
    while byte := os.read(descriptor, 1):
        if byte == b"\n":
            yield bytes(line)
            line.clear()
        else:
            line += byte


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


if __name__ == "__main__":
    main()
