"""Searches among very many releases: each reads about as many rows of one index as it answers, whatever is asked.

All indexes have the order of the answer in them, and beside it what can be filtered by. Which of them a search
goes along is decided here and not left to the database, which knows nothing of the values: along the few
releases of a span of time or of a range of versions, along a tag, a channel or a platform, or along all of them.
Nothing that a search filters by lets it read more than the releases of that one thing.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
)

from controller.repository.conditions import (
    ONE,
    dated,
    in_channel,
    in_order,
    in_span,
    is_behind,
    not_yanked,
    order,
    spans,
    tagged,
)
from controller.repository.tables import STORED, channels, release_tags, releases
from controller.repository.wanted import MAX_LIMIT, Shape, Wanted, tag_values
from schemas.names import ANY_PLATFORM

FEW: Final = {"time": 1200, "versions": 1500}
"""A span of time or a range with no more releases is read whole and sorted; among more of them a page is found soon."""
SOME: Final = 200
"""So many releases of each tag are looked at to find the rarest."""

_CHANNELS: Final = (
    select(func.aggregate_strings(channels.c.channel, "\n"))
    .where(channels.c.package == releases.c.package, channels.c.version == releases.c.version)
    .scalar_subquery()
    .label("channels")
)
_LISTED: Final = select(
    *(
        releases.c[name]
        for name in (
            "package",
            "version",
            "platform",
            "manifest",
            "description",
            "tags",
            "size",
            "packed",
            "files",
            "created_at",
            "yanked_at",
            "yank_reason",
            "origin",
        )
    ),
    _CHANNELS,
)


def found_rows(connection: Connection, wanted: Wanted) -> list[Row[Any]]:
    """Rows of a page as `listed` selects them, in their order. Raises `OperatorError`, `input.bad`."""
    wanted.check()
    shape, values = wanted.read()
    if shape.spans == (0, 0):
        return []
    tags = sorted(set(wanted.tags))
    way = "order"
    if shape.name != "one":
        if shape.channel:
            return list(islice(_along_channel(connection, shape, values | tag_values(tags)), wanted.limit))
        if (shape.since or shape.until) and _are_few(
            connection, _dated_ones(shape.since, shape.until), values, FEW["time"]
        ):
            way = "time"
        elif shape.spans is not None and _are_few(connection, _ones_in_range(shape.spans), values, FEW["versions"]):
            way = "versions"
        elif tags:
            way = "tag"
            tags.insert(0, tags.pop(tags.index(_rarest(connection, tags, shape, values))))
    return list(connection.execute(_page(way, shape), values | tag_values(tags)))


def listed() -> Select[Any]:
    """What a record of a release is made of, with the channels as one text, a name a line."""
    return _LISTED


# Statements are made once for each shape: making one takes longer than running it.


@lru_cache(maxsize=256)
def _page(way: str, shape: Shape) -> Select[Any]:
    if shape.name == "one":
        return _along_order(shape, listed()).limit(bindparam("limit"))
    if way == "tag":
        ids = _along_tag(shape)
    elif way == "order" and shape.platform:
        ids = _along_platforms(shape)
    elif way == "order":
        ids = _along_order(shape, select(releases.c.id))
    else:
        ids = _along_few(way, shape)
    page = ids.limit(bindparam("limit")).subquery()
    return listed().join(page, page.c.id == releases.c.id).order_by(*order(releases))


def _along_order(shape: Shape, selected: Select[Any]) -> Select[Any]:
    """All releases, or those of a package, by the index that has them so."""
    c = releases.c
    # A sum of the date is in no index, so that the database does not go along dates and then sort.
    query = selected.where(c.state == STORED, *in_order(releases, shape), *dated(c.created_at + 0, shape))
    if shape.channel:
        query = query.where(in_channel())
    return query.where(*not_yanked(c, shape), *tagged(c, shape, 0)).order_by(*order(releases))


def _along_platforms(shape: Shape) -> Select[Any]:
    """The releases for a platform and those for any: a page of each by the index that has one platform's in order."""
    c = releases.c
    each = _along_order(shape._replace(platform=False), select(c.id, *order(releases)))
    own: ColumnElement[str] = bindparam("platform", type_=c.platform.type)
    other = literal(ANY_PLATFORM)
    pages = [each.where(c.platform == own), each.where(c.platform == other, own != other)]
    parts = [select(page.limit(bindparam("limit")).subquery()) for page in pages]
    both = union_all(*parts).subquery()
    return select(both.c.id).order_by(*order(both))


