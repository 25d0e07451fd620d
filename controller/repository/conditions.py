"""What a search compares, as conditions on the columns that releases, their tags and subqueries of both have alike."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    LargeBinary,
    and_,
    bindparam,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.elements import ColumnElement

from controller.repository.tables import channels, releases
from controller.repository.wanted import BEHIND, Shape
from schemas.names import ANY_PLATFORM

ONE: Final[ColumnElement[int]] = literal_column("1")
Conditions = list[ColumnElement[bool]]


def order(source: Any) -> tuple[Any, ...]:
    """The order of every answer."""
    return source.c.package, source.c.newest_first, source.c.version, source.c.platform


def in_order(source: Any, shape: Shape) -> Conditions:
    """Conditions on the columns of the order, and on what a range needs beside them."""
    c = source.c
    conditions: Conditions = []
    if shape.name == "one":
        conditions.append(c.package == bindparam("name"))
    elif shape.name != "none":
        conditions.append(c.package.like(bindparam("pattern"), escape="\\"))
    if shape.name == "prefix":
        conditions += [c.package >= bindparam("prefix"), c.package < bindparam("behind_prefix")]
    if shape.platform:
        conditions.append(c.platform.in_([bindparam("platform"), literal(ANY_PLATFORM)]))
    if shape.spans is not None:
        # around all spans: only this can be looked up in an index, where there are several
        conditions.append(c.newest_first >= bindparam("least", type_=LargeBinary))
        conditions.append(c.newest_first < bindparam("past", type_=LargeBinary))
        conditions.append(or_(*(in_span(c, kind, number) for kind, number in spans(shape))))
    if shape.after:
        conditions.append(is_behind(source))
    return conditions


def spans(shape: Shape) -> list[tuple[str, int]]:
    """Kind and number of each span of the range."""
    releases_spans, prereleases_spans = shape.spans or (0, 0)
    return [("release", n) for n in range(releases_spans)] + [("prerelease", n) for n in range(prereleases_spans)]


def in_span(c: Any, kind: str, number: int) -> ColumnElement[bool]:
    """Whether a version is in one of a range's spans."""
    of_kind = true() if kind == "prerelease" else false()
    first, last = (bindparam(f"{kind}_{number}_{end}", type_=LargeBinary) for end in ("from", "to"))
    return and_(c.prerelease == of_kind, c.newest_first >= first, c.newest_first < last)


def is_behind(source: Any) -> ColumnElement[bool]:
    """Whether a row comes after the page before."""
    columns = order(source)
    names = (bindparam(name, type_=column.type) for name, column in zip(BEHIND, columns, strict=True))
    return tuple_(*columns) > tuple_(*names)


def dated(column: Any, shape: Shape) -> Conditions:
    """Whether the date fits."""
    conditions: Conditions = []
    if shape.since:
        conditions.append(column >= bindparam("since", type_=BigInteger))
    if shape.until:
        conditions.append(column < bindparam("until", type_=BigInteger))
    return conditions


def not_yanked(c: Any, shape: Shape) -> Conditions:
    """Whether a release was not withdrawn, unless all are asked for."""
    return [] if shape.yanked else [c.yanked_at.is_(None)]


def tagged(c: Any, shape: Shape, first: int) -> Conditions:
    """Whether a release has the tags from this number on, by its own row's text of them."""
    # LIKE takes capitals for small letters in one database and not in the other
    return [func.replace(c.tags, bindparam(f"line_{number}"), "") != c.tags for number in range(first, shape.tags)]


def in_channel() -> ColumnElement[bool]:
    """Whether the channel points at a release's version."""
    here = (channels.c.package == releases.c.package, channels.c.version == releases.c.version)
    return select(ONE).where(*here, channels.c.channel == bindparam("channel")).exists()
