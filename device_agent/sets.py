"""Sets: releases that were announced together and are switched together, or not at all. Pure.

Nothing is kept about a set as such. Its members' updates carry its id, and all that follows is worked out from their
rows in the journal: each member is checked, fetched and staged by itself and waits in `staged`; from there on all move
with one and the same transaction until they have succeeded. A member that ends in another way, or goes back, takes the
others with it, whether this agent or the one before it saw that happen.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from device_agent.lifecycle import Outcome, allows
from device_agent.updates import Install, Update
from schemas.manifest import Manifest
from schemas.messages import ErrorReport, Phase, ReleaseSet

WAIT_S: Final = 600.0
"""How long a member waits for others that this device has not been told of: they are announced in the same moment."""

TOGETHER: Final = frozenset({Phase.STAGED, Phase.SWITCHED, Phase.PROBATION})
"""Phases in which the members of a set move together only."""

PASSING: Final = frozenset({"conflict.superseded", "conflict.halted", "conflict.deadline"})
"""Ends that say nothing about the release, and so nothing about the others of its set."""

_ENDS: Final[dict[Phase, Outcome]] = {
    Phase.REJECTED: Outcome.REJECT,
    Phase.CANCELLED: Outcome.CANCEL,
}
_LEAVING: Final = (Outcome.REJECT, Outcome.CANCEL, Outcome.FAIL)


class Members(NamedTuple):
    """What the journal knows of one set.

    Attributes:
        group: the set.
        live: updates without a last word.
        ended: the newest update of each other package, all of which have ended.
    """

    group: ReleaseSet
    live: tuple[Update, ...]
    ended: tuple[Update, ...]


class Waiting(NamedTuple):
    """Not all members are staged. `until` is when that is given up because some were never announced, if so."""

    until: datetime | None = None


class Ready(NamedTuple):
    """All members are staged, or beyond: they move together from here on."""

    members: tuple[Update, ...]


class Broken(NamedTuple):
    """The set cannot be taken: how each member that is left moves, and why."""

    moves: tuple[tuple[Update, Outcome, ErrorReport], ...]


def together(update: Update) -> bool:
    """Whether an update is a member that must not move by itself."""
    return update.request.group is not None and not update.goes_back and update.phase in TOGETHER


def group_members(unfinished: Iterable[Update], history: Iterable[Update]) -> list[Members]:
    """The sets that have members without a last word.

    Args:
        unfinished: updates without a last word.
        history: all updates, newest first.
    """
    live: dict[str, list[Update]] = {}
    for update in unfinished:
        if update.request.group is not None and not update.goes_back:
            live.setdefault(update.request.group.id, []).append(update)
    past = list(history) if live else []
    return [_members(updates, past) for updates in live.values()]


def judge(members: Members, installs: Mapping[str, Install], now: datetime) -> Waiting | Ready | Broken:
    """What is to be done about a set."""
    bad = [u for u in members.ended if u.phase is not Phase.SUCCEEDED]
    bad += [u for u in members.live if u.phase is Phase.ROLLING_BACK]
    if bad:
        # whoever went because of another one is not to blame
        culprit = next((u for u in bad if u.error is None or u.error.code != "conflict.set"), bad[0])
        return Broken(tuple(_left(members.live, culprit)))
    known = {update.package for update in (*members.live, *members.ended)}
    missing = [
        name
        for name, version in sorted(members.group.packages.items())
        if name not in known and not _runs(installs.get(name), version)
    ]
    if missing:
        until = max(update.created_at for update in members.live) + timedelta(seconds=WAIT_S)
        if now < until:
            return Waiting(until)
        return Broken(tuple(_not_announced(members, missing[0])))
    if all(update.phase in TOGETHER for update in members.live):
        return Ready(members.live)
    return Waiting()


def expected(group: ReleaseSet | None, installs: Mapping[str, Install]) -> dict[str, str]:
    """The versions beside which a release will run: those installed, or to be when its set has been switched to."""
    installed = {name: install.current.version for name, install in installs.items()}
    return installed | (group.packages if group else {})


def in_order(members: Sequence[Update], manifests: Mapping[str, Manifest]) -> list[Update]:
    """Whoever is required goes first; by name where nobody requires anybody, or all do each other."""
    waiting = {update.package: update for update in sorted(members, key=lambda update: update.package)}
    ordered: list[Update] = []
    while waiting:
        free = [name for name in waiting if not (set(manifests[name].requires.packages) & waiting.keys()) - {name}]
        ordered.append(waiting.pop(free[0] if free else next(iter(waiting))))
    return ordered


def because_of(culprit: str, error: ErrorReport | None) -> ErrorReport:
    """Why the others of a set do not go on, or go back."""
    why = f": {error.message}" if error else ""
    # what says nothing about the release must not be remembered against the others of its set either
    code = error.code if error and error.code in PASSING else "conflict.set"
    return ErrorReport(code=code, message=f"{culprit}, which belongs to the same set, was not taken{why}"[:4096])


def _members(live: list[Update], history: list[Update]) -> Members:
    group = live[0].request.group
    assert group is not None, "only members of sets are asked about"  # noqa: S101  # for the type checker
    names = {update.package for update in live}
    ended: dict[str, Update] = {}
    for update in history:
        other = update.request.group
        if other is not None and other.id == group.id and not update.goes_back:
            ended.setdefault(update.package, update)
    return Members(group, tuple(live), tuple(update for name, update in ended.items() if name not in names))


def _left(live: Iterable[Update], culprit: Update) -> Iterable[tuple[Update, Outcome, ErrorReport]]:
    error = because_of(f"{culprit.package} {culprit.version}", culprit.error)
    for update in live:
        if update.phase is not Phase.ROLLING_BACK:
            yield update, _way_out(update, _ENDS.get(culprit.phase or Phase.FAILED, Outcome.FAIL)), error


def _not_announced(members: Members, missing: str) -> Iterable[tuple[Update, Outcome, ErrorReport]]:
    name = f"{missing} {members.group.packages[missing]}"
    error = ErrorReport(code="conflict.set", message=f"{name}, which belongs to the same set, is not for this device")
    for update in members.live:
        yield update, _way_out(update, Outcome.REJECT), error


def _way_out(update: Update, wanted: Outcome) -> Outcome:
    """How a member ends, or goes back where something was changed for it."""
    if update.phase in (None, Phase.SWITCHED, Phase.PROBATION) or update.switch_begun:
        return Outcome.GO_BACK
    return next(outcome for outcome in (wanted, *_LEAVING) if allows(update.phase, outcome))


def _runs(install: Install | None, version: str) -> bool:
    return install is not None and install.current.version == version
