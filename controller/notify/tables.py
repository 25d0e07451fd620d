"""What is to be told, one row for each target. Times are `to_db` microseconds."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text, UniqueConstraint

from controller.database import metadata

notifications: Final = Table(
    "notifications",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("key", String(160), nullable=False),
    Column("target", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger),  # empty once it is delivered or given up
    Column("sent_at", BigInteger),
    Column("error", Text),  # of the last attempt
    UniqueConstraint("key", "target"),
    Index(None, "target", "due_at"),
)
