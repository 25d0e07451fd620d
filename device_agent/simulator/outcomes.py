"""What comes of each step of an update on a simulated device, and how long it takes, as its `Course` says. Pure."""

from datetime import datetime
from typing import Any, Final

from device_agent import lifecycle
from device_agent.lifecycle import Outcome, Step
from device_agent.readiness import HOLD
from device_agent.reports import report
from device_agent.requirements import check_downgrade
from device_agent.sets import because_of
from device_agent.simulator.course import Course, manifest_of
from device_agent.steps.move import Move, leave
from device_agent.updates import Install, Release, Update, Waiting
from schemas.errors import DeviceError
from schemas.messages import Phase, Progress

PROGRESS_FROM_S: Final = 2.0
"""A fetch that takes so long says half-way how far it is."""

_ENDS: Final = {
    Phase.ACCEPTED: Outcome.REJECT,
    Phase.FETCHING: Outcome.FAIL,
    Phase.PROBATION: Outcome.GO_BACK,
}
"""How an update goes on that fails in a phase."""


def pause_s(row: Update, course: Course) -> float:
    """Seconds that the step takes which an update is at, or the half of it that is next."""
    match row.phase:
        case Phase.FETCHING:
            return course.fetch_s / 2 if course.fetch_s >= PROGRESS_FROM_S else course.fetch_s
        case Phase.STAGED | Phase.ROLLING_BACK:
            return course.switch_s
        case Phase.PROBATION:
            return course.probation_s
        case _:
            return 0.0


def is_half_way(row: Update, course: Course) -> bool:
    """Whether the pause that is over was the first half of a fetch of which that is told."""
    fails = course.failure is not None and course.failure.phase is Phase.FETCHING
    tells = course.fetch_s >= PROGRESS_FROM_S and not fails
    return tells and row.phase is Phase.FETCHING and row.fetched_bytes == 0


def outcome(row: Update, course: Course, install: Install | None, *, now: datetime, hold: bool) -> Move:
    """What comes of the step that an update is at.

    Args:
        course: how its version goes on this device.
        install: what is installed of its package.
        hold: whether the device is to start nothing.
    """
    failure = course.failure
    if failure is not None and failure.phase is row.phase and not row.goes_back:
        return Move(outcome=_ENDS[failure.phase], error=failure.error)
    match lifecycle.step_for(row.phase):
        case Step.WAIT:
            move = _wait_over(row, now, hold=hold)
        case Step.CHECK:
            move = _check(row, course, install, now, hold=hold)
        case Step.FETCH:
            move = _fetched(course)
        case Step.SWITCH:
            move = _switched(row, now)
        case Step.HEALTH:
            move = Move(outcome=Outcome.DONE, detail={"healthy_after_s": round(course.switch_s, 3)})
        case Step.ROLLBACK:
            move = _back(row)
        case _:
            move = Move(outcome=Outcome.DONE)
    return move


def together(steps: list[tuple[Update, Move]]) -> list[tuple[Update, Move]]:
    """The steps of a set's members, or of one update: where one goes back, all of them do."""
    culprit = next(((row, move) for row, move in steps if move.outcome is Outcome.GO_BACK), None)
    if culprit is None:
        return steps
    row, move = culprit
    others = Move(outcome=Outcome.GO_BACK, error=because_of(f"{row.package} {row.version}", move.error))
    return [step if step[1].outcome is Outcome.GO_BACK else (step[0], others) for step in steps]


def _wait_over(row: Update, now: datetime, *, hold: bool) -> Move:
    if hold:
        return _held(now)
    deadline = row.request.deadline
    if deadline is not None and now > deadline:
        late = DeviceError("conflict.deadline", f"{row.package} was to start by {deadline.isoformat()}")
        return Move(outcome=Outcome.REJECT, error=report(late))
    return Move(outcome=Outcome.DUE, changes={"not_before": None, "waiting": None})


def _check(row: Update, course: Course, install: Install | None, now: datetime, *, hold: bool) -> Move:
    if row.goes_back:
        return leave(row, install)
    if hold:
        return _held(now)
    try:
        check_downgrade(row.request, install)
    except DeviceError as error:
        return Move(outcome=Outcome.REJECT, error=report(error))
    manifest = manifest_of(row.package, row.version)
    before: dict[str, Any] = {"before": install}
    if install is not None and install.current.manifest == manifest:
        return Move(outcome=Outcome.DONE, detail={"already_installed": True}, changes=before)
    return Move(
        outcome=Outcome.START,
        progress=Progress(bytes_done=0, bytes_total=course.size),
        detail={"objects": 1 + course.size // 65_536},
        changes={**before, "manifest": manifest},
    )


def _fetched(course: Course) -> Move:
    return Move(
        outcome=Outcome.DONE,
        progress=Progress(bytes_done=course.size, bytes_total=course.size),
        detail={"route": "objects", "wire_bytes": course.size * 2 // 5},
    )


def _held(now: datetime) -> Move:
    waiting = Waiting(reason=HOLD, since=now)
    return Move(outcome=Outcome.DEFER, detail={"reason": HOLD}, changes={"waiting": waiting, "not_before": None})


def _switched(row: Update, now: datetime) -> Move:
    old = row.before.current if row.before else None
    new = Release(version=row.version, manifest=row.manifest or "", rollout=row.rollout, installed_at=now)
    install = Install(package=row.package, current=new, previous=old)
    return Move(outcome=Outcome.DONE, install=install, changes={"switch_begun": True})


def _back(row: Update) -> Move:
    target = row.comes_from
    if target is None:
        return Move(outcome=Outcome.DONE, uninstall=True)
    install = Install(package=row.package, current=target) if row.goes_back else row.before
    return Move(outcome=Outcome.DONE, install=install)
