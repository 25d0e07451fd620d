"""A `ReleaseSource` that does its work in a process of its own; see `fetch_worker`."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from device_agent.fetch_frames import (
    HEAD,
    MAX_FRAME,
    Answer,
    Done,
    Fetch,
    Frame,
    Open,
    Received,
    Refused,
    Resolve,
    Signed,
    answers,
    bundle_frame,
    framed,
)
from device_agent.processes import describe_exit
from device_agent.seams import (
    NOTHING_AT_HAND,
    ONE_BY_ONE,
    AtHand,
    OnBytes,
    ReleaseSource,
    SignedManifest,
    WantedObject,
    Way,
    Whence,
)
from device_agent.sources import Nowhere
from device_agent.threads import in_thread
from schemas.errors import DeviceError, one_line
from schemas.manifest import decode_manifest

LINGER_S: Final = 5.0
"""A process without work waits this long for the next step of the same update: starting one takes a while."""

_END_S: Final = 5.0


def process_source_factory(
    *,
    root: Path,
    trusted_root: Callable[[], bytes],
    repositories: Sequence[str],
    now: Callable[[], datetime],
    max_bytes_per_s: int | None = None,
) -> "ProcessSources":
    """As `device_agent.sources.source_factory`, whose sources it runs in a process of their own."""
    bench = _Bench(root=root, trusted_root=trusted_root, now=now, max_bytes_per_s=max_bytes_per_s)
    return ProcessSources(bench, repositories)


class ProcessSources:
    """A `SourceFactory`; to be closed, because a process may wait for more to do."""

    def __init__(self, bench: "_Bench", repositories: Sequence[str]) -> None:
        self._bench = bench
        self._repositories = repositories

    def __call__(self, whence: Whence) -> ReleaseSource:
        """See `SourceFactory`."""
        if isinstance(whence, Path):
            return _ProcessSource(self._bench, whence)
        every = tuple(dict.fromkeys([*self._repositories, *whence]))
        return _ProcessSource(self._bench, every) if every else Nowhere()

    async def close(self) -> None:
        """End the process that waits, if one does. Bounded."""
        await self._bench.close()


class _Worker:
    """One fetching process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        pipes: tuple[asyncio.StreamWriter, asyncio.StreamReader],
        serves: tuple[Path | tuple[str, ...], bytes],
    ) -> None:
        """
        Args:
            serves: the file or addresses, and the trusted root, that it was opened with.
        """
        self.serves = serves
        self._process = process
        self._to, self._from = pipes

    @property
    def runs(self) -> bool:
        """Whether it has not ended, for all that is known."""
        return self._process.returncode is None

    async def say(self, frame: Frame) -> None:
        with contextlib.suppress(ConnectionError):  # that it has ended shows when an answer is read
            self._to.write(framed(frame))
            await self._to.drain()

    async def hear(self) -> Answer:
        """The next answer.

        Raises:
            DeviceError: `interrupted.fetch`: something ended the process, most often a lack of memory;
                `internal.error`: it ended by itself, or says what nobody understands.
        """
        try:
            (size,) = HEAD.unpack(await self._from.readexactly(HEAD.size))
            if size <= MAX_FRAME:
                answer: Answer = answers.decode(await self._from.readexactly(size))
                return answer
        except asyncio.IncompleteReadError:
            raise await self._ended() from None
        except msgspec.MsgspecError as error:
            raise DeviceError("internal.error", f"the fetching process said: {one_line(error)}") from error
        raise DeviceError("internal.error", f"the fetching process wants to say {size} bytes at once")

    async def end(self) -> None:
        """Kill it; partial downloads stay. Bounded."""
        self.kill()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
                await self._to.wait_closed()
                await self._from.read()

    def kill(self) -> None:
        """The part of `end` that needs no waiting."""
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._to.close()

    async def _ended(self) -> DeviceError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_S)
        status = self._process.returncode
        if status is not None and status < 0:
            text = f"the fetching process {describe_exit(status)}; was there too little memory?"
            return DeviceError("interrupted.fetch", text)
        return DeviceError("internal.error", f"the fetching process ended early (status {status}); see the log")


