"""Runs one update from its journaled phase to its last word, one step after the other, each journaled first."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from device_agent import lifecycle
from device_agent.clock import Clock
from device_agent.dependencies import wait_for_package
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome, Step
from device_agent.reports import defect, report
from device_agent.requirements import MissingPackageError
from device_agent.sets import together
from device_agent.steps.assembly import Steps
from device_agent.steps.fetch import Prepared
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Update
from device_agent.wishes import LONGEST_RETRY_S
from schemas.errors import DeviceError, FlotillaError, NetworkError, PublisherError, TrustError
from schemas.manifest import Manifest
from schemas.messages import Phase, Progress

FIRST_RETRY_S: Final = 5.0

_UNTOUCHED: Final = frozenset({Phase.ACCEPTED, Phase.FETCHING})
_CHANGED: Final = frozenset({Phase.SWITCHED, Phase.PROBATION})
_STARTED: Final = {"restarts": 0}
_REFUSALS: Final = frozenset({"fetch.metered", "conflict.failed_before"})


class Runner:
    """See the module. Made for one update, run once.

    Attributes:
        update: as last journaled.
        ended: set when `run` has ended.
    """

    def __init__(
        self,
        update: Update,
        *,
        steps: Steps,
        store: ReleaseStore,
        journal: Journal,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.update = update
        self.ended = asyncio.Event()
        self._steps = steps
        self._store = store
        self._journal = journal
        self._clock = clock
        self._random_bytes = random_bytes
        self._prepared: Prepared | None = None
        self._restarted = True  # since its phase was journaled, for all that this runner knows
        self._switch_begun = update.switch_begun
        self._wish: Move | None = None
        self._task: asyncio.Task[Move | None] | None = None
        self._moving = asyncio.Lock()
        self._looks = update.phase is Phase.DEFERRED  # once: whatever waits on is looked at by another runner
        self._told: dict[str, Any] | None = None  # what the switch tells of the wait before it, once that is over

    async def run(self) -> Update:
        """Go on until the last word, or until the update is deferred.

        Raises:
            DeviceError: `disk.*`: the journal cannot be written; a new runner may go on later.
        """
        try:
            while (move := self._granted()) is not None or self._step() is not None:
                move = move or await self._next_move()
                if move is None:
                    break
                await self._advance(move)
        finally:
            self.ended.set()
        return self.update

    def find(self, package: str | None = None, rollout: str | None = None, update: str | None = None) -> Update | None:
        """The update, if it is of this package, of this rollout, or this one."""
        mine = self.update
        fits = package in (None, mine.package) and rollout in (None, mine.rollout) and update in (None, mine.id)
        return mine if fits else None

    def request_cancel(self, error: FlotillaError) -> bool:
        """Stop before anything is changed; False where that is too late."""
        if self._switch_begun or self._wish is not None:
            return False
        return self._request(Move(outcome=Outcome.CANCEL, error=report(error)))

    async def request_return(self, error: FlotillaError) -> bool:
        """Go back to what was installed before; False where nothing was changed yet, it is over, or being undone."""
        async with self._moving:  # what is being written may be the last word
            return self._request_return(error)

    def _request_return(self, error: FlotillaError) -> bool:
        if self.update.phase not in _CHANGED and not (self.update.phase is Phase.STAGED and self._switch_begun):
            return False
        if self._wish is not None:
            return True
        return self._request(Move(outcome=Outcome.GO_BACK, error=report(error)), stop=self.update.phase in _CHANGED)

    def _request(self, wish: Move, *, stop: bool = True) -> bool:
        if not lifecycle.allows(self.update.phase, wish.outcome):
            return False
        self._wish = wish
        if stop and self._task is not None:
            self._task.cancel()
        return True

    def _step(self) -> Step | None:
        if together(self.update):
            return None
        step = lifecycle.step_for(self.update.phase, self.update.restarts)
        return None if step is Step.NOTHING or (step is Step.WAIT and not self._looks) else step

    async def _next_move(self) -> Move | None:
        ended = lifecycle.break_off(self.update.phase, self.update.restarts)
        if ended is not None:
            return await self._broken_off(ended)
        step = self._step()
        move = await self._attempt(step) if step is not None else None
        # a wish that came while the step was ending goes before its result
        return self._granted() or move

    def _granted(self) -> Move | None:
        wish = self._wish
        return wish if wish is not None and lifecycle.allows(self.update.phase, wish.outcome) else None

    async def _attempt(self, step: Step) -> Move | None:
        """One step, in a task of its own so that a wish can stop it and nothing else."""
        self._task = asyncio.create_task(self._do(step), name=f"{step} {self.update.package} {self.update.version}")
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        finally:
            task, self._task = self._task, None
        if task.cancelled():
            if self._wish is None:
                raise asyncio.CancelledError
            return self._wish
        try:
            return task.result()
        except FlotillaError as error:
            return await self._after(error)
        except Exception as error:  # noqa: BLE001  # a defect in a step must not leave the device half-way
            return await self._after(defect(error))

    async def _do(self, step: Step) -> Move | None:
        update = self.update
        match step:
            case Step.WAIT | Step.CHECK:
                return await (self._look() if step is Step.WAIT else self._check())
            case Step.FETCH:
                return await self._fetch()
            case Step.SWITCH:
                return await self._switch()
            case Step.HEALTH:
                return await self._steps.health.begin(await self._manifest(), restarted=self._restarted)
            case Step.PROBATION:
                manifest = await self._manifest()
                move = await self._steps.health.prove(update, manifest, restarted=self._restarted)
                settled = await self._steps.commit.settle(update, manifest)
                return Move(outcome=move.outcome, changes=move.changes, detail={**move.detail, **settled})
            case Step.ROLLBACK:
                return await self._steps.rollback.run(update)
            case _:
                raise lifecycle.IllegalMoveError(f"'{step}' is nothing to do")

    async def _look(self) -> Move | None:
        self._looks = False
        move, told = await self._steps.ready.look(self.update)
        if move is not None and move.outcome is Outcome.GO_ON:
            self._told = told
        return move

    async def _check(self) -> Move:
        wait = await self._steps.ready.to_start(self.update)
        if wait is not None:
            return wait
        move, self._prepared = await self._steps.fetch.check(self.update)
        if self._prepared is None:
            return move
        await self._steps.ready.refuse_what_failed(self.update, self._prepared.signed.sha256)
        return replace(move, changes={**move.changes, **_STARTED})

    async def _switch(self) -> Move:
        told = self._told
        if told is None and not self._switch_begun:
            wait, told = await self._steps.ready.to_switch(self.update)
            if wait is not None:
                return wait
        move = await self._steps.switch.run(self.update, self._begin_switch)
        return replace(move, detail={**(told or {}), **move.detail})

    async def _fetch(self) -> Move:
        prepared = self._prepared or await self._steps.fetch.prepare_again(self.update)
        fetched = await self._steps.fetch.fetch(self.update, prepared)
        await self._steps.stage.run(prepared.signed)
        return Move(
            outcome=Outcome.DONE,
            progress=Progress(bytes_done=prepared.size, bytes_total=prepared.size),
            detail=fetched.detail,
            changes={"manifest": prepared.signed.sha256, "restarts": 0},
        )

    async def _begin_switch(self) -> None:
        self._switch_begun = True
        unreached = await in_thread(self._journal.last_seq) if self._steps.ready.broker_counts() else None
        self.update = await in_thread(
            self._journal.change, self.update.id, switch_begun=True, unreached_after=unreached
        )

    async def _manifest(self) -> Manifest:
        sha256 = self.update.manifest or ""
        return await in_thread(self._store.manifest, self.update.package, self.update.version, sha256)

    async def _broken_off(self, outcome: Outcome) -> Move:
        """How an update goes on, or ends, that was restarted too often or that this agent does not understand."""
        update = self.update
        if update.phase is None:
            error = DeviceError("interrupted.journal", "the journal holds a phase that this agent does not know")
        else:
            error = DeviceError(
                "interrupted.restarts",
                f"the agent was restarted {update.restarts} times while {update.package} was {update.phase}",
            )
        if update.phase is Phase.ROLLING_BACK:
            return await self._steps.rollback.break_off(update, error)
        return Move(outcome=outcome, error=report(error))

    async def _after(self, error: FlotillaError) -> Move:
        """What becomes of the update when its step has failed."""
        phase, reason = self.update.phase, report(error)
        if phase is Phase.ROLLING_BACK:
            return await self._steps.rollback.give_up(self.update, error)
        if phase in _CHANGED or self._switch_begun:
            return Move(outcome=Outcome.GO_BACK, error=reason)
        if isinstance(error, MissingPackageError):
            # packages announced together come in any order
            unfinished = await in_thread(self._journal.unfinished)
            wait = wait_for_package(error, self.update, unfinished, self._clock.now())
            return wait or Move(outcome=Outcome.REJECT, error=reason)
        tries_left = self.update.attempt <= self.update.request.retries
        if phase in _UNTOUCHED and tries_left and _may_pass(error):
            return self._again(error)
        if phase in _UNTOUCHED and _is_decision(error):
            return Move(outcome=Outcome.REJECT, error=reason)
        return Move(outcome=Outcome.FAIL, error=reason)

    def _again(self, error: FlotillaError) -> Move:
        longest = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (self.update.attempt - 1))
        # half of it by chance, so that a fleet does not come back to a repository all at once
        delay = longest * (0.5 + 0.5 * self._random_bytes(1)[0] / 255)
        due = self._clock.now() + timedelta(seconds=delay)
        return Move(
            outcome=Outcome.DEFER,
            error=report(error),
            detail={"reason": "retry", "not_before": due, "retries_left": self._retries_left()},
            changes={"not_before": due},
        )

    def _retries_left(self) -> int:
        return self.update.request.retries + 1 - self.update.attempt

    async def _advance(self, move: Move) -> None:
        # what was waited for is kept until the step after the wait is done, and no longer
        over = {} if move.outcome in (Outcome.DUE, Outcome.GO_ON) else {"waiting": None}
        async with self._moving:
            self.update = await in_thread(
                self._journal.advance,
                self.update.id,
                move.outcome,
                at=self._clock.now(),
                error=move.error,
                detail=move.detail,
                progress=move.progress,
                changes={**over, **move.changes},
                install=move.install,
                uninstall=move.uninstall,
            )
        self._restarted = False


def _may_pass(error: FlotillaError) -> bool:
    if error.code == "interrupted.fetch":
        return True
    return isinstance(error, NetworkError) and error.code != "fetch.not_found"


def _is_decision(error: FlotillaError) -> bool:
    refused = error.code.startswith(("trust.", "requires.")) or error.code in _REFUSALS
    return isinstance(error, TrustError | PublisherError) or refused
