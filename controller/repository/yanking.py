"""Withdraws releases from being chosen, and keeps what was done to which release, when and why."""

from datetime import datetime

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from controller.database import from_db, reading, to_db, writing
from controller.repository.tables import STORED, release_history, releases
from controller.repository.unknown import unknown_release
from schemas.errors import OperatorError

MAX_REASON = 1000
"""Characters."""


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done to a version: `yanked`, `unyanked`, `deleted` or `imported`."""

    package: str
    version: str
    action: str
    reason: str
    at: datetime


class Yanking:
    """The yanked versions of one database. Holds no state; safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def yank(self, package: str, version: str, reason: str, now: datetime) -> None:
        """Let nobody choose a version any more, on all platforms; with a new reason for one that is yanked already.

        Raises:
            PublisherError: `release.unknown`.
            OperatorError: `input.bad`, for a reason that is too long or more than a line.
        """
        if len(reason) > MAX_REASON or (reason and not reason.isprintable()):
            raise OperatorError("input.bad", f"the reason is to be one line of at most {MAX_REASON} characters")
        with writing(self._engine) as connection:
            known = _yanked(connection, package, version)
            if known == [True] and not reason:
                return
            values = {"yank_reason": reason} if known == [True] else {"yank_reason": reason, "yanked_at": to_db(now)}
            connection.execute(update(releases).where(*_is(package, version)).values(**values))
            note(connection, package, version, "yanked", reason=reason, now=now)

    def undo(self, package: str, version: str, reason: str, now: datetime) -> None:
        """Let a version be chosen again; nothing happens to one that is not yanked. Raises as `yank`."""
        with writing(self._engine) as connection:
            if _yanked(connection, package, version) == [False]:
                return
            values = {"yank_reason": None, "yanked_at": None}
            connection.execute(update(releases).where(*_is(package, version)).values(**values))
            note(connection, package, version, "unyanked", reason=reason, now=now)

    def history(self, package: str, version: str, limit: int = 100) -> list[HistoryEntry]:
        """What was done to a version, newest first."""
        c = release_history.c
        query = select(release_history).where(c.package == package, c.version == version).order_by(c.id.desc())
        with reading(self._engine) as connection:
            return [
                HistoryEntry(
                    package=row.package, version=row.version, action=row.action, reason=row.reason, at=from_db(row.at)
                )
                for row in connection.execute(query.limit(limit))
            ]


def note(connection: Connection, package: str, version: str, action: str, *, reason: str, now: datetime) -> None:
    """Write down what is done to a version, in the transaction that does it."""
    row = {"package": package, "version": version, "action": action, "reason": reason, "at": to_db(now)}
    connection.execute(insert(release_history).values(**row))


def _is(package: str, version: str) -> tuple[ColumnElement[bool], ...]:
    return releases.c.package == package, releases.c.version == version, releases.c.state == STORED


def _yanked(connection: Connection, package: str, version: str) -> list[bool]:
    """[True], [False], or both where platforms differ: one was pushed after the version was yanked."""
    found = {at is not None for at in connection.scalars(select(releases.c.yanked_at).where(*_is(package, version)))}
    if not found:
        raise unknown_release(connection, package, version)
    return sorted(found)
