"""What SQLite and PostgreSQL both have and SQLAlchemy's common language lacks, and what a column can hold."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Dialect, String, Table, Update, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from controller.database import to_db

MAX_PARAMETERS: Final = 500
"""Values in one IN (…): every SQLite takes 999 parameters in a statement."""

_MAP: Final = msgspec.json.Decoder(dict[str, Any])
_MAX_INT: Final = 2**31 - 1
_MAX_BIGINT: Final = 2**63 - 1
_YEAR_1: Final = -62_135_596_800_000_000 + 86_400_000_000  # a day in, as zones may lead before year 1
_YEAR_9999: Final = 253_402_300_799_999_999 - 86_400_000_000


Insert = sqlite.Insert | postgresql.Insert


def insert_into(connection: Connection, table: Table) -> Insert:
    """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_of(dialect: str, table: Table, names: Iterable[str]) -> Insert:
    """As `insert_into`, with a place for the value of each of these columns; for a builder of `execute_many`."""
    made = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return made.values({name: bindparam(name, type_=table.c[name].type) for name in names})


def execute_many(
    connection: Connection,
    build: Callable[[str], Insert | Update],
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
) -> int:
    """Run one INSERT or UPDATE for many rows, at the price of the driver.

    Measured: SQLAlchemy's own way with a list of rows took two thirds of the time of an intake of events, for work that
    comes out the same for each row. Values go to the driver as they are, which must know their types.

    Args:
        connection: in a writing transaction.
        build: makes the statement from a dialect's name; a function at the top of its module, as what comes of it is
            kept for ever.
        names: of the statement's parameters, two at least.
        rows: the values of each, in the order of the names.

    Returns:
        How many rows of the table it was; of SQLite, whose driver adds them up.
    """
    if not rows:
        return 0
    text, values_of = _prepared(build, names, connection.dialect)
    return connection.exec_driver_sql(text, list(rows) if values_of is None else list(map(values_of, rows))).rowcount


@lru_cache(maxsize=64)
def _prepared(
    build: Callable[[str], Insert | Update], names: tuple[str, ...], dialect: Dialect
) -> tuple[str, Callable[[tuple[Any, ...]], Any] | None]:
    """A statement's text, and what makes of a row the values that the driver takes; None where it takes it as it is."""
    compiled = build(dialect.name).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101  # for the type checker
    order = compiled.positiontup
    if order is None:
        return compiled.string, lambda row: dict(zip(names, row, strict=True))
    return compiled.string, None if tuple(order) == names else itemgetter(*map(names.index, order))


AMONG: Final = "among"
"""Name of the parameter that `among` asks for."""


def among(dialect: str, column: Column[str]) -> ColumnElement[bool]:
    """Whether a column of text is one of the values that `AMONG` is given (see `listed`), however many.

    They go to the database as one value, and the statement can be made once and for all: SQLAlchemy writes an IN (…)
    anew for each value of each question, which for hundreds of devices takes longer than finding them does.
    """
    if dialect == "sqlite":
        values = func.json_each(bindparam(AMONG)).table_valued("value")
        return column.in_(select(values.c.value))
    return column == any_(bindparam(AMONG, type_=postgresql.ARRAY(String)))


def listed(dialect: str, values: Iterable[str]) -> dict[str, Any]:
    """Values for `among`, as the statement's parameters."""
    given = list(values)
    return {AMONG: msgspec.json.encode(given).decode() if dialect == "sqlite" else given}


def chunks(values: list[str]) -> list[list[str]]:
    """The values in pieces that one statement can take."""
    return [values[i : i + MAX_PARAMETERS] for i in range(0, len(values), MAX_PARAMETERS)]


def text_of(value: str) -> str:
    """Text as any database takes it: PostgreSQL has no NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value


def map_of(text: str | None) -> dict[str, Any]:
    """Tags or facts as a column keeps them; none for a device that never reported."""
    return _MAP.decode(text) if text else {}


def int_of(value: int) -> int:
    """A number from outside as an INTEGER column takes it; what is larger counts as the largest."""
    return min(value, _MAX_INT)


def bigint_of(value: int) -> int:
    """A number from outside as a BIGINT column takes it; what is larger counts as the largest."""
    return min(value, _MAX_BIGINT)


def time_of(value: datetime) -> int:
    """A moment from outside as the database keeps it, within what `from_db` can give back in any zone."""
    if 1 < value.year < 9999:  # a day from either end, as any zone is
        return to_db(value)
    return max(_YEAR_1, min(to_db(value), _YEAR_9999))
