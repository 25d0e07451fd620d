"""Where the commands about accounts do their work: at a controller, or on a data folder without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from controller.accounts.audit import AuditLog, local_person
from controller.accounts.people import People
from controller.accounts.roles import Role
from controller.accounts.tokens import Tokens
from controller.accounts.views import ApiToken, NewToken, User
from controller.client import ControllerClient
from controller.database import open_database, sqlite_url
from controller.http.account_views import PasswordWish, RoleWish, TokenWish, UserWish
from controller.http.views import MAX_PAGE, Page
from schemas.errors import FlotillaError, OperatorError

T = TypeVar("T")


class Desk:
    """Works on accounts through the API, or on a data folder itself; every change is written into the same log."""

    def __init__(self, client: ControllerClient, data: Path | None, database: str | None) -> None:
        self._client = client
        self._data = data
        self._database = database

    def users(self) -> list[User]:
        """All accounts."""
        if self._data is not None:
            with self._opened() as engine:
                people = People(engine)
                return _all(lambda after: people.page(after=after, limit=MAX_PAGE), lambda user: user.name)
        return _pages(self._client, User, "users")

    def tokens(self) -> list[ApiToken]:
        """All tokens."""
        if self._data is not None:
            with self._opened() as engine:
                tokens = Tokens(engine)
                return _all(lambda after: tokens.page(after=after, limit=MAX_PAGE), lambda token: token.name)
        return _pages(self._client, ApiToken, "tokens")

    def add_user(self, name: str, role: Role, password: str) -> User:
        """A new account."""
        if self._data is None:
            return self._client.send("POST", User, "users", body=UserWish(name=name, role=role, password=password))
        return self._locally(
            "user.add", name, lambda engine: People(engine).add(name, role, password), f'{{"role":"{role}"}}'
        )

    def set_password(self, name: str, password: str) -> User:
        """Another password."""
        if self._data is None:
            return self._client.send("PUT", User, "users", name, "password", body=PasswordWish(password=password))
        return self._locally("user.password", name, lambda engine: People(engine).set_password(name, password))

    def set_role(self, name: str, role: Role) -> User:
        """Another role."""
        if self._data is None:
            return self._client.send("PUT", User, "users", name, "role", body=RoleWish(role=role))
        return self._locally(
            "user.role", name, lambda engine: People(engine).set_role(name, role), f'{{"role":"{role}"}}'
        )

    def remove_user(self, name: str) -> None:
        """No such account any more."""
        if self._data is None:
            self._client.delete("users", name)
        else:
            self._locally("user.remove", name, lambda engine: People(engine).remove(name))

    def add_token(self, name: str, role: Role, days: float | None) -> NewToken:
        """A new token."""
        if self._data is None:
            return self._client.send(
                "POST", NewToken, "tokens", body=TokenWish(name=name, role=role, expires_days=days)
            )
        lasts = None if days is None else timedelta(days=days)
        return self._locally(
            "token.add", name, lambda engine: Tokens(engine).add(name, role, lasts=lasts), f'{{"role":"{role}"}}'
        )

    def revoke_token(self, name: str) -> None:
        """Good for nothing any more."""
        if self._data is None:
            self._client.delete("tokens", name)
        else:
            self._locally("token.revoke", name, lambda engine: Tokens(engine).revoke(name))

    def _locally(self, action: str, target: str, change: Callable[[Engine], T], detail: str = "") -> T:
        with self._opened() as engine:
            log = AuditLog(engine)
            try:
                made = change(engine)
            except FlotillaError as error:
                log.write(local_person(), action, target, via="cli", detail=detail, result=error.code)
                raise
            log.write(local_person(), action, target, via="cli", detail=detail)
            return made

    @contextmanager
    def _opened(self) -> Iterator[Engine]:
        with opened_data(self._data or Path(), self._database) as engine:
            yield engine


@contextmanager
def opened_data(data: Path, database: str | None) -> Iterator[Engine]:
    """The database of a data folder; raises `OperatorError` (`data.bad`) where there is no such folder."""
    if not data.is_dir():
        raise OperatorError("data.bad", f"--data {data}: no such folder; `flotilla serve` makes it at its first start")
    engine = open_database(database or sqlite_url(data / "flotilla.db"))
    try:
        yield engine
    finally:
        engine.dispose()


def _all(page: Callable[[str], list[T]], key: Callable[[T], str]) -> list[T]:
    found: list[T] = []
    while some := page(key(found[-1]) if found else ""):
        found += some
    return found


def _pages(client: ControllerClient, kind: type[T], *path: str) -> list[T]:
    found: list[T] = []
    after: str | None = None
    while True:
        page = client.get(Page[kind], *path, query={"after": after, "limit": MAX_PAGE})  # type: ignore[valid-type]  # the type is a value here
        found += page.items
        if page.next is None:
            return found
        after = page.next
