"""The announcements as the database keeps them: one row a retained topic, the source of truth for the broker.

The revision belongs to the topic. It grows by one with every change, from one rollout to the next and after a
tombstone too, so that nobody ever takes an older announcement for a newer one.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, bindparam, func, select, update

from controller.database import reading, to_db, writing
from controller.fleet.sql import Insert, insert_of
from controller.rollouts.tables import announcements
from schemas.codec import MAX_PAYLOAD, encode
from schemas.errors import ContractError, OperatorError, one_line
from schemas.messages import Announcement, ReleaseState, RolloutPolicy, Targets
from schemas.names import wrong

ROOM: Final = 64
"""Bytes to leave free in a rollout's first announcement: later states have longer words, revisions more digits."""


_row = announcements.c
_OF_TOPIC: Final = (_row.channel == bindparam("channel"), _row.package == bindparam("package"))
_CURRENT: Final = select(_row.rollout).where(*_OF_TOPIC, _row.payload.is_not(None))
_REVISION: Final = select(_row.revision).where(*_OF_TOPIC).with_for_update()
_ALL: Final = select(announcements).order_by(_row.changed_at)
_CHANGED: Final = _ALL.where(_row.published_revision < _row.revision)
_TAKEN: Final = (
    update(announcements)
    .where(
        _row.channel == bindparam("of_channel"),
        _row.package == bindparam("of_package"),
        _row.published_revision < bindparam("taken"),
    )
    .values(published_revision=bindparam("taken"))
)


class Intention(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be announced of a rollout, whatever the revision will be."""

    rollout: str
    package: str
    version: str
    channel: str
    targets: Targets
    policy: RolloutPolicy
    repository: list[str]


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """What a release topic is to hold. `payload` is None where it is to be cleared."""

    channel: str
    package: str
    revision: int
    payload: bytes | None


def announce(connection: Connection, intention: Intention, state: ReleaseState, now: datetime, *, room: int = 0) -> int:
    """Make `intention` what its topic says from now on; returns the revision.

    Args:
        connection: in a writing transaction.
        intention: what to announce.
        state: in which state.
        now: the controller's clock.
        room: bytes that the message has to stay below the limit.

    Raises:
        OperatorError: `input.bad` where something breaks the contract, or is too large for a message.
    """
    revision = _next_revision(connection, intention.channel, intention.package)
    payload = checked(_message(intention, state, revision, now), room=room).decode()
    _write(
        connection,
        channel=intention.channel,
        package=intention.package,
        rollout=intention.rollout,
        revision=revision,
        payload=payload,
        now=now,
    )
    return revision


def check(intention: Intention, now: datetime) -> None:
    """Refuse what a rollout could not announce in each of its states; raises as `announce`, and writes nothing."""
    checked(_message(intention, ReleaseState.ACTIVE, 1, now), room=ROOM)


def withdraw(connection: Connection, channel: str, package: str, now: datetime) -> None:
    """Clear the topic: the package has left the channel."""
    rollout = current_rollout(connection, channel, package)
    if rollout is not None:
        revision = _next_revision(connection, channel, package)
        _write(
            connection,
            channel=channel,
            package=package,
            rollout=rollout,
            revision=revision,
            payload=None,
            now=now,
        )


def current_rollout(connection: Connection, channel: str, package: str) -> str | None:
    """The rollout that the topic tells of; None for a topic that is clear."""
    return connection.scalar(_CURRENT, {"channel": channel, "package": package})


def lock_clear(connection: Connection, channel: str, package: str) -> None:
    """Have a topic that tells of no rollout to oneself till the transaction ends: there is no row yet to lock.

    On PostgreSQL, where two rollouts could begin on it at once. SQLite has one writer at a time.
    """
    if connection.dialect.name == "postgresql" and current_rollout(connection, channel, package) is None:
        key = func.hashtextextended(f"flotilla {channel} {package}", 0)
        connection.execute(select(func.pg_advisory_xact_lock(key)))


def checked(message: Announcement, *, room: int = 0) -> bytes:
    """The message as bytes, after every rule of the contract was applied to it; `room` as for `announce`.

    Raises:
        OperatorError: `input.bad`, in one line that names the field.
    """
    try:
        payload = encode(message)
        msgspec.json.decode(payload, type=Announcement)
    except ContractError as error:
        raise OperatorError("input.bad", f"the announcement would be too large: {error}") from error
    except msgspec.ValidationError as error:
        raise OperatorError(
            "input.bad", f"the announcement would break the contract: {one_line(wrong(error))}"
        ) from error
    if len(payload) > MAX_PAYLOAD - room:
        raise OperatorError(
            "input.bad", f"the announcement would be too large: {len(payload)} bytes are over {MAX_PAYLOAD - room}"
        )
    return payload


class AnnouncementStore:
    """What the announcer reads and writes; synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def topics(self, *, changed_only: bool) -> list[TopicState]:
        """What the topics are to hold: all of them, or those that changed since they were published."""
        found = _CHANGED if changed_only else _ALL
        with reading(self._engine) as connection:
            return [
                TopicState(
                    channel=row["channel"],
                    package=row["package"],
                    revision=row["revision"],
                    payload=None if row["payload"] is None else row["payload"].encode(),
                )
                for row in connection.execute(found).mappings()
            ]

    def mark_published(self, states: Iterable[TopicState]) -> None:
        """The broker has taken these revisions."""
        for one in states:
            about = {"of_channel": one.channel, "of_package": one.package, "taken": one.revision}
            # one at a time: whoever changes several topics at once takes them in another order than the broker did
            with writing(self._engine) as connection:
                connection.execute(_TAKEN, about)


def _message(intention: Intention, state: ReleaseState, revision: int, now: datetime) -> Announcement:
    return Announcement(
        rollout=intention.rollout,
        revision=revision,
        package=intention.package,
        version=intention.version,
        channel=intention.channel,
        state=state,
        targets=intention.targets,
        policy=intention.policy,
        repository=intention.repository,
        published_at=now,
    )


def _next_revision(connection: Connection, channel: str, package: str) -> int:
    return (connection.scalar(_REVISION, {"channel": channel, "package": package}) or 0) + 1


def _write(connection: Connection, *, now: datetime, **values: str | int | None) -> None:
    row = {**values, "changed_at": to_db(now), "published_revision": 0}
    connection.execute(_written(connection.dialect.name), row)


@cache
def _written(dialect: str) -> Insert:
    statement = insert_of(dialect, announcements, [column.name for column in announcements.columns])
    changed = ("rollout", "revision", "payload", "changed_at")
    return statement.on_conflict_do_update(
        index_elements=[announcements.c.channel, announcements.c.package],
        set_={name: statement.excluded[name] for name in changed},
    )
