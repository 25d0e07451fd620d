"""Which update is next, and how one that waits or runs is stopped: the journal's rows and the one that runs."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from device_agent import wishes
from device_agent.clock import Clock
from device_agent.dependencies import has_waited
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome, allows
from device_agent.reports import report
from device_agent.runner import Runner
from device_agent.set_keeping import SetKeeping
from device_agent.set_runner import SetRunner
from device_agent.sets import because_of, together
from device_agent.steps.assembly import Steps
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Update, UpdateRequest
from schemas.errors import DeviceError, FlotillaError
from schemas.ids import uuid7
from schemas.messages import LAST_WORDS, Phase

STOP_LIMIT_S: Final = 30.0
"""How long a caller waits for an update that was asked to stop."""
LONGEST_WAIT_S: Final = 60.0
"""Deferred updates are looked at this often at least: the time of day may jump."""


class UpdateQueue:
    """See the module.

    Attributes:
        choosing: held while somebody decides by what is unfinished, so that nothing is begun or picked meanwhile.
        cleared: set while nothing is being worked on or cleared up.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        store: ReleaseStore,
        steps: Steps,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.choosing = asyncio.Lock()
        self.cleared = asyncio.Event()
        self.cleared.set()
        self._journal = journal
        self._store = store
        self._steps = steps
        self._clock = clock
        self._random_bytes = random_bytes
        self._sets = SetKeeping(journal, clock)
        self._runner: Runner | SetRunner | None = None
        self._wake = asyncio.Event()
        self._left_behind = False  # an update that waited, with its release staged, was stopped

    @property
    def running(self) -> Update | None:
        """The update that is being worked on, or after which is being cleared up."""
        return self._runner.update if self._runner else None

    def is_busy_with(self, package: str) -> bool:
        """Whether the package's update, or that of a set that it belongs to, is being worked on."""
        return self._runner is not None and self._runner.find(package=package) is not None

    async def work_on_next(self) -> None:
        """Wait for an update that may be worked on, run it to its last word or until it is deferred, clear up.

        Raises:
            DeviceError: `disk.*`: the journal refuses, or something cannot be cleared up.
        """
        while True:
            async with self.choosing:
                self._wake.clear()
                self.cleared.clear()
                try:
                    if self._left_behind:
                        await self._steps.commit.sweep(collect=False)
                        self._left_behind = False
                    self._runner, due = await self._pick()
                finally:
                    if self._runner is None:
                        self.cleared.set()
                runner = self._runner
            if runner is not None:
                break
            await self._rest(due)
        try:
            update = await runner.run()
            if update.phase in LAST_WORDS:
                await self._steps.commit.sweep(collect=_leaves_rubbish(update))
        finally:
            self._runner = None
            self.cleared.set()

    async def unfinished(self, package: str | None = None) -> list[Update]:
        """Updates without a last word, of one package or all."""
        found = await in_thread(self._journal.unfinished)
        return [update for update in found if package in (None, update.package)]

    async def begin(self, request: UpdateRequest, outcome: Outcome, error: FlotillaError | None = None) -> str:
        """Journal a new update; gives its id."""
        if request.group is not None and outcome is not Outcome.CANCEL:
            await self._sets.begin_anew(request.group)
        now = self._clock.now()
        update = uuid7(int(now.timestamp() * 1000), self._random_bytes(10))
        reason = report(error) if error else None
        await in_thread(self._journal.begin, request, outcome, update=update, at=now, error=reason)
        self._wake.set()
        return update

    async def stop(self, update: Update, error: FlotillaError) -> bool:
        """Cancel an update for which nothing has been changed yet; whether it was cancelled, within half a minute."""
        runner = self._runner
        if runner is not None and runner.find(update=update.id) is not None:
            if not runner.request_cancel(error):
                return False
            try:
                await asyncio.wait_for(runner.ended.wait(), STOP_LIMIT_S)
            except TimeoutError:
                return False
            ended = await in_thread(self._journal.get, update.id)
            return ended is not None and ended.phase is Phase.CANCELLED
        # it may have ended since the caller looked, e.g. while another one was stopped
        now = await in_thread(self._journal.get, update.id)
        if now is None or now.switch_begun or not allows(now.phase, Outcome.CANCEL):
            return False
        moved = await self._move(update, Outcome.CANCEL, error=report(error))
        if now.manifest is not None:
            self._left_behind = True
            self._wake.set()
        group = update.request.group
        if runner is not None and group is not None and runner.update.request.group == group:
            # it would be for nothing
            because = because_of(f"{update.package} {update.version}", moved.error)
            runner.request_cancel(DeviceError(because.code, because.message))
        return True

    async def undo(self, package: str | None, rollout: str | None, error: FlotillaError) -> str | None:
        """Have the running update go back if it is the package's or the rollout's and has changed things; its id."""
        runner = self._runner
        if runner is None or runner.update.goes_back:
            return None
        found = runner.find(package, rollout)
        return found.id if found is not None and await runner.request_return(error) else None

    async def reschedule(self, update: Update, request: UpdateRequest) -> None:
        """The same wish again: where it still waits for its time, that may have changed. A retry's pause stays."""
        if update.phase is not Phase.DEFERRED or update.error is not None:
            return
        if update.waiting is not None:
            # it had its time, and waits for something else now
            if request != update.request:
                await in_thread(self._journal.change, update.id, request=request)
            return
        if update.not_before == request.not_before:
            return
        due = request.not_before or self._clock.now()
        detail = {"reason": request.reason, "not_before": due}
        await self._move(update, Outcome.DEFER, detail=detail, changes={"request": request, "not_before": due})
        self._wake.set()

    async def hurry(self, update: Update) -> None:
        """Do not wait any longer for a deferred update's time; what the owner and the application say still counts."""
        request = msgspec.structs.replace(update.request, window=None, not_before=None)
        await in_thread(self._journal.change, update.id, request=request, not_before=None)
        self._wake.set()

    def hold(self, on: bool) -> None:
        """While on, nothing is started and nothing that waits goes on."""
        self._steps.ready.held = on
        self._wake.set()

    async def _pick(self) -> tuple[Runner | SetRunner | None, datetime | None]:
        """Who works on what is next, else when there may be something to work on."""
        standing = await self._sets.look()
        if standing.taken_apart:
            await self._steps.commit.sweep(collect=False)
        if standing.ready:
            parts: dict[str, Any] = {"steps": self._steps, "store": self._store, "journal": self._journal}
            return SetRunner(standing.ready, clock=self._clock, **parts), None
        alone = [update for update in standing.unfinished if not together(update)]
        for number, update in enumerate(alone):
            if has_waited(update, standing.unfinished):
                alone[number] = await in_thread(self._journal.change, update.id, not_before=None)
        chosen = await self._choose(alone)
        if chosen is None:
            ends = [due for due in (wishes.next_due(alone), standing.due) if due is not None]
            return None, min(ends, default=None)
        runner = Runner(
            chosen,
            steps=self._steps,
            store=self._store,
            journal=self._journal,
            clock=self._clock,
            random_bytes=self._random_bytes,
        )
        return runner, None

    async def _choose(self, unfinished: list[Update]) -> Update | None:
        now = self._clock.now()
        update = wishes.choose(unfinished, now=now, hold=self._steps.ready.held)
        if update is None or update.phase is not Phase.DEFERRED:
            return update
        deadline = update.request.deadline
        if update.error is None and not update.staged and deadline is not None and now > deadline:
            late = DeviceError("conflict.deadline", f"{update.package} was to start by {deadline.isoformat()}")
            return await self._move(update, Outcome.REJECT, error=report(late))
        return update

    async def _rest(self, due: datetime | None) -> None:
        """Wait until something has changed, or an update may be due."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._wake.wait(), name="wait for a wish")]
        if due is not None:
            seconds = (due - self._clock.now()).total_seconds()
            pause = self._clock.sleep(min(max(seconds, 0.0), LONGEST_WAIT_S))
            waits.append(asyncio.create_task(pause, name="wait for a deferred update"))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    async def _move(self, update: Update, outcome: Outcome, **more: Any) -> Update:
        return await in_thread(self._journal.advance, update.id, outcome, at=self._clock.now(), **more)


def _leaves_rubbish(update: Update) -> bool:
    """Whether contents that no release has are of no more use. After most failures a retry would want them."""
    full = update.error is not None and update.error.code.startswith("disk.")
    return full or update.phase in (Phase.SUCCEEDED, Phase.ROLLED_BACK)
