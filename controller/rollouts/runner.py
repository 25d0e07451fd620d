"""Lets the engine look at rollouts when something about them changed, and when it is time to.

What devices said is looked at device by device: a look costs what changed, whatever the size of the fleet. The
database is the truth at the start, whenever a rollout itself changed, and every now and then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from controller.database import utc_now
from controller.fleet.patience import patiently
from controller.logs import told
from controller.rollouts.standing import Words
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from schemas.errors import FlotillaError, one_line

LOOK_AGAIN_S: Final = 60.0
"""Rollouts that nothing is known of from an earlier look are looked at this often, and devices asked again."""

READ_AGAIN_S: Final = 600.0
"""Everything is read from the database anew this often: another process may have written to it."""

ASK_AGAIN: Final = timedelta(minutes=10)
"""A device that did not answer is asked to report again after this time."""

ASK_ANEW: Final = timedelta(seconds=15)
"""One that was heard of since it was asked is asked again after this time: another rollout may want to know."""

_LEAST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 1.0
_SHARE: Final = 5
"""As long as devices have more to say, the next round waits so many times as long as the last one took,
`_LONGEST_PAUSE_S` at most: rounds of many devices together cost less for each. When they have said it all it waits
twice as long after the last one, for half a second at most."""
_SHORTER_SHARE: Final = 2
_LONGEST_LEAST_S: Final = 0.5

_NONE: Final[Mapping[str, Any]] = {}

log = logging.getLogger(__name__)


class RolloutRunner:
    """Collects what changed and evaluates it, one rollout after the other. For one event loop.

    Args:
        store: evaluates.
        on_change: told of every rollout that changed, and whether its announcement did too.
        ask: has these devices asked to report; called in a thread.
        clock: the time of day.
    """

    def __init__(
        self,
        store: RolloutStore,
        on_change: Callable[[Rollout, bool], None],
        *,
        ask: Callable[[list[str]], None] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._ask = ask
        self._clock = clock
        self._rollouts: dict[str, Words | None] = {}
        self._channels: dict[str, Words | None] = {}
        self._heard: set[str] = set()
        self._asked: dict[str, datetime] = {}
        self._answered: set[str] = set()
        self._ask_at: datetime | None = None
        self._touched = asyncio.Event()
        self._all_said = asyncio.Event()
        self._all_said.set()

    def touch(
        self,
        *,
        rollouts: Mapping[str, Words | None] = _NONE,
        channels: Mapping[str, set[str] | None] = _NONE,
        heard: Iterable[str] = (),
        more: bool = False,
    ) -> None:
        """These rollouts, and those announced on these channels, are to be looked at soon.

        Args:
            rollouts: ids, each with what the devices said that changed; None for anybody.
            channels: likewise, with the devices.
            heard: devices that gave a sign of life, whatever else they said.
            more: whether this is the middle of what devices have to say, and the rest comes in a moment.
        """
        for rollout, words in rollouts.items():
            _merge(self._rollouts, rollout, words)
        for channel, devices in channels.items():
            _merge(self._channels, channel, None if devices is None else dict.fromkeys(devices))
        self._heard.update(heard)
        if more:
            self._all_said.clear()
        else:
            self._all_said.set()
        if self._rollouts or self._channels or self._heard:
            self._touched.set()

    async def run(self) -> None:
        """Look at everything that is announced, then at whatever is touched or due; until cancelled."""
        clock = asyncio.get_running_loop().time
        read_at: float | None = None
        again_at = clock()
        while True:
            began = clock()
            if read_at is None or began - read_at > READ_AGAIN_S:
                read_at = began
                announced = await patiently(self._store.announced, doing="the rollout engine")
                self.touch(rollouts=dict.fromkeys(announced))
            elif began - again_at >= LOOK_AGAIN_S:
                again_at = began
                unseen = await patiently(self._store.unseen, doing="the rollout engine")
                self.touch(rollouts=dict.fromkeys(unseen))
                self._ask_at = await self._ask_for(await patiently(self._store.asking, doing="the rollout engine"))
            due = await self._round()
            ended = clock()
            await self._something(due)
            await self._pause(ended, ended - began)

    async def _pause(self, ended: float, took_s: float) -> None:
        """Wait after a round that ended then and took so long, and as long as devices have more to say."""
        now = asyncio.get_running_loop().time()
        least = ended + max(min(_SHORTER_SHARE * took_s, _LONGEST_LEAST_S), _LEAST_PAUSE_S)
        longest = now + min(max(_SHARE * took_s, _LEAST_PAUSE_S), _LONGEST_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(longest):
                await asyncio.sleep(least - now)
                await self._all_said.wait()

    async def _something(self, due: datetime | None) -> None:
        """Wait until there is something to look at, time alone changes something, or for `LOOK_AGAIN_S`."""
        wait_s = LOOK_AGAIN_S if due is None else min(max((due - self._clock()).total_seconds(), 0.0), LOOK_AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._touched.wait()

    async def _round(self) -> datetime | None:
        """Look at what was touched; returns when time alone may change something."""
        self._touched.clear()
        wanted, channels, heard = self._rollouts, self._channels, self._heard
        self._rollouts, self._channels, self._heard = {}, {}, set()
        for rollout, devices in (await self._found(channels, heard)).items():
            _merge(wanted, rollout, devices)
        for rollout in sorted(wanted):
            try:
                await self._look(rollout, wanted[rollout])
            except FlotillaError as error:
                # the others must go on, and this one is looked at again with the next round
                extra = told("rollout", error, rollout=rollout)
                log.error("rollout %s cannot be judged: %s", rollout, one_line(error), extra=extra)  # noqa: TRY400 - the line says it all
        self._answered |= self._asked.keys() & heard
        asking = bool(wanted) or (self._ask_at is not None and self._ask_at <= self._clock())
        asked, due = await patiently(
            lambda: (self._store.asking() if asking else None, self._store.next_due()), doing="the rollout engine"
        )
        if asked is not None:
            self._ask_at = await self._ask_for(asked)
        return min((one for one in (due, self._ask_at) if one is not None), default=None)

    async def _found(self, channels: dict[str, Words | None], heard: set[str]) -> dict[str, Words | None]:
        """The rollouts that are to be looked at because of their channel, of a sign of life, or of the time."""

        def find() -> dict[str, Words | None]:
            found: dict[str, Words | None] = {}
            for channel, devices in channels.items():
                for rollout in self._store.announced_on(channel):
                    _merge(found, rollout, devices)
            for rollout, some in self._store.to_look_at(heard, self._clock()).items():
                _merge(found, rollout, dict.fromkeys(some))
            return found

        return await patiently(find, doing="the rollout engine")

    async def _look(self, rollout: str, devices: Words | None) -> None:
        found = await patiently(
            lambda: self._store.evaluate(rollout, self._clock(), changed=devices),
            doing=f"the engine's look at rollout {rollout}",
        )
        if found is None or not (found.state_changed or found.announced or found.verdicts):
            return
        view = found.view
        if found.state_changed or found.announced:
            what = f"{view.package} {view.version} on {view.channel}"
            extra = told(
                "rollout",
                rollout=view.id,
                package=view.package,
                version=view.version,
                channel=view.channel,
                state=view.state.value,
            )
            log.info("rollout %s of %s is %s: %s", view.id, what, view.state.value, one_line(view.because), extra=extra)
        self._on_change(view, found.announced)

    async def _ask_for(self, wanted: Mapping[str, set[str]]) -> datetime | None:
        """Have the devices asked that were not asked a short time ago; gives when one of the others may be."""
        now = self._clock()

        def is_recent(device: str, at: datetime) -> bool:
            # a time that is still to come is from before the clock was put back
            return timedelta() <= now - at < (ASK_ANEW if device in self._answered else ASK_AGAIN)

        self._asked = {device: at for device, at in self._asked.items() if is_recent(device, at)}
        self._answered &= self._asked.keys()
        names: set[str] = set().union(*wanted.values())
        devices = sorted(names - self._asked.keys())
        later = min((self._asked[device] + ASK_ANEW for device in names & self._answered), default=None)
        if devices and self._ask is not None:
            await patiently(partial(self._ask, devices), doing="asking devices to report")
            self._asked |= dict.fromkeys(devices, now)
        return later


def _merge(kept: dict[str, Words | None], name: str, words: Words | None) -> None:
    """Add to what is to be looked at; None stands for every device, and for what more than a device's steps changed."""
    before = kept.setdefault(name, {})
    if words is None or before is None:
        kept[name] = None
        return
    for device, phase in words.items():
        before[device] = phase if before.get(device, phase) is not None else None
