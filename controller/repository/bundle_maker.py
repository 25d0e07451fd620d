"""Has bundles made, one release after the other, by a process of its own that gives way to all others."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from controller.logs import told
from controller.repository.bundle_choice import DEFAULT_RELEASES
from controller.repository.bundle_jobs import (
    MAX_LINE,
    Begun,
    Failed,
    Job,
    Line,
    Made,
    Progressed,
    Stored,
    encode,
    lines,
)
from controller.repository.bundle_views import BundleState, ReleaseBundles
from controller.repository.bundles import Bundles, Reported
from controller.repository.records import ChannelEntry, ReleaseRecord
from schemas.errors import FlotillaError, one_line

KEPT_NEWS: Final = 200
"""Releases of which it is known how their bundles came about; of others only which there are."""
SILENCE_S: Final = 4 * 3600.0
"""The longest that a group of contents may take, on the slowest machine; others wait for their bundles meanwhile."""
_END_S: Final = 5.0

log = logging.getLogger("flotilla.bundles")


class BundleMaker:
    """See the module. `want` and `state` are safe from any thread; `run` is one task.

    Args:
        bundles: the repository's.
        channels: gives what the channels point at.
        last: start from so many of the versions before a release; 0 makes none at all.
        reported: which versions devices run.
        workers: processes that one bundle is made with.
    """

    def __init__(
        self,
        bundles: Bundles,
        *,
        channels: Callable[[], list[ChannelEntry]],
        last: int = DEFAULT_RELEASES,
        reported: Reported | None = None,
        workers: int | None = None,
    ) -> None:
        self._bundles = bundles
        self._channels = channels
        self._last = last
        self._reported = reported
        self._workers = workers or max(1, (os.cpu_count() or 1) // 2)
        self._lock = threading.Lock()
        self._queue: deque[ReleaseRecord] = deque()
        self._news: dict[str, ReleaseBundles] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def want(self, record: ReleaseRecord, *, first: bool = True) -> None:
        """Have what is missing for a release made, before older wishes where it comes `first`."""
        if self._last == 0:
            return
        with self._lock:
            self._queue = deque(one for one in self._queue if one.manifest != record.manifest)
            (self._queue.appendleft if first else self._queue.append)(record)
            self._note(record.manifest, _news(record, "waiting"))
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    def state(self, record: ReleaseRecord) -> ReleaseBundles:
        """The bundles of a release, and how far those are that are still to come; blocks."""
        views = self._bundles.views(record)
        with self._lock:
            news = self._news.get(record.manifest)
        failed = self._bundles.failed(record)
        if news is None:
            state: BundleState = "failed" if failed else "made"
            news = msgspec.structs.replace(_news(record, state), done=len(views), wanted=len(views) + len(failed))
        return msgspec.structs.replace(news, bundles=views, failed=failed)

    def again(self, record: ReleaseRecord) -> None:
        """Have what failed for a release tried again now; blocks."""
        self._bundles.files.forget_failures(record.manifest)
        self.want(record)

    async def run(self, stop: asyncio.Event) -> None:
        """Make what is missing, then what is wanted, until `stop` is set."""
        if self._last == 0:
            await stop.wait()
            return
        self._loop = asyncio.get_running_loop()
        stopping = asyncio.create_task(stop.wait(), name="stop bundles")
        working = asyncio.create_task(self._work(stop), name="make bundles")
        try:
            await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, working):
                task.cancel()
            await asyncio.wait([stopping, working])
        if not working.cancelled():
            working.result()

    async def _work(self, stop: asyncio.Event) -> None:
        try:
            for found in await asyncio.to_thread(lambda: list(self._bundles.worth_looking_at(self._channels()))):
                if await asyncio.to_thread(self._job, found) is not None:
                    self.want(found, first=False)
        except (FlotillaError, OSError) as error:
            log.error("looking for bundles that are missing: %s", one_line(error), extra=told("bundles", error))  # noqa: TRY400 - the line says it
        # Python 3.11 loses a cancellation that comes in the moment in which what a `wait_for` waits for is done
        while not stop.is_set():
            self._wake.clear()
            with self._lock:
                record = self._queue.popleft() if self._queue else None
            if record is None:
                await self._wake.wait()
                continue
            try:
                await self._make(record)
            except (FlotillaError, OSError) as error:
                text = one_line(error)
                log.error("bundles for %s: %s", record.key, text, extra=told("bundles", error, package=record.package))  # noqa: TRY400 - the line says it all
                self._tell(record, state="failed", failures=[text])

    def _job(self, record: ReleaseRecord) -> Job | None:
        return self._bundles.missing(record, last=self._last, reported=self._reported, workers=self._workers)

    async def _make(self, record: ReleaseRecord) -> None:
        job = await asyncio.to_thread(self._job, record)
        if job is None:
            failed = await asyncio.to_thread(self._bundles.failed, record)
            self._tell(record, state="failed" if failed else "made")
            return
        self._tell(record, state="making", wanted=len(job.sources))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "controller.repository.bundle_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
            start_new_session=True,
        )
        left = _Left(job)
        try:
            await self._follow(process, job, record, left)
        except OSError as error:
            left.reason = one_line(error)
            raise
        finally:
            # with all that it may have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _END_S)
            if left.reason:
                # only now: while it ran, the process itself wrote down what failed
                await asyncio.to_thread(self._remember, record, left)

    def _remember(self, record: ReleaseRecord, left: "_Left") -> None:
        for source in left.blamed():
            self._bundles.files.note_failed(
                record.manifest, source.manifest if source else None, left.reason, time.time()
            )

    async def _follow(
        self, process: asyncio.subprocess.Process, job: Job, record: ReleaseRecord, left: "_Left"
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("the process has no pipes")
        process.stdin.write(encode(job) + b"\n")
        dealt_with = 0
        while text := await _line_of(process.stdout):
            try:
                line: Line = lines.decode(text)
            except msgspec.MsgspecError as error:
                raise OSError(f"the process said: {one_line(error)}") from error
            left.hear(line)
            dealt_with += self._hear(line, job, record)
        if dealt_with < len(job.sources):
            raise OSError(f"the process ended early, after {dealt_with} of {len(job.sources)} bundles")
        self._tell(record, state="failed" if self._news_of(record).failures else "made", share=0.0)

    def _hear(self, line: Line, job: Job, record: ReleaseRecord) -> int:
        """Take in what the process says; how many bundles are dealt with by that."""
        news = self._news_of(record)
        match line:
            case Begun():
                self._tell(record, share=0.0)
            case Progressed(done=done, total=total):
                self._tell(record, share=min(1.0, done / total if total else 1.0))
            case Made(number=number, size=size, objects=objects):
                kept = "" if line.kept else ", so it is not kept"
                name = _name(job.sources[number])
                extra = _bundle(record)
                log.info(
                    "bundle for %s %s: %d bytes, %d by objects%s", record.key, name, size, objects, kept, extra=extra
                )
                self._tell(record, done=news.done + 1)
                return 1
            case Failed(number=number):
                name = "" if number is None else f"{_name(job.sources[number])}: "
                text = f"{name}{one_line(line.message)}"
                log.warning("bundle for %s %s (%s)", record.key, text, line.code, extra=_bundle(record, line.code))
                self._tell(record, failures=[*news.failures, text])
                return 1 if number is not None else len(job.sources)
        return 0

    def _news_of(self, record: ReleaseRecord) -> ReleaseBundles:
        with self._lock:
            return self._news.get(record.manifest) or _news(record, "waiting")

    def _tell(self, record: ReleaseRecord, **changes: object) -> None:
        with self._lock:
            news = self._news.get(record.manifest) or _news(record, "waiting")
            self._note(record.manifest, msgspec.structs.replace(news, **changes))

    def _note(self, manifest: str, news: ReleaseBundles) -> None:
        """Under the lock."""
        self._news.pop(manifest, None)
        self._news[manifest] = news
        while len(self._news) > KEPT_NEWS:
            del self._news[next(iter(self._news))]


class _Left:
    """What of a job is not dealt with, and to be blamed where its process ends early."""

    def __init__(self, job: Job) -> None:
        self._waiting = dict(enumerate(job.sources))
        self._begun: int | None = None
        self.reason = ""

    def hear(self, line: Line) -> None:
        match line:
            case Begun(number=number):
                self._begun = number
            case Failed(number=None):
                self.reason = one_line(line.message)
            case Made(number=int(number)) | Failed(number=int(number)):
                self._waiting.pop(number, None)
                self._begun = None
            case _:
                pass

    def blamed(self) -> list[Stored | None]:
        """The one that was being made; all where none had begun."""
        if self._begun in self._waiting:
            return [self._waiting[self._begun]]
        return list(self._waiting.values())


async def _line_of(stream: asyncio.StreamReader) -> bytes:
    """What the process says next; raises `OSError` where that is nothing for very long."""
    try:
        return await asyncio.wait_for(stream.readline(), SILENCE_S)
    except TimeoutError as error:
        raise OSError(f"the process was silent for {SILENCE_S:g} s") from error
    except ValueError as error:
        raise OSError(f"the process said more than {MAX_LINE} bytes in a line") from error


def _news(record: ReleaseRecord, state: BundleState) -> ReleaseBundles:
    return ReleaseBundles(
        package=record.package, version=record.version, platform=record.platform, state=state, done=0, wanted=0
    )


def _name(source: Stored | None) -> str:
    return "full" if source is None else f"from {source.version}"


def _bundle(record: ReleaseRecord, code: str | None = None) -> dict[str, Any]:
    return told("bundles", package=record.package, version=record.version, code=code)
