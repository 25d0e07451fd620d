"""Threads that deflate contents again while the reader unpacks what comes next, with bounded memory.

zlib, hashing and writing let go of Python's lock, and gzip is a process of its own, so a device with several cores
needs much less time. Contents are begun and put in place by the reader's own thread, in the order in which they came.
"""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from typing import Final, Protocol

from schemas.varints import FormatError

MAX_WAITING: Final = 2 * 1024 * 1024
"""Plain bytes that may wait to be deflated, in all."""
MAX_OPEN: Final = 32
"""Contents that may be under way; each has a file open."""
_MOST_LANES: Final = 2
_STUCK_S: Final = 300.0
"""The longest wait for any progress."""
_LOOK_S: Final = 1.0
_END_S: Final = 10.0


class Work(Protocol):
    """A content that is deflated. `take` and `check` are called in a lane, `leave` by the reader's thread."""

    def take(self, data: bytes, /) -> object:
        """The next plain bytes, all of them its own."""

    def check(self) -> None:
        """After the last: raise where it is not what it must be."""

    def leave(self, error: BaseException | None) -> None:
        """Put it in place, or undo it."""


class Job:
    """A content under way; it is done when it was checked, or when something went wrong."""

    def __init__(self, work: Work, lane: int) -> None:
        self.work, self.lane = work, lane
        self.is_done = False
        self.error: BaseException | None = None


class Lanes:
    """See the module. All methods are for one thread; they raise what a content raised in its lane."""

    def __init__(self) -> None:
        self._count = max(1, min(_MOST_LANES, os.cpu_count() or 1))
        self._queues: list[queue.SimpleQueue[tuple[Job, bytes | None] | None]] = []
        self._threads: list[threading.Thread] = []
        self._moved = threading.Condition()
        self._waiting = [0] * self._count
        self._jobs: deque[Job] = deque()
        self._is_over = False

    def begin(self, work: Work) -> Job:
        """Take a content in; from now on it is left by this."""
        job = Job(work, min(range(self._count), key=self._waiting.__getitem__))
        self._jobs.append(job)
        if not self._threads:
            self._start()
        self._settle()
        return job

    def put(self, job: Job, data: bytes) -> None:
        """The next plain bytes of a content. Waits where too much is waiting."""
        with self._moved:
            self._waiting[job.lane] += len(data)
        self._queues[job.lane].put((job, data))
        self._settle()

    def end(self, job: Job) -> None:
        """All bytes of a content were put."""
        self._queues[job.lane].put((job, None))

    def drain(self) -> None:
        """Wait until all contents are in place, and end the threads."""
        self._settle(most=0)
        self._stop()

    def abandon(self, error: BaseException) -> None:
        """Undo the contents that are not whole, and end the threads. May be called at any time."""
        self._stop()
        while self._jobs:
            job = self._jobs.popleft()
            # what undoing says is no news beside the error itself
            with contextlib.suppress(Exception):
                job.work.leave(None if job.is_done and job.error is None else error)

    def _start(self) -> None:
        for number in range(self._count):
            waiting: queue.SimpleQueue[tuple[Job, bytes | None] | None] = queue.SimpleQueue()
            thread = threading.Thread(target=self._run, args=(waiting,), name=f"deflate {number}", daemon=True)
            self._queues.append(waiting)
            self._threads.append(thread)
            thread.start()

    def _stop(self) -> None:
        self._is_over = True
        for waiting in self._queues:
            waiting.put(None)
        for thread in self._threads:
            thread.join(_END_S)
        self._queues.clear()
        self._threads.clear()

    def _settle(self, most: int = MAX_OPEN) -> None:
        """Put in place what is right, until no more than `most` are under way and little is waiting."""
        until = time.monotonic() + _STUCK_S
        while True:
            with self._moved:
                first = self._jobs[0] if self._jobs else None
                if first is None or not first.is_done:
                    if len(self._jobs) <= most and sum(self._waiting) <= MAX_WAITING:
                        return
                    if not self._moved.wait(_LOOK_S) and time.monotonic() > until:
                        raise FormatError("deflating it does not come to an end")
                    continue
            self._jobs.popleft()
            first.work.leave(first.error)
            if first.error is not None:
                raise first.error
            until = time.monotonic() + _STUCK_S

    def _run(self, waiting: "queue.SimpleQueue[tuple[Job, bytes | None] | None]") -> None:
        while (item := waiting.get()) is not None:
            job, data = item
            if not self._is_over and not job.is_done:
                self._do(job, data)
            with self._moved:
                self._waiting[job.lane] -= len(data) if data is not None else 0
                self._moved.notify_all()

    def _do(self, job: Job, data: bytes | None) -> None:
        try:
            if data is not None:
                job.work.take(data)
                return
            job.work.check()
        except BaseException as error:  # noqa: BLE001  # the reader's thread raises it
            job.error = error
        # only now: what was not checked to its end is never put in place
        with self._moved:
            job.is_done = True
