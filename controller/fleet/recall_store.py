"""Takes over what the controller said and its database does not know, because it was put back from a backup.

`docs/oddities.md` says what that means for people. Rollout ids are UUIDv7 and sort by time, so of two rollouts on one
topic the later one is what somebody wanted last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update

from controller.database import to_db, writing
from controller.fleet.orders import SESSIONS
from controller.fleet.sql import insert_into, time_of
from controller.fleet.tables import counters, desired, devices
from controller.rollouts import announcing
from controller.rollouts.catching_up import caught_up
from controller.rollouts.engine import resumed
from controller.rollouts.evaluating import current_row, row_of
from controller.rollouts.judging import Judge
from controller.rollouts.keeping import intention_of, plan_of, save
from controller.rollouts.observing import observe, write_marks
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import announcements, rollouts
from controller.rollouts.taking_back import note_cancel
from schemas.messages import Announcement, Desired, ReleaseState

_STRICTER: Final = (
    RolloutState.ACTIVE,
    RolloutState.COMPLETE,
    RolloutState.PAUSED,
    RolloutState.HALTED,
    RolloutState.REVERTED,
)
"""States of a rollout that is announced, each with fewer who may start, or stay, than the one before."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A release that the controller has announced, with the payload as it is retained."""

    announcement: Announcement
    payload: str

    def __str__(self) -> str:
        return f"{self.announcement.package} on channel {self.announcement.channel}"


@dataclass(frozen=True, slots=True)
class Told:
    """What it has told one device, with the payload as it is retained."""

    device: str
    desired: Desired
    payload: str

    def __str__(self) -> str:
        return f"device {self.device}"


@dataclass(frozen=True, slots=True)
class Greeted:
    """The number of one of its connections."""

    session: int

    def __str__(self) -> str:
        return f"the controller's session {self.session}"


Said = Announced | Told | Greeted
"""Something that the controller has said; as text what it is about, for a person."""


@dataclass(slots=True)
class Recalled:
    """What was not in the database.

    Attributes:
        lines: what to tell the operator.
        rollouts: ids of rollouts to look at.
        channels: channels with devices that were told something.
    """

    lines: list[str] = field(default_factory=list)
    rollouts: set[str] = field(default_factory=set)
    channels: set[str] = field(default_factory=set)

    @property
    def changed(self) -> bool:
        """Whether there was anything."""
        return bool(self.lines)


class RecallStore:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def keeps_what_it_took(self) -> bool:
        """Whether what was committed stays while this process runs; a server may be exchanged for its replica."""
        return self._engine.dialect.name == "sqlite"

    def learn(self, said: Sequence[Said], now: datetime) -> Recalled:
        """Take over what is newer than the database, all of it or nothing; most often that is nothing."""
        recalled = Recalled()
        with writing(self._engine) as connection:
            for one in said:
                match one:
                    case Announced(announcement, payload):
                        _announcement(connection, announcement, payload, now, recalled)
                    case Told():
                        _desired(connection, one, now, recalled)
                    case Greeted(session):
                        _session(connection, session)
        return recalled


def _announcement(connection: Connection, said: Announcement, payload: str, now: datetime, recalled: Recalled) -> None:
    current_row(connection, said.channel, said.package)
    key = (announcements.c.channel == said.channel, announcements.c.package == said.package)
    row = connection.execute(select(announcements).where(*key).with_for_update()).mappings().first()
    known = row["revision"] if row else 0
    if said.revision < known or (row is not None and said.revision == known and row["payload"] == payload):
        return
    if row is not None:
        connection.execute(update(announcements).where(*key).values(revision=said.revision))
    what = f"revision {said.revision} of {said.package} on channel {said.channel}, the database knows {known}"
    recalled.rollouts.add(said.rollout)
    if row is None or row["rollout"] < said.rollout:
        _adopt(connection, said, payload, now)
        if row is not None:
            recalled.rollouts.add(row["rollout"])
        recalled.lines.append(
            f"the broker holds {what}: taken over as rollout {said.rollout} ({said.version}, {said.state})"
        )
        return
    current = row_of(connection, row["rollout"])
    if row["payload"] is None or current is None:
        # cleared since: the topic's next revision is to be empty too
        connection.execute(update(announcements).where(*key).values(revision=said.revision + 1))
    else:
        if row["rollout"] == said.rollout:
            _catch_up(connection, current, said, now, unheard=row["published_revision"] < known)
        _announce_again(connection, row["rollout"], now)
    recalled.lines.append(f"the broker holds {what}: what the database says is announced again with a later one")


