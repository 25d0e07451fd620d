"""Tokens of machines: named, with a role, with or without an end; kept as a hash."""

import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from controller.accounts.people import SECRET_BYTES, digest_of
from controller.accounts.roles import Role, Who
from controller.accounts.tables import api_tokens
from controller.accounts.views import FILE_TOKEN, NAME_PATTERN, ApiToken, NewToken
from controller.database import from_db, reading, to_db, utc_now, writing
from schemas.errors import OperatorError, one_line
from schemas.names import matches

PREFIX: Final = "flotilla_"
"""So that people and programs that look for leaked secrets know one when they see it."""
USED_EVERY: Final = timedelta(minutes=5)


class Tokens:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, role: Role, *, lasts: timedelta | None = None, now: datetime | None = None) -> NewToken:
        """A new token.

        Args:
            name: what it is called in lists and in the audit log.
            role: what it may do.
            lasts: for how long; for ever unless given.
            now: the controller's clock.

        Raises:
            OperatorError: `input.bad` for the name, `account.exists`.
        """
        if name == FILE_TOKEN or not matches(NAME_PATTERN, name):
            raise OperatorError(
                "input.bad",
                f"{one_line(name)!r} can't be a token's name: small letters, digits, '.', '_', '@' and '-', "
                f"and not {FILE_TOKEN}",
            )
        now = now or utc_now()
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        expires_at = None if lasts is None else now + lasts
        try:
            with writing(self._engine) as connection:
                connection.execute(
                    insert(api_tokens).values(
                        name=name,
                        digest=digest_of(secret),
                        role=role.value,
                        created_at=to_db(now),
                        expires_at=None if expires_at is None else to_db(expires_at),
                    )
                )
        except IntegrityError as error:
            raise OperatorError("account.exists", f"there is a token {name} already; revoke it first") from error
        return NewToken(name=name, role=role, created_at=now, expires_at=expires_at, used_at=None, token=secret)

    def page(self, *, after: str = "", limit: int = 100) -> list[ApiToken]:
        """By name; the one in the data folder is not among them."""
        found = select(api_tokens).where(api_tokens.c.name > after).order_by(api_tokens.c.name).limit(limit)
        with reading(self._engine) as connection:
            return [_token(row) for row in connection.execute(found).mappings()]

    def revoke(self, name: str) -> None:
        """It is good for nothing from the next request on.

        Raises:
            OperatorError: `account.unknown`; `input.bad` for the one in the data folder.
        """
        if name == FILE_TOKEN:
            raise OperatorError(
                "input.bad",
                f"this one is the file {FILE_TOKEN} in the data folder: remove it, and restart the controller",
            )
        with writing(self._engine) as connection:
            if not connection.execute(delete(api_tokens).where(api_tokens.c.name == name)).rowcount:
                raise OperatorError("account.unknown", f"there is no token {one_line(name)}")

    def who(self, secret: str, now: datetime | None = None) -> Who | None:
        """Whose token it is; None for one that is revoked, expired or never was."""
        now = now or utc_now()
        digest = digest_of(secret)
        with reading(self._engine) as connection:
            row = connection.execute(select(api_tokens).where(api_tokens.c.digest == digest)).mappings().first()
        if row is None or (row["expires_at"] is not None and row["expires_at"] <= to_db(now)):
            return None
        if row["used_at"] is None or row["used_at"] <= to_db(now - USED_EVERY):
            with writing(self._engine) as connection:
                used = update(api_tokens).where(api_tokens.c.digest == digest)
                connection.execute(used.values(used_at=to_db(now)))
        return Who(kind="token", name=row["name"], role=Role(row["role"]))


def _token(row: Any) -> ApiToken:
    return ApiToken(
        name=row["name"],
        role=Role(row["role"]),
        created_at=from_db(row["created_at"]),
        expires_at=None if row["expires_at"] is None else from_db(row["expires_at"]),
        used_at=None if row["used_at"] is None else from_db(row["used_at"]),
    )
