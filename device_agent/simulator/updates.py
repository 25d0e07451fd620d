"""Takes the UpdateManager's place on a simulated device: the same wishes and moves, timed steps instead of a disk.

What is to be done is the agent's own answer (`wishes`, `lifecycle`, `sets`, `check_downgrade`); what a step would do
to a disk is a pause, and then comes out as the device's `Course` says. It works on one thing at a time, and needs no
task of its own: a timer of the event loop leads from one step to the next.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from device_agent import lifecycle, wishes
from device_agent.lifecycle import Outcome
from device_agent.reports import report
from device_agent.sets import Broken, Members, Ready, group_members, judge, together
from device_agent.simulator import outcomes
from device_agent.simulator.course import Course
from device_agent.simulator.memory import MemoryJournal
from device_agent.steps.move import Move
from device_agent.updates import (
    Answer,
    Cancelled,
    Origin,
    Submitted,
    Update,
    UpdateRequest,
)
from schemas.errors import DeviceError, FlotillaError, OperatorError
from schemas.ids import uuid7
from schemas.messages import LAST_WORDS, Phase, Progress
from schemas.versions import parse

_BREATH_S: Final = 0.05
_SHORTEST_S: Final = 0.001
_CHANGED: Final = frozenset({Phase.SWITCHED, Phase.PROBATION})


class SimulatedUpdates:
    """See the module. For one event loop.

    Args:
        course: how a package's version will go on this device.
        now: the time of day.
        random_bytes: for ids.
        fall_silent: called when the device is not to be heard of any more.
    """

    __slots__ = ("_course", "_ended", "_fall_silent", "_held", "_journal", "_now", "_random_bytes", "_timer")

    def __init__(
        self,
        journal: MemoryJournal,
        *,
        course: Callable[[str, str], Course],
        now: Callable[[], datetime],
        random_bytes: Callable[[int], bytes],
        fall_silent: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._course = course
        self._now = now
        self._random_bytes = random_bytes
        self._fall_silent = fall_silent
        self._held = False
        self._ended = False
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None

    def end(self) -> None:
        """Work on nothing any more."""
        self._ended = True
        self._stop_timer()

    async def submit(self, request: UpdateRequest) -> Submitted:
        """As `UpdateManager.submit`."""
        parse(request.version)
        verdict = None
        if request.rollout is not None:
            verdict = self._journal.verdict(request.package, request.rollout, request.version)
        judgement = wishes.judge(
            request,
            install=self._journal.installs().get(request.package),
            unfinished=self._unfinished(request.package),
            verdict=verdict,
            now=self._now(),
        )
        if judgement.same is not None:
            self._reschedule(judgement.same, request)
            return Submitted(answer=judgement.answer, update=judgement.same.id)
        for update in judgement.replaces:
            self._stop(update, wishes.superseded_by(request.package, request.version, update))
        if judgement.begin is None:
            return Submitted(answer=judgement.answer)
        begun = self._begin(request, judgement.begin, judgement.error)
        return Submitted(answer=judgement.answer, update=begun)

    async def cancel(
        self, package: str, *, rollout: str | None = None, version: str | None = None, ended: str | None = None
    ) -> Cancelled:
        """As `UpdateManager.cancel`."""
        error = DeviceError("conflict.cancelled", f"the update of {package} was cancelled")
        unfinished = [update for update in self._unfinished(package) if rollout in (None, update.rollout)]
        stopped = [self._stop(update, error) for update in unfinished]
        if rollout is not None and version is not None and not unfinished:
            parse(version)
            history = self._journal.history(package)
            unbegun = wishes.cancelled_anew(package, version, rollout, ended=ended, history=history)
            if unbegun is not None:
                self._begin(unbegun, Outcome.CANCEL, error)
                return Cancelled.CANCELLED
        if any(stopped):
            return Cancelled.CANCELLED
        return Cancelled.TOO_LATE if stopped else Cancelled.NOTHING

    async def rollback(self, package: str) -> str:
        """As `UpdateManager.rollback`."""
        wish = f"the operator wants {package} to go back"
        undone = self._undo(lambda u: u.package == package, DeviceError("conflict.cancelled", wish))
        if undone:
            return undone[0]
        unfinished = self._unfinished(package)
        going_back = next((u for u in unfinished if u.goes_back), None)
        if going_back is not None:
            return going_back.id
        install = self._journal.installs().get(package)
        if install is None or install.previous is None:
            raise OperatorError("release.unknown", f"{package} has no previous release to go back to")
        for update in unfinished:
            self._stop(update, DeviceError("conflict.superseded", wish))
        return self._begin(wishes.wish_to_leave(install, Origin.ROLLBACK), Outcome.ACCEPT)

    async def retry(self, package: str, *, any_size: bool = False, rollout: str | None = None) -> Submitted | None:
        """As `UpdateManager.retry`; how large a release is does not matter here."""
        del any_size
        history = self._journal.history(package)
        wanted = next((u for u in history if not u.goes_back), None)
        if wanted is None or history[0].phase is Phase.SUCCEEDED or rollout not in (None, wanted.rollout):
            return None
        if wanted.was_never_begun:
            return None
        if wanted.phase is Phase.DEFERRED:
            self._journal.change(wanted.id, not_before=None)
            self._look()
            return Submitted(answer=Answer.UNDER_WAY, update=wanted.id)
        self._journal.forgive(package)
        return await self.submit(wanted.request)

    async def supersede(self, package: str, version: str, rollout: str) -> None:
        """As `UpdateManager.supersede`."""
        for update in wishes.superseded(self._unfinished(package), rollout):
            self._stop(update, wishes.superseded_by(package, version, update))

    async def unpin(self, package: str) -> None:
        """As `UpdateManager.unpin`."""
        for update in wishes.of_a_pin(self._unfinished(package)):
            self._stop(update, wishes.unpinned(package))

    async def pause(self, rollout: str) -> None:
        """As `UpdateManager.pause`."""
        for update in self._journal.unfinished():
            waits = update.phase in wishes.WAITING and not update.staged
            if update.rollout == rollout and waits and not update.goes_back:
                self._stop(update, DeviceError("conflict.halted", "the rollout does not go on"))

    async def halt(self, rollout: str, reason: str) -> None:
        """As `UpdateManager.halt`."""
        self._stop_all(rollout, DeviceError("conflict.halted", reason))

    async def revert(self, rollout: str) -> list[str]:
        """As `UpdateManager.revert`."""
        error = DeviceError("conflict.reverted", "the rollout was reverted")
        begun = self._undo(lambda u: u.rollout == rollout, error)
        self._stop_all(rollout, error)
        busy = {u.package for u in self._journal.unfinished() if u.goes_back or u.rollout == rollout}
        for package, install in self._journal.installs().items():
            if install.current.rollout == rollout and package not in busy:
                begun.append(self._begin(wishes.wish_to_leave(install, Origin.REVERT), Outcome.ACCEPT))
        return begun

    def hold(self, on: bool) -> None:
        """As `UpdateManager.hold`."""
        self._held = on
        self._look()

    def _unfinished(self, package: str) -> list[Update]:
        return [update for update in self._journal.unfinished() if update.package == package]

    def _begin(self, request: UpdateRequest, outcome: Outcome, error: FlotillaError | None = None) -> str:
        now = self._now()
        update = uuid7(int(now.timestamp() * 1000), self._random_bytes(10))
        self._journal.begin(request, outcome, update=update, at=now, error=report(error) if error else None)
        self._look()
        return update

    def _reschedule(self, update: Update, request: UpdateRequest) -> None:
        waits = update.phase is Phase.DEFERRED and update.error is None and update.waiting is None
        if not waits or update.not_before == request.not_before:
            return
        due = request.not_before or self._now()
        changes = {"request": request, "not_before": due}
        detail = {"reason": request.reason, "not_before": due}
        self._move(update, Move(outcome=Outcome.DEFER, detail=detail, changes=changes))
        self._look()

    def _stop(self, update: Update, error: FlotillaError) -> bool:
        if update.switch_begun or not lifecycle.allows(update.phase, Outcome.CANCEL):
            return False
        self._move(update, Move(outcome=Outcome.CANCEL, error=report(error)))
        self._look()
        return True

    def _stop_all(self, rollout: str, error: DeviceError) -> None:
        for update in self._journal.unfinished():
            if update.rollout == rollout and not update.goes_back:
                self._stop(update, error)

    def _undo(self, mine: Callable[[Update], bool], error: FlotillaError) -> list[str]:
        changed = [u for u in self._journal.unfinished() if mine(u) and u.phase in _CHANGED and not u.goes_back]
        for update in changed:
            self._move(update, Move(outcome=Outcome.GO_BACK, error=report(error)))
        self._look()
        return [update.id for update in changed]

    def _look(self) -> None:
        """Choose what is next, and begin its pause; whatever was waited for before is not any more."""
        self._pause(self._following())

    def _pause(self, following: tuple[float, tuple[str, ...]] | None) -> None:
        self._stop_timer()
        if following is not None:
            loop, (seconds, ids) = asyncio.get_running_loop(), following
            if seconds > 0:
                self._timer = loop.call_later(seconds, self._work, ids)
            else:
                self._timer = loop.call_soon(self._work, ids)

    def _following(self) -> tuple[float, tuple[str, ...]] | None:
        """Seconds until the next step, and the updates that it is about: none where it is only to look again."""
        while not self._ended:
            rows = self._journal.unfinished()
            if not rows:
                break
            now, broken = self._now(), False
            for members in self._sets(rows):
                match judge(members, self._journal.installs(), now):
                    case Broken(moves) if moves:
                        for update, outcome, why in moves:
                            self._move(update, Move(outcome=outcome, error=why))
                        broken = True
                        break
                    case Ready(ready):
                        return self._pause_of(ready[0]), tuple(row.id for row in ready)
                    case _:
                        pass
            if broken:
                continue
            alone = [row for row in rows if not together(row)]
            chosen = wishes.choose(alone, now=now, hold=self._held)
            if chosen is not None:
                return self._pause_of(chosen), (chosen.id,)
            due = wishes.next_due(alone)
            if due is not None:
                return min(max((due - now).total_seconds(), _SHORTEST_S), wishes.LONGEST_LOOK_S), ()
            break
        return None

    def _sets(self, rows: Sequence[Update]) -> list[Members]:
        if all(row.request.group is None for row in rows):
            return []
        return group_members(rows, [u for name in {row.package for row in rows} for u in self._journal.history(name)])

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause_of(self, row: Update) -> float:
        return outcomes.pause_s(row, self._course(row.package, row.version))

    def _work(self, ids: tuple[str, ...]) -> None:
        """The pause of a step is over: what comes of it, and of the steps that follow it without a pause."""
        following: tuple[float, tuple[str, ...]] | None = (0.0, ids)
        while following is not None and following[0] <= 0:
            if not self._step(following[1]):
                return
            following = self._following()
        self._pause(following)

    def _step(self, ids: tuple[str, ...]) -> bool:
        """False where the device falls silent."""
        now = self._now()
        steps: list[tuple[Update, Move]] = []
        for update in ids:
            row = self._journal.get(update)
            if row is None or row.phase in LAST_WORDS:
                continue
            course = self._course(row.package, row.version)
            if course.silent and row.phase is Phase.FETCHING:
                self._fall_silent_soon()
                return False
            if outcomes.is_half_way(row, course):
                half = course.size // 2
                self._journal.change(row.id, fetched_bytes=half)
                self._journal.tell(row.id, at=now, progress=Progress(bytes_done=half, bytes_total=course.size))
                continue
            install = self._journal.installs().get(row.package)
            steps.append((row, outcomes.outcome(row, course, install, now=now, hold=self._held)))
        for row, move in outcomes.together(steps):
            self._move(row, move, now)
        return True

    def _fall_silent_soon(self) -> None:
        """As soon as what was said so far has come through."""
        if self._journal.all_sent():
            self.end()
            self._fall_silent()
        elif not self._ended:
            self._timer = asyncio.get_running_loop().call_later(_BREATH_S, self._fall_silent_soon)

    def _move(self, row: Update, move: Move, at: datetime | None = None) -> None:
        self._journal.advance(
            row.id,
            move.outcome,
            at=at or self._now(),
            error=move.error,
            detail=move.detail,
            progress=move.progress,
            changes=move.changes,
            install=move.install,
            uninstall=move.uninstall,
        )
