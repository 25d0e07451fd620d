"""Answers that are kept for a day, so that a request whose answer was lost can be sent again without harm.

After draft-ietf-httpapi-idempotency-key-header: the same key and request get the same answer, the same key with
another request is an error.
"""

import hashlib
from datetime import datetime, timedelta
from functools import cache
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, bindparam, delete, func, select

from controller.accounts.roles import Who
from controller.accounts.tables import answers
from controller.database import reading, to_db, utc_now, writing
from controller.fleet.sql import Insert, insert_of
from schemas.errors import OperatorError

KEEP: Final = timedelta(hours=24)
MAX_ANSWERS: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of all kept answers together; the oldest go first."""
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""A larger answer is not kept, and its request is done again."""
MAX_KEY: Final = 255


_FRESH: Final = select(answers).where(answers.c.key == bindparam("key"), answers.c.at > bindparam("oldest"))
_FORGET: Final = delete(answers).where(answers.c.at <= bindparam("oldest"))
_SIZE: Final = select(func.count(), func.coalesce(func.sum(answers.c.size), 0))


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it was given. `request` is the hash of what was asked."""

    request: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Answers:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, key: str, now: datetime | None = None) -> Answer | None:
        """What was answered to the request with this key (`key_of`) within the last day."""
        about = {"key": key, "oldest": to_db((now or utc_now()) - KEEP)}
        with reading(self._engine) as connection:
            row = connection.execute(_FRESH, about).mappings().first()
        if row is None:
            return None
        headers = msgspec.json.decode(row["headers"], type=list[tuple[str, str]])
        return Answer(request=row["request"], status=row["status"], headers=headers, body=row["body"])

    def keep(self, key: str, answer: Answer, now: datetime | None = None) -> None:
        """Keep an answer; one that is too large is not kept."""
        now = now or utc_now()
        if len(answer.body) > MAX_ANSWER_BYTES:
            return
        values = {
            "request": answer.request,
            "status": answer.status,
            "headers": msgspec.json.encode(answer.headers).decode(),
            "body": answer.body,
            "size": len(answer.body),
            "at": to_db(now),
        }
        with writing(self._engine) as connection:
            connection.execute(_FORGET, {"oldest": to_db(now - KEEP)})
            _make_room(connection, len(answer.body))
            connection.execute(_kept(connection.dialect.name), {"key": key, **values})

    def forget_old(self, now: datetime | None = None) -> int:
        """Remove what is older than a day; returns how many."""
        with writing(self._engine) as connection:
            return connection.execute(_FORGET, {"oldest": to_db((now or utc_now()) - KEEP)}).rowcount


@cache
def _kept(dialect: str) -> Insert:
    names = [column.name for column in answers.columns]
    added = insert_of(dialect, answers, names)
    new = {name: added.excluded[name] for name in names if name != "key"}
    return added.on_conflict_do_update(index_elements=["key"], set_=new)


def key_of(who: Who, given: str) -> str:
    """What an answer is kept under: keys of one asker mean nothing to another.

    Raises:
        OperatorError: `input.bad` for a key that is empty, too long or not printable ASCII.
    """
    if not (0 < len(given) <= MAX_KEY and given.isascii() and given.isprintable()):
        raise OperatorError("input.bad", f"an Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters")
    return hashlib.sha256(f"{who.actor}\0{given}".encode()).hexdigest()


def _make_room(connection: Connection, size: int) -> None:
    count, total = connection.execute(_SIZE).one()
    while count >= MAX_ANSWERS or total + size > MAX_BYTES:
        oldest = connection.execute(select(answers.c.key, answers.c.size).order_by(answers.c.at).limit(1)).first()
        if oldest is None:
            return
        connection.execute(delete(answers).where(answers.c.key == oldest.key))
        count, total = count - 1, total - oldest.size
