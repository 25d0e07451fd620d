"""The agent's connection to the broker: subscriptions that follow what the device takes, presence, and its twins.

Two agents with one id throw each other out for ever. After a few times within a minute this one gives up
and says so, because whoever configured them has to know.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from device_agent.conditions import BrokerReach
from device_agent.inbox import Inbox
from device_agent.logs import line, logger
from device_agent.policy import DeviceView
from device_agent.reporter import Reporter
from device_agent.threads import in_thread
from schemas.errors import DeviceError, NetworkError, OperatorError
from schemas.topics import Topics
from transport import (
    Backoff,
    Link,
    LinkSettings,
    LinkState,
    SettingsError,
    SubscribeRefused,
    TakenOver,
    TransportError,
    Will,
    keep_connected,
)

MAX_TAKE_OVERS: Final = 3
TAKE_OVERS_WITHIN_S: Final = 60.0


class NotKeptError(TransportError):
    """The disk did not take what a connection has to note: it is tried again later, like a lost connection."""

    code = "disk.io"


class Subscriptions(Protocol):
    """What the broker's session may still hold; blocks."""

    def subscriptions(self) -> frozenset[str]:
        """Topic filters of the last connection."""
        ...

    def keep_subscriptions(self, filters: frozenset[str]) -> None:
        """Topic filters of this one."""
        ...


class Connection:
    """See the module."""

    def __init__(
        self,
        *,
        settings: LinkSettings,
        topics: Topics,
        device: str,
        inbox: Inbox,
        reporter: Reporter,
        subscriptions: Subscriptions,
        view: Callable[[], DeviceView],
        next_session: Callable[[], int],
        stop: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
        reach: BrokerReach | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """
        Args:
            view: the device as it is now; called in a thread.
            next_session: numbers connections, durably; called in a thread.
            stop: ends it.
            reach: told when the connection comes and goes.
            backoff: waits between attempts to connect.
        """
        self._settings = settings
        self._topics = topics
        self._device = device
        self._inbox = inbox
        self._reporter = reporter
        self._subscriptions = subscriptions
        self._view = view
        self._next_session = next_session
        self._stop = stop
        self._clock = clock
        self._reach = reach or BrokerReach()
        self._backoff = backoff
        self._session = 0
        self._stale = asyncio.Event()
        self._taken_over: deque[float] = deque(maxlen=MAX_TAKE_OVERS)
        self._duplicate = False
        self.connected = False
        self.status = "not connected"

    def refresh(self) -> None:
        """What the device takes may have changed: look at the subscriptions."""
        self._stale.set()

    async def keep(self) -> None:
        """Stay connected until told to end.

        Raises:
            OperatorError: `config.bad`; the settings cannot be used.
            NetworkError: `broker.duplicate`.
        """
        ending = asyncio.Event()
        both = asyncio.create_task(_pass_on(self._stop, ending), name="stop")
        try:
            await keep_connected(
                self._settings,
                self._attend,
                will_factory=self._will,
                on_state=lambda state: self._note(state, ending),
                backoff=self._backoff,
                stop=ending,
            )
        except SettingsError as error:
            raise OperatorError("config.bad", str(error)) from error
        finally:
            both.cancel()
        if self._duplicate:
            raise NetworkError(
                "broker.duplicate",
                f"another agent with the id {self._device} connects to {self._settings.address()}, "
                f"{MAX_TAKE_OVERS} times within {TAKE_OVERS_WITHIN_S:.0f} s; give one of them another id",
            )

    async def _will(self) -> Will:
        try:
            self._session = await in_thread(self._next_session)
        except DeviceError as error:
            raise NotKeptError(str(error)) from error
        return self._reporter.will(self._session)

    async def _attend(self, link: Link) -> None:
        session = self._session
        try:
            # First what is meant for this device alone: who sees it online may send it commands, and what is
            # desired is known before releases are heard of.
            await self._try(link.subscribe(self._own_topics()))
            async with asyncio.TaskGroup() as tasks:
                # not waited for: a broker that refuses to hear it must not keep the device from its releases
                tasks.create_task(self._reporter.say_online(link, session), name="presence")
                tasks.create_task(self._inbox.run(link), name="inbox")
                tasks.create_task(self._reporter.run(link), name="reporter")
                tasks.create_task(self._keep_subscribed(link), name="subscriptions")
        except* DeviceError as group:
            raise NotKeptError(str(_first_of(group))) from group
        finally:
            if self._stop.is_set() and await self._reporter.say_goodbye(link, session):
                link.withdraw_will()

    async def _keep_subscribed(self, link: Link) -> None:
        """Subscribe anew with each connection; then to what is new and no more to what is not wanted."""
        held = kept = await in_thread(self._subscriptions.subscriptions)
        fresh: frozenset[str] = frozenset()
        while True:
            self._stale.clear()
            wanted = await in_thread(self._wanted)
            if held | wanted != kept:
                kept = held | wanted
                await in_thread(self._subscriptions.keep_subscriptions, kept)
            if held - wanted:
                await self._try(link.unsubscribe(sorted(held - wanted)))
            for topic in sorted(wanted - fresh):
                await self._try(link.subscribe([topic]))
            held = fresh = wanted
            if wanted != kept:
                kept = wanted
                await in_thread(self._subscriptions.keep_subscriptions, kept)
            await self._stale.wait()

    def _own_topics(self) -> list[str]:
        return [self._topics.device(self._device, kind) for kind in ("desired", "commands")]

    def _wanted(self) -> frozenset[str]:
        device = self._view()
        named = {self._topics.release(device.channel, package) for package in device.followed_packages()}
        return frozenset(named | ({self._topics.releases_of(device.channel)} if device.every_package else set()))

    async def _try(self, request: Coroutine[Any, Any, None]) -> None:
        """One topic that is refused must not keep the device from the others."""
        try:
            await request
        except SubscribeRefused as error:
            logger().error(line("subscribe", error, topic=error.topic))

    def _note(self, state: LinkState, ending: asyncio.Event) -> None:
        address = self._settings.address()
        self.connected = self._reach.connected = state.state == "connected"
        match state.state:
            case "connected":
                self.status = f"connected to {address}"
                logger().info(line("connected", broker=address, session=self._session))
            case "waiting":
                self.status = f"no connection: {state.error}"
                code = state.error.code if state.error else None
                logger().warning(line("disconnected", state.error or "", code=code, retry_s=f"{state.wait_s:.1f}"))
                if isinstance(state.error, TakenOver):
                    self._count_take_over(ending)
            case _:
                pass

    def _count_take_over(self, ending: asyncio.Event) -> None:
        now = self._clock()
        self._taken_over.append(now)
        if len(self._taken_over) == MAX_TAKE_OVERS and now - self._taken_over[0] <= TAKE_OVERS_WITHIN_S:
            self._duplicate = True
            ending.set()


async def _pass_on(one: asyncio.Event, other: asyncio.Event) -> None:
    await one.wait()
    other.set()


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
