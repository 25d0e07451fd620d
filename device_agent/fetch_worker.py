"""The fetching process: `python -m device_agent.fetch_worker`, started by `fetch_process` for an update.

TUF, the HTTP client, cryptography and decompression live here and go when the update is done, so an idle
agent stays small; and what parses bytes from the network is not the process that supervises services.
It ends with its standard input, that is at the latest with the agent, whatever it is doing.
"""

import asyncio
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from device_agent.fetch_frames import (
    HEAD,
    MAX_WISH,
    Done,
    Fetch,
    Frame,
    Open,
    Received,
    Refused,
    Resolve,
    Signed,
    Wish,
    framed,
    way_of,
    wishes,
)
from device_agent.reports import defect
from device_agent.seams import AtHand, ReleaseSource, WantedObject
from device_agent.sources import source_factory
from schemas.errors import FlotillaError

TELL_EVERY_S: Final = 0.1
OUT_OF_MEMORY_FIRST: Final = "500"
"""As `/proc/PID/oom_score_adj`: where memory runs out, this process is to go and not what the device is there for."""


def main() -> None:
    """Answer wishes until standard input ends."""
    # Ctrl-C and the end of a container reach this process too; the agent decides when it is over
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_FIRST)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what a library might print must not get between the frames
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    voice, clock = _Voice(out), _Clock()
    heard: queue.SimpleQueue[Wish] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, heard), daemon=True).start()
    opened = heard.get()
    if isinstance(opened, Open):
        asyncio.run(_serve(_source(opened, clock), heard, voice, clock))


def _source(opened: Open, clock: "_Clock") -> ReleaseSource:
    make = source_factory(
        root=Path(opened.root),
        trusted_root=lambda: opened.trusted_root,
        repositories=(),
        now=clock.now,
        max_bytes_per_s=opened.max_bytes_per_s,
    )
    return make(opened.addresses if opened.file is None else Path(opened.file))


async def _serve(source: ReleaseSource, heard: "queue.SimpleQueue[Wish]", voice: "_Voice", clock: "_Clock") -> None:
    while True:
        wish = await asyncio.to_thread(heard.get)
        try:
            if isinstance(wish, Resolve):
                clock.set(wish.now)
                voice.say(await _resolve(source, wish, voice))
            elif isinstance(wish, Fetch):
                clock.set(wish.now)
                voice.say(await _fetch(source, wish, voice))
        except FlotillaError as error:
            voice.say(Refused.of(error))
        except Exception as error:  # noqa: BLE001  # the agent is told of a defect as of any other failure
            voice.say(Refused.of(defect(error)))


async def _resolve(source: ReleaseSource, wish: Resolve, voice: "_Voice") -> Signed:
    tally = _Tally(voice)
    at_hand = AtHand(manifests=tuple(map(Path, wish.manifests)), max_bytes=wish.max_bytes, on_bytes=tally.add)
    try:
        signed = await source.resolve(wish.package, wish.version, wish.platform, at_hand)
    finally:
        tally.finish()
    return Signed(plain=signed.plain, sha256=signed.sha256, wire_bytes=signed.wire_bytes, index=signed.index)


async def _fetch(source: ReleaseSource, wish: Fetch, voice: "_Voice") -> Done:
    tally = _Tally(voice)
    wanted = [WantedObject(sha256=sha256, size=size, destination=Path(path)) for sha256, size, path in wish.wanted]
    try:
        return Done(fell_back=await source.fetch(wanted, tally.add, way_of(wish)))
    finally:
        tally.finish()


def _listen(pipe: BinaryIO, heard: "queue.SimpleQueue[Wish]") -> None:
    try:
        while len(head := pipe.read(HEAD.size)) == HEAD.size:
            (size,) = HEAD.unpack(head)
            if size > MAX_WISH or len(body := pipe.read(size)) < size:
                break
            heard.put(wishes.decode(body))
    finally:
        # nobody is left to work for; partial downloads are kept as after any other interruption
        os._exit(0)


class _Clock:
    """The agent's clock, carried on from what it said last."""

    def __init__(self) -> None:
        self._said, self._at = 0.0, 0.0

    def set(self, now: float) -> None:
        self._said, self._at = now, time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._said, UTC) + timedelta(seconds=time.monotonic() - self._at)


class _Voice:
    """Writes frames, whole, from any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, frame: Frame) -> None:
        with self._lock:
            self._out.write(framed(frame))
            self._out.flush()


class _Tally:
    """Adds up bytes from all threads and says them at most ten times a second."""

    def __init__(self, voice: _Voice) -> None:
        self._voice = voice
        self._lock = threading.Lock()
        self._plain = self._wire = 0
        self._told = 0.0

    def add(self, plain: int, wire: int) -> None:
        with self._lock:
            self._plain += plain
            self._wire += wire
            if time.monotonic() - self._told >= TELL_EVERY_S:
                self._tell()

    def finish(self) -> None:
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        if self._plain or self._wire:
            self._voice.say(Received(plain=self._plain, wire=self._wire))
        self._plain = self._wire = 0
        self._told = time.monotonic()


if __name__ == "__main__":
    main()
