"""What to make of a wish for a release, given what is installed, under way and behind. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from device_agent.lifecycle import Outcome
from device_agent.readiness import HOLD, NOT_READY, WINDOW
from device_agent.updates import Answer, Install, Origin, Update, UpdateRequest, Verdict, Waiting
from schemas.errors import DeviceError, FlotillaError
from schemas.messages import Phase

WAITING = frozenset({Phase.DEFERRED, Phase.ACCEPTED})
"""Phases in which nobody works on an update yet."""


LONGEST_RETRY_S = 600.0
"""Most that lies between two tries. A retry that is due later than that was timed by a clock that was ahead."""


LONGEST_LOOK_S = 3600.0
"""Most that lies between two looks at something that is waited for."""


class Judgement(NamedTuple):
    """What is to be done about a wish.

    Attributes:
        begin: how a new update begins; None where there is none.
        error: why it is rejected.
        same: the update that is this wish already.
        replaces: unfinished updates whose place it takes.
    """

    answer: Answer
    begin: Outcome | None = None
    error: FlotillaError | None = None
    same: Update | None = None
    replaces: tuple[Update, ...] = ()


def judge(
    request: UpdateRequest,
    *,
    install: Install | None,
    unfinished: Sequence[Update],
    verdict: Verdict | None,
    now: datetime,
) -> Judgement:
    """Decide on a wish to install a release.

    Args:
        install: what is installed of the package.
        unfinished: the package's updates without a last word.
        verdict: how the same rollout's release ended here before.
    """
    same = next((u for u in unfinished if is_same_wish(u.request, request)), None)
    if same is not None:
        return Judgement(Answer.UNDER_WAY, same=same)
    if verdict is not None:
        return Judgement(Answer.INSTALLED if verdict.phase is Phase.SUCCEEDED else Answer.GIVEN_UP)
    replaces = tuple(u for u in unfinished if can_be_replaced(u))
    if _is_installed(request, install) and len(replaces) == len(unfinished):
        return Judgement(Answer.INSTALLED, replaces=replaces)
    if request.deadline is not None and now > request.deadline:
        late = DeviceError(
            "conflict.deadline", f"{request.package} {request.version} was to start by {request.deadline.isoformat()}"
        )
        return Judgement(Answer.REJECTED, Outcome.REJECT, error=late)
    if request.not_before is not None and request.not_before > now:
        return Judgement(Answer.DEFERRED, Outcome.DEFER, replaces=replaces)
    return Judgement(Answer.ACCEPTED, Outcome.ACCEPT, replaces=replaces)


def is_same_wish(one: UpdateRequest, other: UpdateRequest) -> bool:
    """Whether both want the same release for the same rollout. When it may start is no part of it."""
    wanted = (one.package, one.version, one.rollout, one.origin, one.to)
    return wanted == (other.package, other.version, other.rollout, other.origin, other.to)


def can_be_replaced(update: Update) -> bool:
    """Whether an update may be dropped without a trace: nothing has been changed for it."""
    untouched = update.phase in (Phase.DEFERRED, Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED)
    return untouched and not update.switch_begun and not update.goes_back


def superseded(unfinished: Iterable[Update], rollout: str) -> list[Update]:
    """Of a package's updates those that stop when its channel announces this rollout: of others, and untouched."""
    return [u for u in unfinished if u.rollout not in (None, rollout) and can_be_replaced(u)]


def cancelled_anew(
    package: str, version: str, rollout: str, *, ended: str | None, history: Iterable[Update]
) -> UpdateRequest | None:
    """The wish to write down as cancelled where nothing of a rollout is under way; None where its end was told already.

    Args:
        ended: the update of which whoever asks knows how it ended, and has wanted another try since.
        history: the package's updates, newest first.
    """
    of_rollout = [update for update in history if update.rollout == rollout]
    if of_rollout and of_rollout[0].id != ended:
        return None
    unbegun = UpdateRequest(package=package, version=version, rollout=rollout)
    return next((update.request for update in of_rollout if not update.goes_back), unbegun)


def of_a_pin(unfinished: Iterable[Update]) -> list[Update]:
    """Of a package's updates those that stop when its pin is taken back: nothing else asked for them, and untouched."""
    return [u for u in unfinished if _is_pins(u.request) and can_be_replaced(u)]


def unpinned(package: str) -> DeviceError:
    """Why an update stops when the pin that asked for it is gone."""
    return DeviceError("conflict.cancelled", f"{package} is not pinned any more")


def superseded_by(package: str, version: str, update: Update) -> DeviceError:
    """Why an update stops when another version of its package is wanted."""
    return DeviceError("conflict.superseded", f"{package} {version} takes the place of {update.version}")


def choose(unfinished: Sequence[Update], *, now: datetime, hold: bool) -> Update | None:
    """The update to work on next: what has been started first, then who goes back, then the oldest that is due."""
    started = [u for u in unfinished if u.phase not in WAITING]
    going_back = [u for u in unfinished if u.goes_back]
    due = [u for u in unfinished if not (hold and is_held(u)) and _is_due(u, now)]
    return next(iter([*started, *going_back, *due]), None)


def wish_to_leave(install: Install, origin: Origin) -> UpdateRequest:
    """The wish to go back from what is installed to what was before."""
    current = install.current
    return UpdateRequest(package=install.package, version=current.version, rollout=current.rollout, origin=origin)


def is_held(update: Update) -> bool:
    """Whether nothing but the end of the hold is waited for."""
    return update.phase is Phase.DEFERRED and update.waiting is not None and update.waiting.reason == HOLD


def _is_pins(request: UpdateRequest) -> bool:
    return request.rollout is None and request.origin is Origin.ANNOUNCEMENT


def _is_due(update: Update, now: datetime) -> bool:
    if update.not_before is None or update.not_before <= now:
        return True
    if update.waiting is not None:
        return _was_ahead(update, update.waiting, now)
    return update.error is not None and (update.not_before - now).total_seconds() > LONGEST_RETRY_S


def _was_ahead(update: Update, waiting: Waiting, now: datetime) -> bool:
    """Whether the clock was ahead when it was said when to look again."""
    if waiting.reason == WINDOW:
        return (waiting.since - now).total_seconds() > LONGEST_RETRY_S
    looks_often = waiting.unfit_since is not None or waiting.reason == NOT_READY
    look_in_s = (update.not_before - now).total_seconds() if update.not_before else 0.0
    return looks_often and look_in_s > LONGEST_LOOK_S


def next_due(unfinished: Iterable[Update]) -> datetime | None:
    """When the first deferred update is due."""
    return min((u.not_before for u in unfinished if u.not_before is not None), default=None)


def _is_installed(request: UpdateRequest, install: Install | None) -> bool:
    if install is None or install.current.version != request.version or request.origin is Origin.REPAIR:
        return False
    return request.rollout is None or request.rollout == install.current.rollout
