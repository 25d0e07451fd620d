"""Runs the outbox: looks for news, and delivers to each target by itself, so that one that hangs holds up no other."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from controller.database import utc_now
from controller.fleet.observers import Observer
from controller.fleet.patience import patiently
from controller.logs import told
from controller.notify.config import NotifyConfig, Target
from controller.notify.outbox import Outbox, Waiting
from controller.notify.sending import DeliveryError, send
from controller.rollouts.views import Rollout
from schemas.errors import one_line

LOOK_EVERY_S: Final = 30.0
SEND_BOUND_S: Final = 60.0
"""Beyond that a target counts as one that does not answer, whatever its library does."""

GRACE_S: Final = 5.0
"""What is being delivered when the controller ends gets this long: what arrived and was not noted arrives again."""

_LINGER_S: Final = 0.5

log = logging.getLogger(__name__)


class Notifier(Observer):
    """For one event loop.

    Args:
        outbox: where notifications are kept.
        config: whom to tell.
        registry: gets counters of what was delivered.
        deliver: delivers one; blocks.
        clock: the time of day.
    """

    def __init__(
        self,
        outbox: Outbox,
        config: NotifyConfig,
        registry: CollectorRegistry,
        *,
        deliver: Callable[[Target, Waiting, datetime], None] = send,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._outbox = outbox
        self._config = config
        self._deliver = deliver
        self._clock = clock
        self._changed = asyncio.Event()
        self._news = {target.name: asyncio.Event() for target in config.targets}
        self._counted = Counter(
            "flotilla_notifications",
            "Attempts to deliver, by target and outcome",
            ["target", "outcome"],
            registry=registry,
        )

    def rollout_changed(self, rollout: Rollout) -> None:
        """There may be news."""
        del rollout
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look and deliver until `stop` is set; what is being delivered then gets a few seconds to be noted."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look(), name="notify")
            serving = [
                group.create_task(self._serve(target, stop), name=f"notify-{target.name}")
                for target in self._config.targets
            ]
            await stop.wait()
            looking.cancel()
            self._wake_all()
            await asyncio.wait(serving, timeout=GRACE_S)
            for task in serving:
                task.cancel()

    def _wake_all(self) -> None:
        for news in self._news.values():
            news.set()

    async def _look(self) -> None:
        while True:
            self._changed.clear()
            left_out = await patiently(lambda: self._outbox.look(self._clock()), doing="looking for news")
            if left_out:
                log.error(
                    "%d notifications are not kept: too many wait already",
                    left_out,
                    extra=told("notify", count=left_out),
                )
            self._wake_all()
            await asyncio.sleep(_LINGER_S)
            await _wait(self._changed)

    async def _serve(self, target: Target, stop: asyncio.Event) -> None:
        news = self._news[target.name]
        while not stop.is_set():
            news.clear()
            for one in await patiently(lambda: self._outbox.due(target.name, self._clock()), doing="notifying"):
                if stop.is_set():
                    return
                await self._tell(target, one)
                news.set()  # there may be more than one page
            await _wait(news)

    async def _tell(self, target: Target, one: Waiting) -> None:
        about = partial(told, "notify", target=target.name, notification=one.id)
        try:
            await _in_daemon(lambda: self._deliver(target, one, self._clock()))
        except DeliveryError as error:
            why = one_line(error)
            wait_s = await patiently(lambda: self._outbox.failed(one, why, self._clock()), doing="notifying")
            self._counted.labels(target.name, "failed" if wait_s is not None else "given_up").inc()
            then = f"next attempt in {wait_s:g} s" if wait_s is not None else "given up"
            log.warning("%s was not told %r: %s; %s", target.name, one.title, why, then, extra=about(retry_s=wait_s))
        else:
            await patiently(lambda: self._outbox.delivered(one, self._clock()), doing="notifying")
            self._counted.labels(target.name, "delivered").inc()
            log.info("%s was told: %s", target.name, one.title, extra=about())


async def _wait(event: asyncio.Event) -> None:
    # not wait_for, which in Python 3.11 forgets that it was cancelled if the event is set at that moment
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_EVERY_S):
            await event.wait()


async def _in_daemon(action: Callable[[], None]) -> None:
    """Run in a thread that keeps no process from ending.

    Raises:
        DeliveryError: as the action does; also for whatever else it raises, and where it takes too long.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()

    def settle(error: DeliveryError | None) -> None:
        if not outcome.done():
            if error is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(error)

    def run() -> None:
        error: DeliveryError | None = None
        try:
            action()
        except DeliveryError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - a service's library may raise anything, and its text may be secret
            error = DeliveryError(f"its library failed ({type(caught).__name__})")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="notify", daemon=True).start()
    try:
        async with asyncio.timeout(SEND_BOUND_S):
            await outcome
    except TimeoutError as error:
        raise DeliveryError(f"no answer within {SEND_BOUND_S:g} s") from error
