"""Runs a set whose members are all staged: one switch, one probation, one end; each move of all in one transaction.

A failure before anything was changed ends all of them, a later one has all of them go back; who goes back does so by
itself (`runner`), because from there on no member needs another one any more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from device_agent.clock import Clock
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome, allows, break_off
from device_agent.reports import defect, report
from device_agent.sets import because_of, in_order, together
from device_agent.steps.assembly import Steps
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Update
from schemas.errors import DeviceError, FlotillaError
from schemas.manifest import Manifest
from schemas.messages import ErrorReport, Phase

T = TypeVar("T")


class _MemberError(Exception):
    """What one member could not do."""

    def __init__(self, update: Update, error: FlotillaError) -> None:
        super().__init__(str(error))
        self.update = update
        self.error = error


class SetRunner:
    """See the module. Made for members that are staged or further, run once.

    Attributes:
        ended: set when `run` has ended.
    """

    def __init__(
        self, members: Sequence[Update], *, steps: Steps, store: ReleaseStore, journal: Journal, clock: Clock
    ) -> None:
        self.ended = asyncio.Event()
        self._members = list(members)
        self._steps = steps
        self._store = store
        self._journal = journal
        self._clock = clock
        self._manifests: dict[str, Manifest] = {}
        self._restarted = True  # since the phase was journaled, for all that this runner knows
        self._begun = any(update.switch_begun for update in members)
        self._wish: tuple[Outcome, ErrorReport] | None = None
        self._task: asyncio.Task[bool] | None = None
        self._moving = asyncio.Lock()

    @property
    def update(self) -> Update:
        """The member that stands for the set."""
        return self._members[0]

    def find(self, package: str | None = None, rollout: str | None = None, update: str | None = None) -> Update | None:
        """The member that is of this package, of this rollout, or this update."""
        for member in self._members:
            if package in (None, member.package) and rollout in (None, member.rollout) and update in (None, member.id):
                return member
        return None

    async def run(self) -> Update:
        """Go on until all members have ended, go back, or wait for one of them.

        Raises:
            DeviceError: `disk.*`: the journal cannot be written; a new runner may go on later.
        """
        try:
            while all(together(update) for update in self._members):
                if not await self._next():
                    break
        finally:
            self.ended.set()
        return self.update

    def request_cancel(self, error: FlotillaError) -> bool:
        """Stop before anything is changed; False where that is too late."""
        if self._begun or self._wish is not None:
            return False
        self._wish = Outcome.CANCEL, report(error)
        if self._task is not None:
            self._task.cancel()
        return True

    async def request_return(self, error: FlotillaError) -> bool:
        """Have all members go back; False where nothing was changed yet, it is over, or they do."""
        async with self._moving:  # what is being written may be the last word
            if not self._begun or not all(together(update) for update in self._members):
                return False
            if self._wish is None:
                self._wish = Outcome.GO_BACK, report(error)
                # a switch is not broken off in the middle
                if self._task is not None and self._phase is not Phase.STAGED:
                    self._task.cancel()
            return True

    @property
    def _phase(self) -> Phase | None:
        return self._members[0].phase

    async def _next(self) -> bool:
        """The next step of all; False where one of them waits."""
        worn = next((u for u in self._members if break_off(u.phase, u.restarts) is not None), None)
        if worn is not None:
            text = f"the agent was restarted {worn.restarts} times while {worn.package} was {worn.phase}"
            await self._fail(worn, report(DeviceError("interrupted.restarts", text)), Outcome.GO_BACK)
            return True
        if self._wish is None:
            try:
                goes_on = await self._attempt()
            except _MemberError as error:
                await self._fail(error.update, report(error.error))
                return True
            if self._wish is None:
                return goes_on
        outcome, error_report = self._wish
        if all(allows(update.phase, outcome) for update in self._members):
            await self._advance([(u, Move(outcome=outcome, error=error_report)) for u in self._members])
            await self._stop_those_left()
        return True

    async def _attempt(self) -> bool:
        """One step, in a task of its own so that a wish can stop it and nothing else."""
        self._task = asyncio.create_task(self._do(), name=f"set of {', '.join(u.package for u in self._members)}")
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
            return True
        return task.result()

    async def _do(self) -> bool:
        for update in self._members:
            self._manifests[update.package] = await self._of(update, self._manifest(update))
        self._members = in_order(self._members, self._manifests)
        if len({update.phase for update in self._members}) > 1:
            raise _MemberError(self._members[0], DeviceError("internal.error", "members of a set have come apart"))
        match self._phase:
            case Phase.STAGED:
                return await self._switch()
            case Phase.SWITCHED:
                moves = [(u, await self._of(u, self._begin_health(u))) for u in self._members]
            case _:
                moves = await self._prove()
        if self._wish is None:
            await self._advance(moves)
        return True

    async def _switch(self) -> bool:
        switch, details = self._steps.switch, {update.id: dict[str, Any]() for update in self._members}
        if not self._begun:
            for update in self._members:
                wait, told = await self._of(update, self._steps.ready.to_switch(update))
                if wait is not None:
                    await self._advance([(update, wait)])
                    return False
                details[update.id] |= told
            for update in self._members:
                details[update.id] |= await self._of(update, switch.prepare(update))
            await self._begin()
        for update in reversed(self._members):
            await self._of(update, switch.stop(update))
        for update in self._members:
            details[update.id] |= await self._of(update, switch.change_over(update))
        moves = []
        for update in self._members:
            move = await self._of(update, switch.start(update, details[update.id]))
            moves.append((update, replace(move, changes={**move.changes, "waiting": None})))
        if self._wish is None:
            await self._advance(moves)
        return True

    async def _begin(self) -> None:
        self._begun = True
        unreached = await in_thread(self._journal.last_seq) if self._steps.ready.broker_counts() else None
        self._members = await in_thread(self._journal_begun, unreached)

    async def _begin_health(self, update: Update) -> Move:
        return await self._steps.health.begin(self._manifests[update.package], restarted=self._restarted)

    async def _prove(self) -> list[tuple[Update, Move]]:
        """All are watched for as long as the one with the longest probation."""
        longest = max(manifest.health.probation_s for manifest in self._manifests.values())

        async def prove(update: Update) -> tuple[Update, Move]:
            manifest = self._manifests[update.package]
            watched = msgspec.structs.replace(
                manifest, health=msgspec.structs.replace(manifest.health, probation_s=longest)
            )
            return update, await self._of(update, self._steps.health.prove(update, watched, restarted=self._restarted))

        tasks = [asyncio.create_task(prove(update), name=f"probation {update.package}") for update in self._members]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            moves = [task.result() for task in sorted(tasks, key=lambda task: not task.done() or not task.exception())]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for number, (update, move) in enumerate(moves):
            settled = await self._steps.commit.settle(update, self._manifests[update.package])
            moves[number] = update, Move(outcome=move.outcome, changes=move.changes, detail={**move.detail, **settled})
        return moves

    async def _fail(self, culprit: Update, error: ErrorReport, outcome: Outcome | None = None) -> None:
        """All end, or go back where anything was changed; the others say because of whom."""
        outcome = outcome or (Outcome.GO_BACK if self._begun else Outcome.FAIL)
        others = because_of(f"{culprit.package} {culprit.version}", error)
        await self._advance(
            [(u, Move(outcome=outcome, error=error if u.id == culprit.id else others)) for u in self._members]
        )
        await self._stop_those_left()

    async def _stop_those_left(self) -> None:
        """None of the new ones runs on while one after the other goes back; each makes sure of it again then."""
        for update in reversed(self._members):
            if update.phase is Phase.ROLLING_BACK:
                with contextlib.suppress(FlotillaError):
                    await self._steps.rollback.stop(update)

    async def _manifest(self, update: Update) -> Manifest:
        return await in_thread(self._store.manifest, update.package, update.version, update.manifest or "")

    async def _of(self, update: Update, work: Awaitable[T]) -> T:
        """What one member does; its failure says whose it was."""
        try:
            return await work
        except FlotillaError as error:
            raise _MemberError(update, error) from error
        except Exception as error:
            raise _MemberError(update, defect(error)) from error

    async def _advance(self, moves: Sequence[tuple[Update, Move]]) -> None:
        async with self._moving:
            moved = await in_thread(self._journal_moves, moves)
            self._members = [moved.get(update.id, update) for update in self._members]
        self._restarted = False

    def _journal_moves(self, moves: Sequence[tuple[Update, Move]]) -> dict[str, Update]:
        with self._journal.together():
            return {
                update.id: self._journal.advance(
                    update.id,
                    move.outcome,
                    at=self._clock.now(),
                    error=move.error,
                    detail=move.detail,
                    changes=move.changes,
                    install=move.install,
                )
                for update, move in moves
            }

    def _journal_begun(self, unreached_after: int | None) -> list[Update]:
        with self._journal.together():
            return [
                self._journal.change(update.id, switch_begun=True, unreached_after=unreached_after)
                for update in self._members
            ]
