"""The Mosquitto of `flotilla serve --embedded-broker`: started before all else, started again when it dies."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from broker_config.errors import BrokerError
from broker_config.process import MosquittoProcess
from controller.logs import told
from schemas.errors import OperatorError, one_line

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
STABLE_S: Final = 60.0
"""A broker that lived for this long was a good one: what it waited before is forgotten."""

_LOOK_EVERY_S: Final = 0.5

log = logging.getLogger(__name__)


class Process(Protocol):
    """The part of `MosquittoProcess` that this needs."""

    @property
    def url(self) -> str:
        """Its address."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        ...

    @property
    def ended_with(self) -> int | None:
        """What it ended with by itself, below 0 for a signal."""
        ...

    def start(self) -> None:
        """Start it and wait until it answers."""
        ...

    def stop(self) -> None:
        """End it in good order."""
        ...


class EmbeddedBroker:
    """Keeps one broker running, on the same port and with the same data. `watch` is run once.

    Args:
        process: the broker; nobody else starts or stops it.
        clock: seconds that only grow.
        look_every_s: how often it is looked whether it still runs.
    """

    def __init__(
        self, process: Process, *, clock: Callable[[], float] = time.monotonic, look_every_s: float = _LOOK_EVERY_S
    ) -> None:
        self._process = process
        self._clock = clock
        self._look_every_s = look_every_s
        self._lock = threading.Lock()  # a start in a thread may be under way when the end comes
        self._over = False
        self._started_at = 0.0

    @property
    def url(self) -> str:
        """Its address."""
        return self._process.url

    def start(self) -> None:
        """Start it, unless it was stopped for good; blocks for up to 10 s.

        Raises:
            BrokerError: it does not start; the message says why.
        """
        with self._lock:
            if not self._over:
                self._process.start()
                self._started_at = self._clock()

    def stop(self) -> None:
        """End it for good; blocks for as long as a start that is under way, and then up to 5 s."""
        with self._lock:
            self._over = True
            self._process.stop()

    async def watch(self, stop: asyncio.Event) -> None:
        """Start it again whenever it has ended, until `stop` is set."""
        wait_s = 0.0
        while not await _is_set_within(stop, self._look_every_s):
            if self._process.pid is not None:
                continue
            wait_s = next_wait_s(wait_s, self._clock() - self._started_at)
            self._say(f"the embedded broker {_how(self._process.ended_with)}", wait_s)
            while not await _is_set_within(stop, wait_s):
                try:
                    await asyncio.to_thread(self.start)
                except BrokerError as error:
                    wait_s = next_wait_s(wait_s, 0.0)
                    self._say(f"the embedded broker does not start: {one_line(error)}", wait_s)
                else:
                    log.info("embedded broker at %s again", self.url, extra=told("broker", broker=self.url))
                    break

    def _say(self, what: str, wait_s: float) -> None:
        log.error(
            "%s; it is started again in %g s", what, wait_s, extra=told("broker", broker=self.url, retry_s=wait_s)
        )


def next_wait_s(before_s: float, lived_s: float) -> float:
    """Seconds to wait before a broker is started again: they double, up to a minute.

    Args:
        before_s: what was waited before the start that it has now ended after; 0 where that was the first one.
        lived_s: for how long it ran.
    """
    if before_s <= 0 or lived_s >= STABLE_S:
        return FIRST_WAIT_S
    return min(before_s * 2, LONGEST_WAIT_S)


@contextlib.contextmanager
def embedded_broker(folder: Path, port: int | None) -> Iterator[EmbeddedBroker]:
    """A broker for this machine only, on a free port unless one is given, which runs in the block.

    Raises:
        OperatorError: `broker.unreachable`: there is no Mosquitto here, or it does not start.
    """
    try:
        broker = EmbeddedBroker(MosquittoProcess(folder, name="development.conf", port=port))
        broker.start()
    except BrokerError as error:
        raise OperatorError("broker.unreachable", f"the embedded broker: {one_line(error)}") from error
    try:
        log.info("embedded broker at %s, for this machine only", broker.url, extra=told("broker", broker=broker.url))
        yield broker
    finally:
        broker.stop()


def _how(ended_with: int | None) -> str:
    if ended_with is None:
        return "has ended"
    return f"was ended by signal {-ended_with}" if ended_with < 0 else f"has ended with status {ended_with}"


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
