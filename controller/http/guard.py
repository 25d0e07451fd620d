"""Who may talk to the controller: this machine, or whoever has the token where others can reach it."""

import contextlib
import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Final

from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException
from litestar.handlers.base import BaseRouteHandler

from schemas.errors import OperatorError, one_line

TOKEN_BYTES: Final = 32
MIN_TOKEN: Final = 16


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
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError("data.bad", f"cannot read or make the API token {path}: {one_line(error)}") from error
    if len(token) < MIN_TOKEN:
        raise OperatorError("data.bad", f"the API token in {path} is too short; remove the file to get a new one")
    return token


class Guard:
    """A Litestar guard.

    Where only this machine can connect there is no token, but a web page that someone opens here could
    still send requests: so the Host header must name this machine, which a page from elsewhere, even
    with a rebound name, cannot arrange.

    Args:
        token: what to insist on; None on loopback.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]  # any state
        """Raise for whoever may not."""
        if self._token is None:
            if not is_loopback(_host_name(connection.headers.get("host", ""))):
                raise ClientException("this controller listens on this machine only; call it by 127.0.0.1 or localhost")
            return
        scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise OperatorError(
                "auth.refused",
                "this needs the controller's API token (--token or FLOTILLA_TOKEN); it is in DATA/api-token",
            )


def _host_name(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
