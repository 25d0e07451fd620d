"""Searches among very many releases: each reads about as many rows of one index as it answers, whatever is asked.

All indexes have the order of the answer in them, and beside it what can be filtered by. Which of them a search
goes along is decided here and not left to the database, which knows nothing of the values: along the few
releases of a span of time, along a tag, along a channel, along a platform, or along all of them.
Nothing that a search filters by lets it read more than the releases of that one thing.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, exists, func, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from controller.database import to_db
from controller.repository.ordering import key_bounds, newest_first, version_key
from controller.repository.tables import STORED, channels, release_tags, releases
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.ranges import Range

MAX_LIMIT: Final = 1000
"""Most records of one answer."""
MAX_TAGS: Final = 64
"""Most tags of one question; no release has more."""
FEW: Final = 1000
"""A span of time with no more releases is read whole and sorted; among more of them a page is found soon."""
_CHUNK: Final = 200
_AFTER_ANY_NAME: Final = "\x7f"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for; see `PackageRepository.search`."""

    name: str | None = None
    version_range: Range | None = None
    platform: str | None = None
    tags: Collection[str] = ()
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    yanked: bool = False
    limit: int = 100
    after: str | None = None

    def check(self) -> None:
        """Raises `OperatorError`, `input.bad`."""
        if not 1 <= self.limit <= MAX_LIMIT:
            raise OperatorError("input.bad", f"limit {self.limit} is not between 1 and {MAX_LIMIT}")
        if len(self.tags) > MAX_TAGS:
            raise OperatorError("input.bad", f"{len(self.tags)} tags are asked for, at most {MAX_TAGS} can be")
        for word, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise OperatorError("input.bad", f"{word}: {moment.isoformat()} names no time zone; add Z for UTC")

    @property
    def is_one_package(self) -> bool:
        """Whether the name is no pattern."""
        return self.name is not None and "*" not in self.name and "?" not in self.name


def found_ids(connection: Connection, wanted: Wanted) -> list[int]:
    """Ids of the releases of a page, in their order. Raises `OperatorError`, `input.bad`."""
    wanted.check()
    behind = _position(wanted.after) if wanted.after is not None else None
    if wanted.channel is not None and not wanted.is_one_package:
        rows = _along_channel(connection, wanted, wanted.channel, behind)
        return [row.id for row in _first(rows, wanted)]
    query = _query(connection, wanted, behind)
    with connection.execute(query.execution_options(yield_per=_CHUNK)) as found:
        return [row.id for row in _first(found, wanted)]


def _query(connection: Connection, wanted: Wanted, behind: Sequence[Any] | None) -> Select[Any]:
    if not wanted.is_one_package:
        if (wanted.since is not None or wanted.until is not None) and _is_few(connection, _span(wanted)):
            return _along_time(wanted, behind)
        if wanted.tags:
            return _along_tag(wanted, _rarest(connection, wanted.tags), behind)
    return _along_order(wanted, behind)


def _along_order(wanted: Wanted, behind: Sequence[Any] | None) -> Select[Any]:
    """All releases, or those of a package or platform, by the index that has them so."""
    c = releases.c
    query = select(c.id, c.version).where(c.state == STORED, *_in_order(releases, wanted, behind, _not_by_date))
    if not wanted.yanked:
        query = query.where(c.yanked_at.is_(None))
    if wanted.channel is not None:
        query = query.where(_in_channel(wanted.channel))
    return query.where(*(_tagged(c.id, tag) for tag in set(wanted.tags))).order_by(*_order(releases))


def _along_time(wanted: Wanted, behind: Sequence[Any] | None) -> Select[Any]:
    """The few releases of a span of time, sorted."""
    c = releases.c
    span = (
        select(c.id, c.yanked_at, *_order(releases), c.created_at)
        .where(*_span(wanted))
        .order_by(c.created_at)
        .limit(FEW)
        .subquery()
    )
    query = select(span.c.id, span.c.version).where(*_in_order(span, wanted, behind, None))
    if not wanted.yanked:
        query = query.where(span.c.yanked_at.is_(None))
    return query.where(*(_tagged(span.c.id, tag) for tag in set(wanted.tags))).order_by(*_order(span))


def _along_tag(wanted: Wanted, tag: str, behind: Sequence[Any] | None) -> Select[Any]:
    c, r = release_tags.c, releases.c
    is_there = exists().where(r.id == c.release_id, r.state == STORED)
    if not wanted.yanked:
        is_there = is_there.where(r.yanked_at.is_(None))
    return (
        select(c.release_id.label("id"), c.version)
        .where(c.tag == tag, *_in_order(release_tags, wanted, behind, _plain_date), is_there)
        .where(*(_tagged(c.release_id, other) for other in set(wanted.tags) - {tag}))
        .order_by(*_order(release_tags))
    )


