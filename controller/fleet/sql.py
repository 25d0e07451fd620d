"""What SQLite and PostgreSQL both have and SQLAlchemy's common language lacks, and what a column can hold."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from controller.database import to_db

MAX_PARAMETERS: Final = 500
"""Values in one IN (…): every SQLite takes 999 parameters in a statement."""

_MAX_INT: Final = 2**31 - 1
_MAX_BIGINT: Final = 2**63 - 1
_YEAR_1: Final = -62_135_596_800_000_000 + 86_400_000_000  # a day in, as zones may lead before year 1
_YEAR_9999: Final = 253_402_300_799_999_999 - 86_400_000_000


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def chunks(values: list[str]) -> list[list[str]]:
    """The values in pieces that one statement can take."""
    return [values[i : i + MAX_PARAMETERS] for i in range(0, len(values), MAX_PARAMETERS)]


def text_of(value: str) -> str:
    """Text as any database takes it: PostgreSQL has no NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value


def int_of(value: int) -> int:
    """A number from outside as an INTEGER column takes it; what is larger counts as the largest."""
    return min(value, _MAX_INT)


def bigint_of(value: int) -> int:
    """A number from outside as a BIGINT column takes it; what is larger counts as the largest."""
    return min(value, _MAX_BIGINT)


def time_of(value: datetime) -> int:
    """A moment from outside as the database keeps it, within what `from_db` can give back in any zone."""
    return max(_YEAR_1, min(to_db(value), _YEAR_9999))