class _Bench:
    """Starts workers, and keeps the last one for a moment."""

    def __init__(
        self,
        *,
        root: Path,
        trusted_root: Callable[[], bytes],
        now: Callable[[], datetime],
        max_bytes_per_s: int | None,
    ) -> None:
        self._max_bytes_per_s = max_bytes_per_s
        self._root = root
        self._trusted_root = trusted_root
        self._now = now
        self._idle: _Worker | None = None
        self._farewell: asyncio.Task[None] | None = None

    def now(self) -> float:
        """The agent's clock."""
        return self._now().timestamp()

    async def take(self, whence: Path | tuple[str, ...]) -> _Worker:
        """A worker for this file or these addresses: the one that waits, or a new one."""
        root = await in_thread(self._trusted_root)
        idle = self._take_idle()
        if idle is not None:
            if idle.serves == (whence, root) and idle.runs:
                return idle
            await idle.end()
        # -P: a folder that happens to be the working one must not be able to provide modules
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "device_agent.fetch_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # a Ctrl-C is meant for the agent
        )
        if process.stdin is None or process.stdout is None:
            raise DeviceError("internal.error", "the fetching process has no pipes")
        worker = _Worker(process, (process.stdin, process.stdout), (whence, root))
        try:
            opening = Open(
                root=str(self._root),
                trusted_root=root,
                file=str(whence) if isinstance(whence, Path) else None,
                addresses=[] if isinstance(whence, Path) else list(whence),
                max_bytes_per_s=self._max_bytes_per_s,
            )
            await worker.say(opening)
        except BaseException:
            await worker.end()
            raise
        return worker

    async def close(self) -> None:
        """End the one that waits."""
        idle = self._take_idle()
        if idle is not None:
            await idle.end()

    def _take_idle(self) -> _Worker | None:
        idle, self._idle = self._idle, None
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        return idle

    def give_back(self, worker: _Worker) -> None:
        """Keep a worker that did its work well; it ends soon if it is not needed, or with the event loop."""
        if self._idle is not None:
            worker.kill()  # one is enough
            return
        self._idle = worker
        self._farewell = asyncio.create_task(asyncio.sleep(LINGER_S), name="end of the fetching process")
        self._farewell.add_done_callback(lambda _: self._see_off(worker))

    def _see_off(self, worker: _Worker) -> None:
        if self._idle is worker:
            self._idle = None
            worker.kill()


class _ProcessSource:
    """A `ReleaseSource`. One call at a time."""

    def __init__(self, bench: _Bench, whence: Path | tuple[str, ...]) -> None:
        self._bench = bench
        self._whence = whence
        self._worker: _Worker | None = None

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        """See `ReleaseSource`."""
        wish = Resolve(
            package=package,
            version=version,
            platform=platform,
            now=self._bench.now(),
            manifests=[str(path) for path in at_hand.manifests],
            max_bytes=at_hand.max_bytes,
        )
        answer = await self._ask(wish, at_hand.on_bytes)
        if not isinstance(answer, Signed):
            raise _unexpected(answer)
        manifest = await in_thread(decode_manifest, answer.plain)
        return SignedManifest(
            manifest=manifest,
            sha256=answer.sha256,
            plain=answer.plain,
            wire_bytes=answer.wire_bytes,
            index=answer.index,
        )

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        """See `ReleaseSource`."""
        if not wanted:
            return ""
        objects = [(one.sha256, one.size, str(one.destination)) for one in wanted]
        wish = Fetch(wanted=objects, now=self._bench.now(), bundle=bundle_frame(way.bundle), max_bytes=way.max_bytes)
        answer = await self._ask(wish, on_bytes)
        if not isinstance(answer, Done):
            raise _unexpected(answer)
        return answer.fell_back

    async def close(self) -> None:
        """See `ReleaseSource`."""
        if self._worker is not None:
            worker, self._worker = self._worker, None
            self._bench.give_back(worker)

    async def _ask(self, wish: Resolve | Fetch, on_bytes: OnBytes) -> Answer:
        worker = self._worker or await self._bench.take(self._whence)
        self._worker = None
        try:
            await worker.say(wish)
            while isinstance(answer := await worker.hear(), Received):
                on_bytes(answer.plain, answer.wire)
        except BaseException:
            # cancelled or broken: what it would still say belongs to nobody
            await worker.end()
            raise
        self._worker = worker
        if isinstance(answer, Refused):
            raise answer.error()
        return answer


def _unexpected(answer: Answer) -> DeviceError:
    return DeviceError("internal.error", f"the fetching process answered with {type(answer).__name__}")
