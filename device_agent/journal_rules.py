"""What the journal writes for each move of an update: rows, events and verdicts as values. Pure.

A journal keeps these in whatever way it keeps things: the agent's own in SQLite, a simulated device's in memory.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from device_agent import lifecycle
from device_agent.lifecycle import Outcome
from device_agent.reports import detail as clean_detail
from device_agent.updates import Install, Update, UpdateRequest, installation_phase
from schemas.messages import LAST_WORDS, ErrorReport, InstalledPackage, Phase, Progress, UpdateEvent

_GOING_BACK: Final = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK})
_FORGIVEN: Final = frozenset({"conflict.superseded", "conflict.halted", "conflict.deadline"})
"""Ends that say nothing about the release: hearing of it again is a new wish."""


def first_row(
    request: UpdateRequest,
    outcome: Outcome,
    *,
    update: str,
    at: datetime,
    before: Install | None,
    error: ErrorReport | None = None,
) -> Update:
    """A new update in its first phase.

    Args:
        outcome: one of `lifecycle.ENTRIES`.
        update: its id, UUIDv7.
        before: what is installed of the package.
        error: why it is rejected or cancelled.
    """
    phase = lifecycle.begin(outcome)
    return Update(
        id=update,
        request=request,
        phase=phase,
        created_at=at,
        changed_at=at,
        before=before,
        not_before=request.not_before if phase is Phase.DEFERRED else None,
        error=error,
    )


def first_detail(row: Update, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the first event of an update tells besides: who wants it, and what it waits for."""
    request = row.request
    because = {"reason": request.reason, "not_before": request.not_before} if row.not_before else {}
    return {"origin": request.origin.value, **because, **(more or {})}


def moved(
    row: Update,
    outcome: Outcome,
    *,
    at: datetime,
    error: ErrorReport | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Update:
    """The row after a move. A rollback keeps the error that caused it unless told otherwise.

    Raises:
        IllegalMoveError: the table has no such move.
    """
    phase = lifecycle.advance(row.phase, outcome)
    error = error or (row.error if phase in _GOING_BACK else None)
    fresh = {"restarts": 0} if outcome is Outcome.GO_BACK else {}
    return msgspec.structs.replace(row, **{**fresh, **(changes or {})}, phase=phase, changed_at=at, error=error)


def event_of(
    row: Update,
    phase: Phase,
    *,
    device: str,
    boot_id: str,
    seq: int,
    at: datetime,
    detail: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> UpdateEvent:
    """The event that tells of a row."""
    return UpdateEvent(
        device=device,
        boot_id=boot_id,
        seq=seq,
        update=row.id,
        rollout=row.rollout,
        attempt=row.attempt,
        package=row.package,
        version=row.version,
        from_version=row.from_version,
        phase=phase,
        at=at,
        progress=progress,
        error=row.error,
        detail=clean_detail(detail or {}),
    )


def is_verdict(row: Update) -> bool:
    """Whether the row says how its rollout's release ended here, so that hearing of it again changes nothing."""
    code = row.error.code if row.error else None
    forgiven = code in _FORGIVEN or (row.goes_back and row.phase not in (Phase.ROLLED_BACK, Phase.FAILED))
    return row.phase in LAST_WORDS and row.rollout is not None and not forgiven


def as_reported(install: Install, history: Iterable[Update]) -> InstalledPackage:
    """An installed package as `Reported.packages` has it.

    Args:
        history: the package's updates, newest first.
    """
    return InstalledPackage(
        version=install.current.version,
        manifest=install.current.manifest,
        installed_at=install.current.installed_at,
        previous=install.previous.version if install.previous else None,
        phase=installation_phase(install, history),
        rollout=install.current.rollout,
    )