def _adopt(connection: Connection, said: Announcement, payload: str, now: datetime) -> None:
    """Make what is announced a rollout of this database, in place of what it took to be announced."""
    before = announcing.current_rollout(connection, said.channel, said.package)
    if before is not None:
        _set_state(connection, before, RolloutState.SUPERSEDED, now)
    there = connection.scalar(select(rollouts.c.id).where(rollouts.c.id == said.rollout))
    if there is None:
        connection.execute(
            insert(rollouts).values(
                id=said.rollout,
                package=said.package,
                version=said.version,
                channel=said.channel,
                state=said.state.value,
                targets=_json(said.targets),
                policy=_json(said.policy),
                repository=_json(said.repository),
                revision=said.revision,
                created_at=time_of(said.published_at),
                changed_at=to_db(now),
            )
        )
    else:
        _set_state(connection, said.rollout, RolloutState(said.state.value), now)
    kept = {"rollout": said.rollout, "revision": said.revision, "payload": payload}
    statement = insert_into(connection, announcements).values(
        channel=said.channel,
        package=said.package,
        changed_at=to_db(now),
        published_revision=said.revision,
        **kept,
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[announcements.c.channel, announcements.c.package],
            set_={name: statement.excluded[name] for name in (*kept, "changed_at", "published_revision")},
        )
    )


def _catch_up(connection: Connection, row: Any, said: Announcement, now: datetime, *, unheard: bool) -> None:
    """The same rollout, farther on than the database knows: it goes on from there, and not where it was stopped since.

    Args:
        connection: in a writing transaction.
        row: of the rollout.
        said: its announcement.
        now: the controller's clock.
        unheard: whether the broker does not know what the database said last: that may be later, so the stricter of the
            two holds.
    """
    before = plan_of(row)
    observed = observe(connection, before, channel=row["channel"], package=row["package"])
    plan = caught_up(before, said.targets, observed.observations, now)
    went_on = said.state in (ReleaseState.ACTIVE, ReleaseState.COMPLETE) or plan.progress != before.progress
    if went_on:
        # whatever it was stopped for, somebody has gone on in spite of that
        plan, going = resumed(replace(plan, state=RolloutState.ACTIVE), observed.observations, now)
        judge = Judge(plan, now)
        write_marks(connection, said.rollout, observed, {one.device: judge.mark(one) for one in going})
        note_cancel(connection, said.rollout, None)
    state, excluded = RolloutState(said.state.value), {*said.targets.exclude}
    if unheard:
        state, excluded = max(state, before.state, key=_STRICTER.index), excluded | {*before.base.exclude}
    base = msgspec.structs.replace(plan.base, exclude=sorted(excluded))
    save(connection, row, replace(plan, state=state, base=base), now, None)


def _announce_again(connection: Connection, rollout: str, now: datetime) -> None:
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().one()
    revision = announcing.announce(connection, intention_of(row), ReleaseState(row["state"]), now)
    connection.execute(update(rollouts).where(rollouts.c.id == rollout).values(revision=revision))


def _desired(connection: Connection, told: Told, now: datetime, recalled: Recalled) -> None:
    device, said, payload = told.device, told.desired, told.payload
    row = connection.execute(select(desired).where(desired.c.device == device).with_for_update()).mappings().first()
    known = row["rev"] if row else 0
    if said.rev < known or (row is not None and said.rev == known and row["payload"] == payload):
        return
    values = {"rev": said.rev, "payload": payload, "changed_at": to_db(now), "published_rev": said.rev}
    if row is not None and said.rev == known:
        # both were said after the backup; the database's is the later one
        ours = msgspec.structs.replace(msgspec.json.decode(row["payload"], type=Desired), rev=known + 1)
        values = {**values, "rev": known + 1, "payload": _json(ours), "published_rev": known}
    statement = insert_into(connection, desired).values(device=device, **values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[desired.c.device], set_={name: statement.excluded[name] for name in values}
        )
    )
    channel = connection.scalar(select(devices.c.channel).where(devices.c.id == device))
    recalled.channels |= {channel} if channel else set()
    recalled.lines.append(
        f"the broker holds revision {said.rev} of what device {device} was told, the database {known}"
    )


def _session(connection: Connection, session: int) -> None:
    """The controller's next connection has a higher number than any before."""
    key = counters.c.name == SESSIONS
    if (connection.scalar(select(counters.c.value).where(key)) or 0) < session:
        connection.execute(update(counters).where(key).values(value=session))


def _set_state(connection: Connection, rollout: str, state: RolloutState, now: datetime) -> None:
    changed = update(rollouts).where(rollouts.c.id == rollout)
    connection.execute(changed.values(state=state.value, changed_at=to_db(now)))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
