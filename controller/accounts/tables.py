"""Tables of accounts, their sessions and tokens, the audit log, and answers kept for retries. Times are `to_db`."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from controller.database import RowId, metadata

users: Final = Table(
    "users",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("password", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # sha256 of what the cookie holds
    Column("user_name", String(63), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("address", String(64), nullable=False),
    Index(None, "user_name"),
)

api_tokens: Final = Table(
    "api_tokens",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("digest", String(64), nullable=False),  # sha256 of the token
    Column("role", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("used_at", BigInteger),
    UniqueConstraint("digest"),
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("role", String(16)),
    Column("address", String(64)),
    Column("via", String(8), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(256), nullable=False),
    Column("detail", Text, nullable=False),
    Column("result", String(64), nullable=False),
    Column("status", Integer),
    Index(None, "at"),
    Index(None, "actor", "id"),
)

answers: Final = Table(
    "answers",
    metadata,
    Column("key", String(64), primary_key=True),  # sha256 of who asked and their Idempotency-Key
    Column("request", String(64), nullable=False),  # sha256 of verb, address, body and key
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index(None, "at"),
)
