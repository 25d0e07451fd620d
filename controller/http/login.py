"""Logging in and out: the session behind the cookie, for the page's form and for the API."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from litestar import Request
from litestar.datastructures import Cookie

from controller.accounts.audit import AuditLog
from controller.accounts.passwords import check_length
from controller.accounts.people import ABSOLUTE, People
from controller.accounts.roles import Who
from controller.accounts.throttle import LoginThrottle
from controller.accounts.tokens import Tokens
from controller.http.guard import COOKIE
from controller.http.noting import about, address_of, is_now, nothing_changed
from schemas.errors import OperatorError, one_line

CHECKED_AT_ONCE: Final = 2
"""Each takes 64 MiB and a core while it lasts."""
WAITING: Final = 16

T = TypeVar("T")


class TooManyLoginsError(OperatorError):
    """Refused unseen; `retry_after_s` says when the next try counts."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = max(1, round(retry_after_s + 0.5))
        super().__init__("auth.limit", f"too many failed logins; try again in {self.retry_after_s} s")


class Accounts:
    """What the handlers about accounts share.

    Args:
        people: accounts and sessions.
        tokens: tokens of machines.
        audit: the log of changes.
        has_file_token: whether the token in the data folder is good for something.
    """

    def __init__(self, people: People, tokens: Tokens, audit: AuditLog, *, has_file_token: bool) -> None:
        self.people = people
        self.tokens = tokens
        self.audit = audit
        self.has_file_token = has_file_token
        self._throttle = LoginThrottle()
        self._turn = threading.Lock()
        self._checks = CapacityLimiter(CHECKED_AT_ONCE)

    async def log_in(self, request: Request[Any, Any, Any], name: str, password: str) -> tuple[Cookie, Who]:
        """Begin a session.

        Returns:
            The cookie to set, and who it stands for.

        Raises:
            OperatorError: `auth.refused`.
            TooManyLoginsError: without a look at the password.
        """
        address = address_of(request)
        secret, who = await self._checked(request, name, lambda: self.people.log_in(name, password, address))
        is_now(request, who)
        return _cookie(request, secret), who

    async def change_password(self, request: Request[Any, Any, Any], name: str, old: str, new: str) -> None:
        """Give an account another password, which ends its sessions; a wrong old one counts as a login that failed.

        Raises:
            OperatorError: `input.bad` for the new one, without a look at the old one; `auth.refused` for that.
            TooManyLoginsError: without a look at the old one.
        """
        check_length(new)
        await self._checked(request, name, lambda: self.people.change_password(name, old, new))

    async def log_out(self, who: Who) -> None:
        """End the session that the request came with, if it did."""
        if who.session is not None:
            await to_thread.run_sync(self.people.log_out, who.session)

    async def _checked(self, request: Request[Any, Any, Any], name: str, work: Callable[[], T]) -> T:
        """Do what checks a password: so many at once, and not after too many that were wrong."""
        address = address_of(request)
        about(request, one_line(name, 63))
        try:
            self._let_in(name, address)
        except TooManyLoginsError:
            # the tries that count are in the log; those that are refused unseen could fill it
            nothing_changed(request)
            raise
        found = await to_thread.run_sync(work, limiter=self._checks)
        with self._turn:
            self._throttle.succeeded(name, address)
        return found

    def _let_in(self, name: str, address: str) -> None:
        with self._turn:
            wait_s = self._throttle.admit(name, address, time.monotonic())
        if wait_s > 0:
            raise TooManyLoginsError(wait_s)
        if self._checks.statistics().tasks_waiting >= WAITING:
            raise TooManyLoginsError(1)


def no_cookie(request: Request[Any, Any, Any]) -> Cookie:
    """Takes the session's cookie from the browser."""
    return Cookie(COOKIE, value="", max_age=0, httponly=True, samesite="strict", secure=_is_tls(request))


def local_path(text: str | None) -> str:
    """Where to go after a login: an address on this server, or the start."""
    if not text or not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return "/"
    parts = urlsplit(text)
    return "/" if parts.scheme or parts.netloc else text


def _cookie(request: Request[Any, Any, Any], secret: str) -> Cookie:
    # no script can read it, no other site's page can have it sent, and where TLS is in front it goes over TLS only
    return Cookie(
        COOKIE,
        value=secret,
        max_age=int(ABSOLUTE.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=_is_tls(request),
    )


def _is_tls(request: Request[Any, Any, Any]) -> bool:
    return request.scope["scheme"] == "https"
