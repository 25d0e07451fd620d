"""Who may talk to the controller: this machine, or whoever has the token where others can reach it."""

import contextlib
import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Final

from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException, HTTPException
from litestar.handlers.base import BaseRouteHandler

from schemas.errors import OperatorError, one_line

TOKEN_BYTES: Final = 32
MIN_TOKEN: Final = 16

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_TYPES: Final = ("application/json", "application/octet-stream")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


class Guard:
    """A Litestar guard.

    Where only this machine can connect there is no token, but a web page that someone opens here could
    still send requests. So the Host header must name this machine, which a page from elsewhere cannot
    arrange even with a rebound name; the Origin, which browsers send and no page can leave out, must be
    this server; and what is sent must be of a type for which browsers ask first, which forms are not.

    Args:
        token: what to insist on; None on loopback.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]  # any state
        """Raise for whoever may not."""
        if self._token is None:
            _refuse_foreign_pages(connection)
        else:
            _require_token(connection, self._token)
        if connection.scope["method"] in _WITH_BODY:  # type: ignore[typeddict-item]  # only HTTP comes here
            _require_type(connection)


def _refuse_foreign_pages(connection: ASGIConnection) -> None:  # type: ignore[type-arg]  # any state
    host = connection.headers.get("host", "")
    if not is_loopback(_host_name(host)):
        raise ClientException("this controller listens on this machine only; call it by 127.0.0.1 or localhost")
    origin = connection.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise HTTPException("requests from other sites' pages are refused", status_code=403)


def _require_token(connection: ASGIConnection, token: str) -> None:  # type: ignore[type-arg]  # any state
    scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise OperatorError(
            "auth.refused",
            "this needs the controller's API token (--token or FLOTILLA_TOKEN); it is in DATA/api-token",
        )


def _require_type(connection: ASGIConnection) -> None:  # type: ignore[type-arg]  # any state
    given = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in _TYPES:
        raise HTTPException(
            f"send {' or '.join(_TYPES)}, and not {one_line(given, 60) or 'a body without a Content-Type'}",
            status_code=415,
        )


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
