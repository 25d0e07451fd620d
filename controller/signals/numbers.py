"""Numbers about the fleet for a scrape: a handful of grouped queries, each by an index or over one small table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, select

from controller.database import reading, to_db
from controller.fleet.tables import commands, desired, device_packages, devices
from controller.notify.tables import notifications
from controller.rollouts.plan import ENDED, RolloutState
from controller.rollouts.tables import announcements, rollout_devices, rollouts

MAX_VERSIONS: Final = 500
"""Pairs of package and version that get a series of their own: those of most devices first."""

MAX_ROLLOUTS: Final = 50
"""Announced rollouts that get series of their own: the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutNumbers:
    """One rollout that is announced. `verdicts` and `phases` map a word to the number of devices that it is true of."""

    rollout: str
    package: str
    version: str
    channel: str
    verdicts: Mapping[str, int]
    phases: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNumbers:
    """The state of the database at one moment.

    Attributes:
        channels: devices by channel; the empty one for those that have reported none.
        installed: devices by package and version, at most `MAX_VERSIONS` pairs.
        rollouts: by state; each state is there.
        announced: at most `MAX_ROLLOUTS`.
        unpublished: by kind, what the broker, or a target of notifications, has not taken yet.
        incomplete: devices that have events which are not here; `missing` is how many events.
    """

    devices: int
    online: int
    channels: Mapping[str, int]
    installed: Mapping[tuple[str, str], int]
    rollouts: Mapping[str, int]
    announced: tuple[RolloutNumbers, ...]
    unpublished: Mapping[str, int]
    incomplete: int
    missing: int


def read_numbers(engine: Engine, now: datetime) -> FleetNumbers:
    """All numbers, from one state of the database. Raises `OperatorError` (`data.bad`) where it cannot be read."""
    with reading(engine) as connection:
        gaps = [json.loads(text) for text in connection.scalars(select(devices.c.missing).where(_INCOMPLETE))]
        by_state = _counts(connection, select(rollouts.c.state, func.count()).group_by(rollouts.c.state))
        channel = func.coalesce(devices.c.channel, "")
        return FleetNumbers(
            devices=_count(connection, select(func.count()).select_from(devices)),
            online=_count(connection, select(func.count()).select_from(devices).where(devices.c.online)),
            channels=_counts(connection, select(channel, func.count()).group_by(channel)),
            installed=_installed(connection),
            rollouts={state.value: by_state.get(state.value, 0) for state in RolloutState},
            announced=_announced(connection),
            unpublished=_unpublished(connection, now),
            incomplete=len(gaps),
            missing=sum(last - first + 1 for some in gaps for first, last in some),
        )


_INCOMPLETE: Final = devices.c.missing.is_not(None)


def _installed(connection: Connection) -> dict[tuple[str, str], int]:
    there, count = device_packages.c, func.count()
    found = (
        select(there.package, there.version, count)
        .group_by(there.package, there.version)
        .order_by(count.desc(), there.package, there.version)
        .limit(MAX_VERSIONS)
    )
    return {(package, version): number for package, version, number in connection.execute(found)}


def _announced(connection: Connection) -> tuple[RolloutNumbers, ...]:
    newest = (
        select(rollouts.c.id, rollouts.c.package, rollouts.c.version, rollouts.c.channel)
        .where(rollouts.c.state.not_in([state.value for state in ENDED]))
        .order_by(rollouts.c.id.desc())
        .limit(MAX_ROLLOUTS)
    )
    rows = connection.execute(newest).all()
    word = rollout_devices.c
    counted = (
        select(word.rollout, word.verdict, word.phase, func.count())
        .where(word.rollout.in_([row.id for row in rows]))
        .group_by(word.rollout, word.verdict, word.phase)
    )
    verdicts: dict[str, dict[str, int]] = {row.id: {} for row in rows}
    phases: dict[str, dict[str, int]] = {row.id: {} for row in rows}
    for rollout, verdict, phase, number in connection.execute(counted):
        for kept, value in ((verdicts[rollout], verdict), (phases[rollout], phase)):
            if value is not None:
                kept[value] = kept.get(value, 0) + number
    return tuple(
        RolloutNumbers(
            rollout=row.id,
            package=row.package,
            version=row.version,
            channel=row.channel,
            verdicts=verdicts[row.id],
            phases=phases[row.id],
        )
        for row in rows
    )


def _unpublished(connection: Connection, now: datetime) -> dict[str, int]:
    waits = {
        "announcements": select(func.count())
        .select_from(announcements)
        .where(announcements.c.published_revision < announcements.c.revision),
        "desired": select(func.count()).select_from(desired).where(desired.c.published_rev < desired.c.rev),
        "commands": select(func.count())
        .select_from(commands)
        .where(commands.c.sent_at.is_(None), commands.c.expires_at > to_db(now)),
        "notifications": select(func.count()).select_from(notifications).where(notifications.c.due_at.is_not(None)),
    }
    return {kind: _count(connection, question) for kind, question in waits.items()}


def _count(connection: Connection, question: Any) -> int:
    return connection.scalar(question) or 0


def _counts(connection: Connection, question: Any) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(question)}
