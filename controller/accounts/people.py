"""Accounts of people, and the sessions that a login begins."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from controller.accounts.passwords import check_length, hash_password, is_outdated, is_right
from controller.accounts.roles import Role, Who
from controller.accounts.tables import sessions, users
from controller.accounts.views import NAME_PATTERN, User
from controller.database import from_db, reading, to_db, utc_now, writing
from schemas.errors import OperatorError, one_line
from schemas.names import matches

IDLE: Final = timedelta(hours=12)
"""A session that is not used for so long is over."""
ABSOLUTE: Final = timedelta(days=7)
"""And so is one of this age, used or not."""
MAX_SESSIONS: Final = 20
"""Of one account; a further login ends the oldest."""
SEEN_EVERY: Final = timedelta(minutes=1)
SECRET_BYTES: Final = 32


class People:
    """Synchronous, safe from any thread. `now` is the controller's clock and may be passed in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, role: Role, password: str, now: datetime | None = None) -> User:
        """A new account.

        Raises:
            OperatorError: `input.bad` for the name or the password, `account.exists`.
        """
        if not matches(NAME_PATTERN, name):
            raise OperatorError(
                "input.bad", f"{one_line(name)!r} is no account name: small letters, digits, '.', '_', '@' and '-'"
            )
        moment = to_db(now or utc_now())
        values = {"name": name, "password": hash_password(password), "role": role.value}
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(users).values(**values, created_at=moment, changed_at=moment))
        except IntegrityError as error:
            raise OperatorError("account.exists", f"there is an account {name} already") from error
        return self.get(name)

    def page(self, *, after: str = "", limit: int = 100) -> list[User]:
        """By name."""
        with reading(self._engine) as connection:
            found = connection.execute(_with_counts().where(users.c.name > after).order_by(users.c.name).limit(limit))
            return [_user(row) for row in found.mappings()]

    def get(self, name: str) -> User:
        """One account; raises `OperatorError` (`account.unknown`)."""
        with reading(self._engine) as connection:
            row = connection.execute(_with_counts().where(users.c.name == name)).mappings().first()
        if row is None:
            raise _unknown(name)
        return _user(row)

    def any(self) -> bool:
        """Whether there is an account at all."""
        return bool(self.page(limit=1))

    def set_password(self, name: str, password: str, now: datetime | None = None) -> User:
        """Another password; ends every session of the account. Raises as `add`, or `account.unknown`."""
        self._change(name, now, password=hash_password(password))
        return self.get(name)

    def change_password(self, name: str, old: str, new: str, now: datetime | None = None) -> None:
        """Another password for whoever knows the old one; ends every session of the account, and begins none.

        Raises:
            OperatorError: `input.bad` for the new one, `auth.refused` for the old one.
        """
        check_length(new)
        kept = self._kept(name)
        if not is_right(kept, old):
            raise _wrong()
        # a password that was changed, or an account that was removed, while this one was checked
        same = (users.c.name == name) & (users.c.password == kept)
        changed = update(users).where(same).values(password=hash_password(new), changed_at=to_db(now or utc_now()))
        with writing(self._engine) as connection:
            if not connection.execute(changed).rowcount:
                raise _wrong()
            connection.execute(delete(sessions).where(sessions.c.user_name == name))

    def set_role(self, name: str, role: Role, now: datetime | None = None) -> User:
        """Another role, from the next request on; ends every session of the account, as OWASP advises."""
        self._change(name, now, role=role.value)
        return self.get(name)

    def remove(self, name: str) -> None:
        """End an account and its sessions; raises `OperatorError` (`account.unknown`)."""
        with writing(self._engine) as connection:
            if not connection.execute(delete(users).where(users.c.name == name)).rowcount:
                raise _unknown(name)
            connection.execute(delete(sessions).where(sessions.c.user_name == name))

    def log_in(self, name: str, password: str, address: str, now: datetime | None = None) -> tuple[str, Who]:
        """Begin a session.

        Returns:
            The secret for the cookie, which is kept nowhere, and who it stands for.

        Raises:
            OperatorError: `auth.refused`, in the same words and time for an unknown name as for a wrong password.
        """
        now = now or utc_now()
        kept = self._kept(name)
        if not is_right(kept, password):
            raise _wrong()
        fresh = hash_password(password) if kept is not None and is_outdated(kept) else kept
        secret = secrets.token_urlsafe(SECRET_BYTES)
        with writing(self._engine) as connection:
            # a password that was changed, or an account that was removed, while this one was checked
            same = (users.c.name == name) & (users.c.password == kept)
            role = connection.scalar(select(users.c.role).where(same).with_for_update())
            if role is None:
                raise _wrong()
            connection.execute(update(users).where(users.c.name == name).values(password=fresh))
            _end_the_oldest(connection, name)
            values = {"digest": digest_of(secret), "user_name": name, "address": one_line(address, 64)}
            moment = to_db(now)
            connection.execute(insert(sessions).values(**values, created_at=moment, seen_at=moment))
        return secret, Who(kind="user", name=name, role=Role(role), session=values["digest"])

    def who(self, secret: str, now: datetime | None = None, *, noted: bool = True) -> Who | None:
        """Whose session a cookie is; None for one that is over or never was. `noted`: whether it is in use by that."""
        now = now or utc_now()
        digest = digest_of(secret)
        joined = select(sessions, users.c.role).join(users, users.c.name == sessions.c.user_name)
        with reading(self._engine) as connection:
            row = connection.execute(joined.where(sessions.c.digest == digest)).mappings().first()
        if row is None or row["seen_at"] <= to_db(now - IDLE) or row["created_at"] <= to_db(now - ABSOLUTE):
            return None
        if noted and row["seen_at"] <= to_db(now - SEEN_EVERY):
            with writing(self._engine) as connection:
                seen = update(sessions).where(sessions.c.digest == digest)
                connection.execute(seen.values(seen_at=to_db(now)))
        return Who(kind="user", name=row["user_name"], role=Role(row["role"]), session=digest)

    def log_out(self, session: str) -> None:
        """End the session of this digest (`Who.session`); one that is over already is no error."""
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == session))

    def forget_old_sessions(self, now: datetime | None = None) -> int:
        """Remove the rows of sessions that are over; returns how many."""
        now = now or utc_now()
        over = (sessions.c.seen_at <= to_db(now - IDLE)) | (sessions.c.created_at <= to_db(now - ABSOLUTE))
        with writing(self._engine) as connection:
            return connection.execute(delete(sessions).where(over)).rowcount

    def _kept(self, name: str) -> str | None:
        """The hash of an account's password; None where there is no such account."""
        # whatever else somebody types is no question for a database, which may not even take it
        if not matches(NAME_PATTERN, name):
            return None
        with reading(self._engine) as connection:
            return connection.scalar(select(users.c.password).where(users.c.name == name))

    def _change(self, name: str, now: datetime | None, **values: str) -> None:
        with writing(self._engine) as connection:
            changed = update(users).where(users.c.name == name).values(**values, changed_at=to_db(now or utc_now()))
            if not connection.execute(changed).rowcount:
                raise _unknown(name)
            connection.execute(delete(sessions).where(sessions.c.user_name == name))


def digest_of(secret: str) -> str:
    """What is kept of a random secret: with 256 bits of chance in it, a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _end_the_oldest(connection: Connection, name: str) -> None:
    newest = select(sessions.c.digest).where(sessions.c.user_name == name).order_by(sessions.c.created_at.desc())
    kept = connection.scalars(newest.limit(MAX_SESSIONS - 1)).all()
    connection.execute(delete(sessions).where(sessions.c.user_name == name, sessions.c.digest.not_in(kept)))


def _with_counts() -> Any:
    count = select(func.count()).where(sessions.c.user_name == users.c.name).scalar_subquery()
    return select(users, count.label("sessions"))


def _user(row: Any) -> User:
    return User(
        name=row["name"],
        role=Role(row["role"]),
        created_at=from_db(row["created_at"]),
        changed_at=from_db(row["changed_at"]),
        sessions=row["sessions"],
    )


def _wrong() -> OperatorError:
    return OperatorError("auth.refused", "the name or the password is wrong")


def _unknown(name: str) -> OperatorError:
    return OperatorError("account.unknown", f"there is no account {one_line(name)}")
