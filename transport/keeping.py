"""Staying connected: attempt after attempt, with full jitter between them."""

import asyncio
import inspect
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from transport.errors import LinkLost, SettingsError, TakenOver, TransportError
from transport.link import Link
from transport.opening import connect
from transport.settings import LinkSettings, Will

__all__ = ["Backoff", "LinkState", "keep_connected"]

# A link that lasted this long was a good one: the next loss starts from the shortest wait again. Shorter
# ones don't count, or two devices with one id would throw each other out every second for ever.
_STABLE_S: Final = 30.0
# Mosquitto before 2.0.15 closes a connection that another one takes over without saying why (seen with 2.0.11).
# This many short links in a row, each closed without a word after the broker had let us in, mean the same.
_SHORT_LINKS: Final = 3


class Backoff:
    """Waiting times with full jitter: uniform between 0 and a ceiling that doubles up to a limit.

    Args:
        first_s: ceiling of the first wait, in seconds.
        limit_s: highest ceiling, in seconds.
        rng: where chance comes from; tests give a seeded one.
    """

    def __init__(self, *, first_s: float = 1.0, limit_s: float = 120.0, rng: random.Random | None = None) -> None:
        if not 0 < first_s <= limit_s:
            raise ValueError("the first ceiling must be above 0 and not above the limit")
        self._first_s = first_s
        self._limit_s = limit_s
        self._ceiling_s = first_s
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - spreads load, guards nothing

    def next_s(self, error: TransportError | None = None) -> float:
        """Seconds to wait now; the ceiling doubles for the next time.

        Args:
            error: why the last attempt or link ended, for those to whom it makes a difference.
        """
        del error
        wait_s = self._rng.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, self._limit_s)
        return wait_s

    def reset(self) -> None:
        """Start again from the first ceiling."""
        self._ceiling_s = self._first_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What `keep_connected` is about to do, for logs, status and metrics.

    Attributes:
        state: `connecting`, `connected`, `waiting` (for the next attempt) or `stopped`.
        error: why the last attempt or link ended; only with `waiting`.
        wait_s: seconds until the next attempt; only with `waiting`.
    """

    state: Literal["connecting", "connected", "waiting", "stopped"]
    error: TransportError | None = None
    wait_s: float = 0.0


async def keep_connected(
    settings: LinkSettings,
    session: Callable[[Link], Awaitable[None]],
    *,
    will_factory: Callable[[], Will | Awaitable[Will | None] | None] | None = None,
    on_state: Callable[[LinkState], None] | None = None,
    backoff: Backoff | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Connect, run `session(link)`, and on loss wait and do it again, until `stop` or the session returns.

    The session subscribes anew each time. It is cancelled when the link is lost or `stop` is set; with
    `stop` the link is still open while it unwinds, so that a `finally` may publish a last word. Transport
    errors it raises, alone or in exception groups, count as a loss; any other error ends this function.

    Two processes with one client id throw each other out. `LinkState.error` is then `TakenOver`: at once when
    the broker says so, after three short links in a row when it doesn't.

    Args:
        settings: where to connect to, and as whom.
        session: what to do with each link.
        will_factory: makes the will for each attempt (its payload may name that very connection).
        on_state: told every change of state; must not raise.
        backoff: waits between attempts; 1 s doubling to 120 s with full jitter unless given.
        stop: set it to end.

    Raises:
        SettingsError: the settings can't be used; trying again is no use.
    """
    stop = stop if stop is not None else asyncio.Event()
    tell = on_state if on_state is not None else _ignore
    keeping = asyncio.create_task(
        _keep(settings, session, will_factory=will_factory, tell=tell, backoff=backoff or Backoff(), stop=stop),
        name="mqtt-keep-connected",
    )
    stopping = asyncio.create_task(stop.wait(), name="mqtt-stop")
    try:
        await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(keeping, stopping)
    if not keeping.cancelled():
        keeping.result()
    tell(LinkState(state="stopped"))


async def _keep(
    settings: LinkSettings,
    session: Callable[[Link], Awaitable[None]],
    *,
    will_factory: Callable[[], Will | Awaitable[Will | None] | None] | None,
    tell: Callable[[LinkState], None],
    backoff: Backoff,
    stop: asyncio.Event,
) -> None:
    clock = asyncio.get_running_loop().time
    short_links = 0
    while True:
        tell(LinkState(state="connecting"))
        connected_at = math.inf
        try:
            made = will_factory() if will_factory is not None else None
            will = await made if inspect.isawaitable(made) else made
            async with connect(settings, will=will) as link:
                connected_at = clock()
                tell(LinkState(state="connected"))
                await _attend(link, session)
        except (TransportError, BaseExceptionGroup) as caught:
            error = _loss_in(caught)
        else:
            return
        if stop.is_set():
            return
        if clock() - connected_at >= _STABLE_S:
            backoff.reset()
            short_links = 0
        elif connected_at < math.inf and type(error) is LinkLost:
            short_links += 1
            if short_links >= _SHORT_LINKS:
                error = _suspected(error, settings)
        else:
            short_links = 0
        wait_s = backoff.next_s(error)
        tell(LinkState(state="waiting", error=error, wait_s=wait_s))
        await asyncio.sleep(wait_s)


async def _attend(link: Link, session: Callable[[Link], Awaitable[None]]) -> None:
    """Run the session until it ends, or until the link does; then raise why the link did."""
    working = asyncio.ensure_future(session(link))
    losing = asyncio.create_task(link.wait_lost(), name="mqtt-loss")
    try:
        await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
        lost = losing.result() if losing.done() else None
    except asyncio.CancelledError:
        await _cancelled(working, losing)
        _raise_defect(working)
        raise
    await _cancelled(working, losing)
    if not working.cancelled():
        working.result()
    if lost is not None:
        raise lost


def _raise_defect(ended: "asyncio.Future[None]") -> None:
    """Raise what a session ended with while it was stopped, unless the link was lost just then: that is no news."""
    error = None if ended.cancelled() else ended.exception()
    if isinstance(error, (TransportError, BaseExceptionGroup)):
        _loss_in(error)
    elif error is not None:
        raise error


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _suspected(lost: LinkLost, settings: LinkSettings) -> TakenOver:
    who = settings.client_id
    line = f"the broker closes each connection soon after it lets us in: does somebody else use the client id {who}?"
    taken = TakenOver(line, reason_code=lost.reason_code)
    taken.__cause__ = lost
    return taken


def _loss_in(caught: TransportError | BaseExceptionGroup[BaseException]) -> TransportError:
    """The transport error that ended a session; anything else is raised again."""
    if isinstance(caught, BaseExceptionGroup):
        transport, rest = caught.split(TransportError)
        if transport is None or rest is not None:
            raise caught
        errors = list(_leaves(transport))
        # Every task of a session fails when the link does; a refusal among them says more than that.
        error = next((one for one in errors if not isinstance(one, LinkLost)), errors[0])
    else:
        error = caught
    if isinstance(error, SettingsError):
        raise error
    return error


def _leaves(group: BaseExceptionGroup[TransportError]) -> Iterator[TransportError]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def _ignore(_state: LinkState) -> None:
    pass
