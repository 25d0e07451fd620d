"""What the channels of packages point at, and what they pointed at before."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, bindparam, delete, insert, select, update

from controller.database import from_db, reading, to_db, writing
from controller.repository.records import ChannelEntry
from controller.repository.tables import STORED, channel_history, channels, releases
from controller.repository.unknown import unknown_release
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.names import CHANNEL_PATTERN, matches

_CURRENT: Final = select(channels).where(
    channels.c.package == bindparam("package"), channels.c.channel == bindparam("channel")
)
_OF_VERSION: Final = (
    releases.c.package == bindparam("package"),
    releases.c.version == bindparam("version"),
    releases.c.state == STORED,
)
_ANY_STORED: Final = select(releases.c.id).where(*_OF_VERSION).limit(1)
_ANY_YANKED: Final = select(releases.c.yank_reason).where(*_OF_VERSION, releases.c.yanked_at.is_not(None)).limit(1)


class Channels:
    """The channels of one database. Holds no state; safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(self, package: str, version: str, channel: str, now: datetime, *, yanked: bool = False) -> None:
        """Point a channel at a version that is stored for at least one platform; pointing there again does nothing.

        Args:
            yanked: even at one that was yanked, to have things as they were before.

        Raises:
            OperatorError: `input.bad`, for a text that is no channel's name.
            PublisherError: `release.unknown`, or `release.yanked`.
        """
        if not matches(CHANNEL_PATTERN, channel):
            raise OperatorError("input.bad", f"{one_line(channel, 60)!r} is not a channel: write a-z, 0-9 and -")
        with writing(self._engine) as connection:
            if not _is_stored(connection, package, version):
                raise unknown_release(connection, package, version, advice="push it first")
            if not yanked:
                _refuse_yanked(connection, package, version)
            current = _current(connection, package, channel)
            if current is not None and current.version == version:
                return
            values = {"version": version, "set_at": to_db(now)}
            if current is None:
                connection.execute(insert(channels).values(package=package, channel=channel, **values))
            else:
                connection.execute(update(channels).where(*_is(package, channel)).values(**values))
            connection.execute(insert(channel_history).values(package=package, channel=channel, **values))

    def unset(self, package: str, channel: str, now: datetime) -> bool:
        """Take a channel back; whether it pointed anywhere."""
        with writing(self._engine) as connection:
            return _unset(connection, package, channel, now)

    def version(self, package: str, channel: str) -> str | None:
        """What a channel points at."""
        with reading(self._engine) as connection:
            row = _current(connection, package, channel)
        return row.version if row is not None else None

    def all(self, package: str | None = None) -> list[ChannelEntry]:
        """What all channels point at, sorted by package and channel."""
        query = select(channels).order_by(channels.c.package, channels.c.channel)
        if package is not None:
            query = query.where(channels.c.package == package)
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def history(self, package: str, channel: str, limit: int) -> list[ChannelEntry]:
        """What a channel pointed at, newest first."""
        of_channel = (channel_history.c.package == package, channel_history.c.channel == channel)
        query = select(channel_history).where(*of_channel).order_by(channel_history.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def drop_dangling(self, package: str, now: datetime) -> None:
        """Take back the package's channels that point at a version which is no longer stored."""
        query = select(channels).where(channels.c.package == package)
        with writing(self._engine) as connection:
            for row in connection.execute(query).all():
                if not _is_stored(connection, package, row.version):
                    _unset(connection, package, row.channel, now)


def _unset(connection: Connection, package: str, channel: str, now: datetime) -> bool:
    if not connection.execute(delete(channels).where(*_is(package, channel))).rowcount:
        return False
    values = {"package": package, "channel": channel, "version": None, "set_at": to_db(now)}
    connection.execute(insert(channel_history).values(**values))
    return True


def _current(connection: Connection, package: str, channel: str) -> Row[Any] | None:
    return connection.execute(_CURRENT, {"package": package, "channel": channel}).one_or_none()


def _is_stored(connection: Connection, package: str, version: str) -> bool:
    return connection.execute(_ANY_STORED, {"package": package, "version": version}).first() is not None


def _refuse_yanked(connection: Connection, package: str, version: str) -> None:
    """A version is released whole: one platform of it that was yanked is enough."""
    found = connection.execute(_ANY_YANKED, {"package": package, "version": version}).first()
    if found is not None:
        why = f": {one_line(found.yank_reason, 200)}" if found.yank_reason else ""
        raise PublisherError(
            "release.yanked",
            f"{package} {version} was yanked{why}; release another version, or take that back with "
            f"`flotilla yank {package} {version} --undo`",
        )


def _is(package: str, channel: str) -> tuple[Any, Any]:
    return channels.c.package == package, channels.c.channel == channel


def _entry(row: Row[Any]) -> ChannelEntry:
    return ChannelEntry(package=row.package, channel=row.channel, version=row.version, set_at=from_db(row.set_at))
