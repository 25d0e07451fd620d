"""Searches among very many releases: each reads about as many rows of one index as it answers, whatever is asked.

All indexes have the order of the answer in them, and beside it what can be filtered by. Which of them a search
goes along is decided here and not left to the database, which knows nothing of the values: along the few
releases of a span of time, along a tag, along a channel, along a platform, or along all of them.
Nothing that a search filters by lets it read more than the releases of that one thing.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Connection,
    LargeBinary,
    Row,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
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


_BEHIND: Final = ("package", "newest_first", "version", "platform_behind")
_ONE: Final[ColumnElement[int]] = literal_column("1")
_TAGS: Final = (
    select(func.aggregate_strings(release_tags.c.tag, "\n"))
    .where(release_tags.c.release_id == releases.c.id)
    .scalar_subquery()
    .label("tags")
)
_CHANNELS: Final = (
    select(func.aggregate_strings(channels.c.channel, "\n"))
    .where(channels.c.package == releases.c.package, channels.c.version == releases.c.version)
    .scalar_subquery()
    .label("channels")
)
_LISTED: Final = select(releases, _TAGS, _CHANNELS)


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
    def shape(self) -> "_Shape":
        """What there is to compare with, whatever the values are."""
        low, high = key_bounds(self.version_range) if self.version_range is not None else (None, None)
        return _Shape(
            name=_one_or_pattern(self.name),
            low=low is not None,
            high=high is not None,
            platform=self.platform is not None,
            tags=len(set(self.tags)),
            channel=self.channel is not None,
            since=self.since is not None,
            until=self.until is not None,
            yanked=self.yanked,
            limited=self.version_range is None,
            after=self.after is not None,
        )

    def values(self) -> dict[str, Any]:
        """The values by the names that the statements have for them. Raises `OperatorError`, `input.bad`."""
        low, high = key_bounds(self.version_range) if self.version_range is not None else (None, None)
        behind = _position(self.after) if self.after is not None else ("", b"", "", "")
        named: dict[str, Any] = {
            "name": self.name,
            "least": newest_first(high) if high is not None else None,
            "greatest": newest_first(low) if low is not None else None,
            "platform": self.platform,
            "channel": self.channel,
            "since": to_db(self.since) if self.since is not None else None,
            "until": to_db(self.until) if self.until is not None else None,
            "limit": self.limit,
            **dict(zip(_BEHIND, behind, strict=True)),
        }
        if _one_or_pattern(self.name) in ("pattern", "prefix"):
            named |= _pattern(self.name or "")
        return named


class _Shape(NamedTuple):
    name: str  # none, one, pattern, prefix
    low: bool
    high: bool
    platform: bool
    tags: int
    channel: bool
    since: bool
    until: bool
    yanked: bool
    limited: bool
    after: bool


def found_rows(connection: Connection, wanted: Wanted) -> list[Row[Any]]:
    """Rows of a page as `listed` selects them, in their order. Raises `OperatorError`, `input.bad`."""
    wanted.check()
    shape, values = wanted.shape, wanted.values()
    tags = sorted(set(wanted.tags))
    way = "order"
    if shape.name != "one":
        if shape.channel:
            return list(_first(_along_channel(connection, wanted, shape, values | _tag_values(tags)), wanted))
        if (shape.since or shape.until) and _is_few(connection, shape, values):
            way = "time"
        elif tags:
            way = "tag"
            tags.insert(0, tags.pop(tags.index(_rarest(connection, tags))))
    values |= _tag_values(tags)
    if shape.limited:
        return list(connection.execute(_page(way, shape), values))
    with connection.execute(_stream(way, shape).execution_options(yield_per=_CHUNK), values) as found:
        rows = list(_first(found, wanted))
    if shape.name == "one":
        return rows
    return list(connection.execute(_of_ids(), {"ids": [row.id for row in rows]}))


def listed() -> Select[Any]:
    """Releases with their tags and what channels point at them, each as one text with a name a line."""
    return _LISTED


# Statements are made once for each shape: making one takes longer than running it.


@lru_cache(maxsize=256)
def _page(way: str, shape: _Shape) -> Select[Any]:
    if shape.name == "one":
        return _along(way, shape).limit(bindparam("limit"))
    page = _along(way, shape).limit(bindparam("limit")).subquery()
    return listed().join(page, page.c.id == releases.c.id).order_by(*_order(releases))


@lru_cache(maxsize=256)
def _stream(way: str, shape: _Shape) -> Select[Any]:
    return _along(way, shape)


@lru_cache(maxsize=1)
def _of_ids() -> Select[Any]:
    return listed().where(releases.c.id.in_(bindparam("ids", expanding=True))).order_by(*_order(releases))


def _along(way: str, shape: _Shape) -> Select[Any]:
    if way == "time":
        return _along_time(shape)
    if way == "tag":
        return _along_tag(shape)
    return _along_order(shape, listed() if shape.name == "one" else select(releases.c.id, releases.c.version))


def _along_order(shape: _Shape, selected: Select[Any]) -> Select[Any]:
    """All releases, or those of a package or platform, by the index that has them so."""
    c = releases.c
    query = selected.where(c.state == STORED, *_in_order(releases, shape), *_dated(c.created_at + 0, shape))
    if shape.channel:
        query = query.where(_in_channel())
    return query.where(*_not_yanked(c, shape), *_tagged(c.id, shape, 0)).order_by(*_order(releases))


def _along_time(shape: _Shape) -> Select[Any]:
    """The few releases of a span of time, sorted."""
    c = releases.c
    span = (
        select(c.id, c.yanked_at, *_order(releases), c.created_at)
        .where(c.state == STORED, *_dated(c.created_at, shape))
        .order_by(c.created_at)
        .limit(FEW)
        .subquery()
    )
    query = select(span.c.id, span.c.version).where(*_in_order(span, shape), *_not_yanked(span.c, shape))
    return query.where(*_tagged(span.c.id, shape, 0)).order_by(*_order(span))


def _along_tag(shape: _Shape) -> Select[Any]:
    c, r = release_tags.c, releases.c
    is_there = select(_ONE).where(r.id == c.release_id, r.state == STORED, *_not_yanked(r, shape)).exists()
    return (
        select(c.release_id.label("id"), c.version)
        .where(c.tag == bindparam("tag_0"), *_in_order(release_tags, shape), *_dated(c.created_at, shape))
        .where(*_tagged(c.release_id, shape, 1), is_there)
        .order_by(*_order(release_tags))
    )


def _along_channel(connection: Connection, wanted: Wanted, shape: _Shape, values: dict[str, Any]) -> Iterator[Any]:
    """What a channel points at, package by package."""
    values = values | {"from_package": values["package"], "count": wanted.limit + 1}
    is_first = True
    while True:
        pointed, rows = _channel_page(shape, is_first=is_first)
        yield from connection.execute(rows, values).all()
        last = connection.execute(pointed, values | {"skipped": values["count"] - 1}).first()
        if last is None:
            return
        is_first = False
        values |= {"from_package": last.package, "count": MAX_LIMIT}


@lru_cache(maxsize=256)
def _channel_page(shape: _Shape, *, is_first: bool) -> tuple[Select[Any], Select[Any]]:
    """Where the next page begins, and the releases of this one."""
    c, r = channels.c, releases.c
    package: ColumnElement[str] = bindparam("from_package")
    some = (
        select(c.package, c.version)
        .where(c.channel == bindparam("channel"), c.package >= package if is_first else c.package > package)
        .order_by(c.package)
    )
    pointed = some.limit(bindparam("count")).subquery()
    query = (
        listed()
        .join(pointed, (pointed.c.package == r.package) & (pointed.c.version == r.version))
        .where(r.state == STORED, *_in_order(releases, shape._replace(after=False)), *_dated(r.created_at + 0, shape))
        .where(*_tagged(r.id, shape, 0), *_not_yanked(r, shape))
    )
    if shape.after:
        # An alternative, for the database not to go along all releases behind this place.
        query = query.where(or_(r.package > bindparam("package"), _is_behind(releases)))
    return some.offset(bindparam("skipped")).limit(1), query.order_by(*_order(releases))


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


def _in_order(source: Any, shape: _Shape) -> list[ColumnElement[bool]]:
    """Conditions on the columns of the order, which every source has."""
    c = source.c
    conditions: list[ColumnElement[bool]] = []
    if shape.name == "one":
        conditions.append(c.package == bindparam("name"))
    elif shape.name != "none":
        conditions.append(c.package.like(bindparam("pattern"), escape="\\"))
    if shape.name == "prefix":
        conditions += [c.package >= bindparam("prefix"), c.package < bindparam("behind_prefix")]
    if shape.platform:
        conditions.append(c.platform == bindparam("platform"))
    if shape.high:
        conditions.append(c.newest_first >= bindparam("least", type_=LargeBinary))
    if shape.low:
        conditions.append(c.newest_first <= bindparam("greatest", type_=LargeBinary))
    if shape.after:
        conditions.append(_is_behind(source))
    return conditions


def _is_behind(source: Any) -> ColumnElement[bool]:
    columns = _order(source)
    names = (bindparam(name, type_=column.type) for name, column in zip(_BEHIND, columns, strict=True))
    return tuple_(*columns) > tuple_(*names)


def _dated(column: Any, shape: _Shape) -> list[ColumnElement[bool]]:
    """Whether the date fits. A sum of it is in no index, so that a search does not go along dates and then sort."""
    conditions: list[ColumnElement[bool]] = []
    if shape.since:
        conditions.append(column >= bindparam("since", type_=BigInteger))
    if shape.until:
        conditions.append(column < bindparam("until", type_=BigInteger))
    return conditions


def _not_yanked(c: Any, shape: _Shape) -> list[ColumnElement[bool]]:
    return [] if shape.yanked else [c.yanked_at.is_(None)]


def _tagged(release_id: Any, shape: _Shape, first: int) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for number in range(first, shape.tags):
        twin = release_tags.alias()
        same = (twin.c.release_id == release_id, twin.c.tag == bindparam(f"tag_{number}"))
        conditions.append(select(_ONE).where(*same).exists())
    return conditions


def _tag_values(tags: Sequence[str]) -> dict[str, str]:
    return {f"tag_{number}": tag for number, tag in enumerate(tags)}


def _in_channel() -> ColumnElement[bool]:
    here = (channels.c.package == releases.c.package, channels.c.version == releases.c.version)
    return select(_ONE).where(*here, channels.c.channel == bindparam("channel")).exists()


def _is_few(connection: Connection, shape: _Shape, values: dict[str, Any]) -> bool:
    return (connection.scalar(_span_count(shape.since, shape.until), values) or 0) <= FEW


@lru_cache(maxsize=4)
def _span_count(since: bool, until: bool) -> Select[Any]:
    shape = _Shape("none", False, False, False, 0, False, since, until, True, True, False)
    c = releases.c
    dated = select(_ONE).where(c.state == STORED, *_dated(c.created_at, shape)).limit(FEW + 1)
    return select(func.count()).select_from(dated.subquery())


@lru_cache(maxsize=1)
def _tag_count() -> Select[Any]:
    tagged = select(_ONE).where(release_tags.c.tag == bindparam("tag")).limit(FEW)
    return select(func.count()).select_from(tagged.subquery())


def _rarest(connection: Connection, tags: Sequence[str]) -> str:
    if len(tags) == 1:
        return tags[0]
    return min(tags, key=lambda tag: connection.scalar(_tag_count(), {"tag": tag}) or 0)


def _one_or_pattern(name: str | None) -> str:
    if name is None:
        return "none"
    first = min((name.index(c) for c in "*?" if c in name), default=None)
    return "one" if first is None else ("prefix" if first else "pattern")


def _pattern(name: str) -> dict[str, str]:
    """A pattern with `*` for any characters and `?` for one; names hold nothing else that LIKE knows."""
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    prefix = name[: min(name.index(c) for c in "*?" if c in name)]
    return {
        "pattern": escaped.replace("*", "%").replace("?", "_"),
        "prefix": prefix,
        "behind_prefix": prefix + _AFTER_ANY_NAME,
    }


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