def _along_few(way: str, shape: Shape) -> Select[Any]:
    """The few releases of a span of time, or of a range of versions, sorted."""
    if way == "time":
        there, rest = _dated_ones(shape.since, shape.until), shape._replace(since=False, until=False)
    else:
        there, rest = _ones_in_range(shape.spans or (0, 0)), shape._replace(spans=None)
    few = there.limit(FEW[way]).subquery()
    query = select(few.c.id).where(*in_order(few, rest), *dated(few.c.created_at, rest), *not_yanked(few.c, rest))
    if rest.tags:
        r = releases.alias()
        query = query.where(select(ONE).where(r.c.id == few.c.id, *tagged(r.c, rest, 0)).exists())
    return query.order_by(*order(few))


def _along_tag(shape: Shape) -> Select[Any]:
    c, r = release_tags.c, releases.c
    query = select(c.release_id.label("id")).where(c.tag == bindparam("tag_0"), *in_order(release_tags, shape))
    if shape.tags > 1:
        bits = bindparam("bits", type_=BigInteger)
        query = query.where(c.tag_bits.bitwise_and(bits) == bits)
    fits = (r.id == c.release_id, r.state == STORED, *not_yanked(r, shape), *tagged(r, shape, 1))
    return query.where(*dated(c.created_at, shape), select(ONE).where(*fits).exists()).order_by(*order(release_tags))


def _along_channel(connection: Connection, shape: Shape, values: dict[str, Any]) -> Iterator[Any]:
    """What a channel points at, package by package."""
    values = values | {"from_package": values["package"], "count": values["limit"] + 1}
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
def _channel_page(shape: Shape, *, is_first: bool) -> tuple[Select[Any], Select[Any]]:
    """Where the next page begins, and the releases of this one."""
    c, r = channels.c, releases.c
    package = bindparam("from_package", type_=c.package.type)
    some = (
        select(c.package, c.version)
        .where(c.channel == bindparam("channel"), c.package >= package if is_first else c.package > package)
        .order_by(c.package)
    )
    pointed = some.limit(bindparam("count")).subquery()
    query = (
        listed()
        .join(pointed, (pointed.c.package == r.package) & (pointed.c.version == r.version))
        # A text joined to it is in no index, so that the database looks up the version and not all of the package.
        .where(
            r.state + "" == STORED, *in_order(releases, shape._replace(after=False)), *dated(r.created_at + 0, shape)
        )
        .where(*tagged(r, shape, 0), *not_yanked(r, shape))
    )
    if shape.after:
        # Also asked of what the channel points at, for the database not to go along all releases behind this place.
        query = query.where(or_(pointed.c.package > bindparam("package"), is_behind(releases)))
    return some.offset(bindparam("skipped")).limit(1), query.order_by(*order(releases))


def _in_index() -> Select[Any]:
    c = releases.c
    return select(c.id, *order(releases), c.prerelease, c.created_at, c.yanked_at).where(c.state == STORED)


@lru_cache(maxsize=4)
def _dated_ones(since: bool, until: bool) -> Select[Any]:
    """The releases of a span of time."""
    c = releases.c
    return _in_index().where(*dated(c.created_at, Shape(since=since, until=until))).order_by(c.created_at)


@lru_cache(maxsize=256)
def _ones_in_range(counts: tuple[int, int]) -> Select[Any]:
    """The releases of all packages whose versions are in a range."""
    parts = [_in_index().where(in_span(releases.c, *span)) for span in spans(Shape(spans=counts))]
    every = (union_all(*parts) if len(parts) > 1 else parts[0]).subquery()
    return select(every)


def _are_few(connection: Connection, found: Select[Any], values: dict[str, Any], few: int) -> bool:
    return (connection.scalar(_count(found, few + 1), values) or 0) <= few


@lru_cache(maxsize=256)
def _count(found: Select[Any], most: int) -> Select[Any]:
    return select(func.count()).select_from(
        found.with_only_columns(ONE, maintain_column_froms=True).limit(most).subquery()
    )


@lru_cache(maxsize=2)
def _reach(after: bool) -> Select[Any]:
    """Where the last of the next rows of a tag lies; nothing where there are fewer."""
    c = release_tags.c
    query = select(c.package, c.newest_first).where(
        c.tag == bindparam("tag"), *in_order(release_tags, Shape(after=after))
    )
    return query.order_by(*order(release_tags)).limit(1).offset(SOME - 1)


def _rarest(connection: Connection, tags: Sequence[str], shape: Shape, values: dict[str, Any]) -> str:
    """The tag that is rarest from where the page begins: the same number of releases reaches farthest."""
    if len(tags) == 1:
        return tags[0]
    rarest, farthest = tags[0], ("", b"")
    for tag in tags:
        row = connection.execute(_reach(shape.after), values | {"tag": tag}).first()
        if row is None:
            return tag
        if (reach := (row.package, bytes(row.newest_first))) > farthest:
            rarest, farthest = tag, reach
    return rarest
