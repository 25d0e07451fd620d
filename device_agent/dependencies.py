"""Waiting for packages that a release needs and that are on their way to this device. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from device_agent.lifecycle import Outcome
from device_agent.requirements import MissingPackageError
from device_agent.steps.move import Move
from device_agent.updates import Update, Waiting
from schemas.ranges import Range

REQUIRES: Final = "requires"
"""Why such an update is deferred."""
LONGEST_WAIT_S: Final = 7 * 86_400.0
"""What is on its way may itself wait for a window or the end of a hold; after this it is not waited for any more."""


def wait_for_package(
    error: MissingPackageError, update: Update, unfinished: Iterable[Update], now: datetime
) -> Move | None:
    """The move by which `update` waits for the package it lacks.

    None where that is not on its way, or not in time, or itself waits for this one: only a set brings both.
    """
    others = [one for one in unfinished if one.package != update.package and not _waits_for(one, update.package)]
    if not _is_on_its_way(error.package, error.wanted, others):
        return None
    before = update.waiting
    since = before.since if before is not None and before.reason == REQUIRES else now
    until = since + timedelta(seconds=LONGEST_WAIT_S)
    if now >= until:
        return None
    missing = f"{error.package} {error.wanted}"
    return Move(
        outcome=Outcome.DEFER,
        detail={"reason": REQUIRES, "missing": missing, "because": str(error), "until": until},
        changes={
            "not_before": until,
            "waiting": Waiting(reason=REQUIRES, since=since, until=until, line=missing),
        },
    )


def has_waited(update: Update, unfinished: Iterable[Update]) -> bool:
    """Whether what a deferred update waited for has come to its end, well or not, so that it is looked at again."""
    waiting = update.waiting
    if waiting is None or waiting.reason != REQUIRES or update.not_before is None:
        return False
    package, _, wanted = waiting.line.partition(" ")
    return not _is_on_its_way(package, wanted, unfinished)


def _waits_for(update: Update, package: str) -> bool:
    waiting = update.waiting
    return waiting is not None and waiting.reason == REQUIRES and waiting.line.partition(" ")[0] == package


def _is_on_its_way(package: str, wanted: str, unfinished: Iterable[Update]) -> bool:
    return any(
        update.package == package and not update.goes_back and Range(wanted).contains(update.version)
        for update in unfinished
    )