def _along_channel(connection: Connection, wanted: Wanted, channel: str, behind: Sequence[Any] | None) -> Iterator[Any]:
    """What a channel points at, package by package."""
    c, r = channels.c, releases.c
    package = behind[0] if behind is not None else ""
    is_first = True
    while True:
        here = c.package >= package if is_first else c.package > package
        some = select(c.package, c.version).where(c.channel == channel, here).order_by(c.package).limit(_CHUNK)
        pointed = connection.execute(some).all()
        if not pointed:
            return
        is_first, package = False, pointed[-1].package
        query = select(r.id, r.version).where(
            tuple_(r.package, r.version).in_([(row.package, row.version) for row in pointed]),
            r.state == STORED,
            *_in_order(releases, wanted, behind, _not_by_date),
            *(_tagged(r.id, tag) for tag in set(wanted.tags)),
        )
        if not wanted.yanked:
            query = query.where(r.yanked_at.is_(None))
        yield from connection.execute(query.order_by(*_order(releases))).all()


def _first(rows: Any, wanted: Wanted) -> Iterator[Any]:
    """Which versions are in a range is not the database's to say; it reads only what lies between the bounds."""
    count = 0
    for row in rows:
        if wanted.version_range is None or wanted.version_range.contains(row.version):
            yield row
            count += 1
            if count == wanted.limit:
                return


def _order(source: Any) -> tuple[Any, ...]:
    return source.c.package, source.c.newest_first, source.c.version, source.c.platform


def _in_order(source: Any, wanted: Wanted, behind: Sequence[Any] | None, date: Any) -> list[ColumnElement[bool]]:
    """Conditions on what all sources have: the order's columns, and where `date` is given, the date."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.name is not None:
        conditions.extend(_named(source.c.package, wanted.name))
    if wanted.platform is not None:
        conditions.append(source.c.platform == wanted.platform)
    if wanted.version_range is not None:
        low, high = key_bounds(wanted.version_range)
        if high is not None:
            conditions.append(source.c.newest_first >= newest_first(high))
        if low is not None:
            conditions.append(source.c.newest_first <= newest_first(low))
    if behind is not None:
        conditions.append(tuple_(*_order(source)) > tuple_(*behind))
    if date is not None:
        if wanted.since is not None:
            conditions.append(date(source) >= to_db(wanted.since))
        if wanted.until is not None:
            conditions.append(date(source) < to_db(wanted.until))
    return conditions


def _plain_date(source: Any) -> Any:
    return source.c.created_at


def _not_by_date(source: Any) -> Any:
    """A sum is in no index, so that the search does not go along the dates, which it would have to sort."""
    return source.c.created_at + 0


def _span(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions = [releases.c.state == STORED]
    if wanted.since is not None:
        conditions.append(releases.c.created_at >= to_db(wanted.since))
    if wanted.until is not None:
        conditions.append(releases.c.created_at < to_db(wanted.until))
    return conditions


def _is_few(connection: Connection, conditions: list[ColumnElement[bool]]) -> bool:
    some = select(releases.c.created_at).where(*conditions).order_by(releases.c.created_at).limit(FEW + 1).subquery()
    return (connection.scalar(select(func.count()).select_from(some)) or 0) <= FEW


def _rarest(connection: Connection, tags: Collection[str]) -> str:
    distinct = sorted(set(tags))
    if len(distinct) == 1:
        return distinct[0]

    def count(tag: str) -> int:
        some = select(release_tags.c.tag).where(release_tags.c.tag == tag).limit(FEW).subquery()
        return connection.scalar(select(func.count()).select_from(some)) or 0

    return min(distinct, key=count)


def _tagged(release_id: Any, tag: str) -> ColumnElement[bool]:
    twin = release_tags.alias()
    return exists().where(twin.c.release_id == release_id, twin.c.tag == tag)


def _in_channel(channel: str) -> ColumnElement[bool]:
    here = (channels.c.package == releases.c.package, channels.c.version == releases.c.version)
    return exists().where(*here, channels.c.channel == channel)


def _named(column: Any, name: str) -> list[ColumnElement[bool]]:
    """A name, or a pattern with `*` for any characters and `?` for one; names hold nothing that LIKE knows."""
    first = min((name.index(c) for c in "*?" if c in name), default=None)
    if first is None:
        return [column == name]
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    conditions = [column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")]
    if first > 0:
        conditions += [column >= name[:first], column < name[:first] + _AFTER_ANY_NAME]
    return conditions


def _position(after: str) -> tuple[str, bytes, str, str]:
    """What a page begins behind, by the order's columns; the record itself may be gone meanwhile."""
    parts = after.split("@")
    if len(parts) != 3:
        raise OperatorError("input.bad", f"{one_line(after, 80)!r} is not NAME@VERSION@PLATFORM, the last record's key")
    package, version, platform = parts
    try:
        return package, newest_first(version_key(version)), version, platform
    except PublisherError as error:
        raise OperatorError("input.bad", f"after: {error}") from error
