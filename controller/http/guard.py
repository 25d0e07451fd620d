"""Who may talk to the controller: this machine, or where others can reach it, whoever has a token or has logged in."""

import contextlib
import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from anyio import to_thread
from litestar.exceptions import ClientException, HTTPException

from controller.accounts.people import People
from controller.accounts.roles import NOBODY, Role, Who
from controller.accounts.tokens import Tokens
from controller.accounts.views import FILE_TOKEN
from controller.http.noting import Connection, is_now
from controller.http.rules import Rule
from schemas.errors import OperatorError, one_line

TOKEN_BYTES: Final = 32
MIN_TOKEN: Final = 16
COOKIE: Final = "flotilla_session"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FILE_TYPE: Final = "application/octet-stream"

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_JSON: Final = "application/json"
_LOCAL: Final = Who(kind="local", name="loopback", role=Role.ADMIN)
_OF_FILE: Final = Who(kind="token", name=FILE_TOKEN, role=Role.ADMIN)


class LoginNeededError(OperatorError):
    """A browser asked for a page without a session: it is sent to log in, and comes back to `wanted`."""

    def __init__(self, wanted: str) -> None:
        super().__init__("auth.refused", "log in first")
        self.location = f"/login?next={quote(wanted, safe='/')}"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that the Host header names."""
    try:
        return bool(origin) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False  # no browser sends such a one


def load_token(path: Path) -> str:
    """The API token of a data folder, made at the first start, readable by its owner only.

    Raises `OperatorError` (`data.bad`) where it cannot be read or made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError("data.bad", f"cannot read or make the API token {path}: {one_line(error)}") from error
    if len(token) < MIN_TOKEN:
        raise OperatorError("data.bad", f"the API token in {path} is too short; remove the file to get a new one")
    return token


class Gate:
    """Finds out who asks, and lets them through where the rule allows it.

    Where only this machine can connect nobody has to say who they are, but a web page that someone opens here could
    still send requests. So the Host header must name this machine, which a page from elsewhere cannot arrange even
    with a rebound name; the Origin, which browsers send and no page can leave out, must be this server; and what is
    sent must be of a type for which browsers ask first, which forms are not.

    Where others can reach it, a bearer token or a session's cookie is needed. A cookie is sent by the browser whoever
    made the page, so what changes something must come from a page of this server, as the browser itself says.

    Args:
        people: for sessions.
        tokens: for the tokens in the database.
        file_token: the token in the data folder; None where nobody is asked who they are, as on loopback.
    """

    def __init__(self, people: People, tokens: Tokens, file_token: str | None) -> None:
        self._people = people
        self._tokens = tokens
        self._file_token = file_token

    async def admit(self, connection: Connection, rule: Rule) -> Who:
        """Whoever asks.

        Raises:
            OperatorError: `auth.refused` where it is not known, `auth.denied` where their role is not enough.
            LoginNeededError: the same for a page in a browser.
            HTTPException: a page of another site, or a type of content that is not meant.
        """
        is_page = not connection.scope["path"].startswith("/api/")
        changes = connection.scope["method"] not in SAFE  # type: ignore[typeddict-item]  # only HTTP comes here
        who = NOBODY
        if rule.role is not None:
            if self._file_token is None:
                _refuse_foreign_pages(connection)
            who = await self.identify(connection)
            if who is NOBODY:
                raise _stranger(connection, is_page=is_page)
            is_now(connection, who)  # the page that says no says to whom
            if not who.may(rule.role):
                raise OperatorError(
                    "auth.denied", f"this needs the role {rule.role}; {who.actor} has the role {who.role}"
                )
        is_for_all = rule.role is None and rule.action is None
        if changes and not is_for_all and (is_page or who.session is not None):
            _require_own_page(connection)
        if not is_page and connection.scope["method"] in _WITH_BODY:  # type: ignore[typeddict-item]  # as above
            _require_type(connection, rule)
        return who

    async def identify(self, connection: Connection, *, noted: bool = True) -> Who:
        """By token or session; `NOBODY` where neither is good and somebody is asked for.

        Args:
            connection: the request.
            noted: whether it counts as a use of the session, which so lasts longer.
        """
        found: Who | None = None
        if given := _bearer(connection):
            if self._file_token is not None and hmac.compare_digest(given.encode(), self._file_token.encode()):
                return _OF_FILE
            found = await to_thread.run_sync(self._tokens.who, given)
        elif cookie := connection.cookies.get(COOKIE):
            found = await to_thread.run_sync(lambda: self._people.who(cookie, noted=noted))
        return found or (_LOCAL if self._file_token is None else NOBODY)


def _bearer(connection: Connection) -> str:
    """The token that was sent, good or not; empty for none."""
    scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _stranger(connection: Connection, *, is_page: bool) -> OperatorError:
    if is_page and "text/html" in connection.headers.get("accept", ""):
        query = connection.scope["query_string"].decode("latin-1")
        is_read = connection.scope["method"] == "GET"  # type: ignore[typeddict-item]  # only HTTP comes here
        wanted = connection.scope["path"] + (f"?{query}" if query else "") if is_read else "/"
        return LoginNeededError(wanted)
    if _bearer(connection):
        # the same line for one that never was, was taken back or has a wrong letter: it helps nobody who guesses
        return OperatorError(
            "auth.refused",
            "this controller does not know that token (--token or FLOTILLA_TOKEN); see: flotilla token --help",
        )
    return OperatorError(
        "auth.refused",
        "this needs a login or a token of the controller (--token or FLOTILLA_TOKEN); the first is in DATA/api-token",
    )


def _refuse_foreign_pages(connection: Connection) -> None:
    host = connection.headers.get("host", "")
    if not is_loopback(_host_name(host)):
        raise ClientException("this controller listens on this machine only; call it by 127.0.0.1 or localhost")
    origin = connection.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise HTTPException("requests from other sites' pages are refused", status_code=403)


def _require_own_page(connection: Connection) -> None:
    """Fetch Metadata where the browser sends it, else the Origin; both are set by the browser and by no page."""
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin", "")
    own = is_own_origin(origin, connection.headers.get("host", ""))
    if not (own if site is None else site == "same-origin"):
        raise HTTPException(
            "requests from other sites' pages are refused; open the controller's page and try again", status_code=403
        )


def _require_type(connection: Connection, rule: Rule) -> None:
    types = (_JSON, FILE_TYPE) if rule.streams else (_JSON,)
    given = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not given:
        raise HTTPException(
            f"add the header Content-Type: {' or '.join(types)}; what changes something needs it even without a body",
            status_code=415,
        )
    if given not in types:
        raise HTTPException(f"send {' or '.join(types)}, and not {one_line(given, 60)}", status_code=415)


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
