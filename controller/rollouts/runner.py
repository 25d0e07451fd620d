"""Lets the engine look at rollouts when something about them changed, and now and then because time goes by."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Final

from controller.database import utc_now
from controller.fleet.patience import patiently
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from schemas.errors import FlotillaError, one_line

LOOK_AGAIN_S: Final = 60.0
"""Deadlines pass and devices fall silent without anybody saying so."""

_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0
_SHARE: Final = 5
"""A round that took one second is followed by a pause of this many, so that looking never eats the machine."""

log = logging.getLogger(__name__)


class RolloutRunner:
    """Collects what changed and evaluates it, one rollout after the other. For one event loop.

    Args:
        store: evaluates.
        reader: says what came of it.
        on_change: told of every rollout that changed, and whether its announcement did too.
        clock: the time of day.
    """

    def __init__(
        self,
        store: RolloutStore,
        reader: RolloutReader,
        on_change: Callable[[Rollout, bool], None],
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._reader = reader
        self._on_change = on_change
        self._clock = clock
        self._rollouts: set[str] = set()
        self._channels: set[str] = set()
        self._touched = asyncio.Event()

    def touch(self, *, rollouts: Iterable[str] = (), channels: Iterable[str] = ()) -> None:
        """These rollouts, and those announced on these channels, are to be looked at soon."""
        self._rollouts.update(rollouts)
        self._channels.update(channels)
        if self._rollouts or self._channels:
            self._touched.set()

    async def run(self) -> None:
        """Look at everything that is announced, then at whatever is touched; until cancelled."""
        clock = asyncio.get_running_loop().time
        everything = True
        while True:
            began = clock()
            await self._round(everything=everything)
            await asyncio.sleep(min(max(_SHARE * (clock() - began), _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._touched.wait()
                everything = False
            except TimeoutError:
                everything = True

    async def _round(self, *, everything: bool) -> None:
        self._touched.clear()
        rollouts, channels = self._rollouts, self._channels
        self._rollouts, self._channels = set(), set()
        if everything or channels:
            question = partial(self._store.announced, None if everything else channels)
            rollouts |= set(await patiently(question, doing="the rollout engine"))
        for rollout in sorted(rollouts):
            try:
                await self._look(rollout)
            except FlotillaError as error:
                # the others must go on, and this one is looked at again with the next round
                log.error("rollout %s cannot be judged: %s", rollout, one_line(error))  # noqa: TRY400 - the line says it all

    async def _look(self, rollout: str) -> None:
        found = await patiently(
            lambda: self._store.evaluate(rollout, self._clock()), doing=f"the engine's look at rollout {rollout}"
        )
        if found is None or not (found.state_changed or found.verdicts):
            return
        view = await patiently(partial(self._reader.rollout, rollout), doing="the rollout engine")
        if found.state_changed:
            log.info(
                "rollout %s of %s %s on %s is %s", view.id, view.package, view.version, view.channel, view.state.value
            )
        self._on_change(view, found.state_changed)
