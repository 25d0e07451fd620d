"""What a handler can learn about whoever asks, and what it can say for the audit log."""

import asyncio
from typing import Any, Final

from litestar.connection import ASGIConnection

from controller.accounts.roles import NOBODY, Who

WHO: Final = "flotilla_who"
ABOUT: Final = "flotilla_about"
DEEDS: Final = "flotilla_deeds"
UNCHANGED: Final = "flotilla_unchanged"
REFUSED: Final = "flotilla_refused"
ENDING: Final = "flotilla_ending"

Connection = ASGIConnection[Any, Any, Any, Any]


def who_of(connection: Connection) -> Who:
    """Whoever makes this request."""
    found = connection.scope["state"].get(WHO, NOBODY)
    return found if isinstance(found, Who) else NOBODY


def is_now(connection: Connection, who: Who) -> None:
    """From here on the request counts as theirs, as after a login."""
    connection.scope["state"][WHO] = who


def about(connection: Connection, target: str) -> None:
    """On what the request works, where its address does not say so."""
    connection.scope["state"][ABOUT] = target


def does(connection: Connection, *actions: str) -> None:
    """What is asked for, where only the body says so: the audit log has a row for each, named as the page's buttons.

    Without any, the rule's own name stays.
    """
    connection.scope["state"][DEEDS] = actions


def nothing_changed(connection: Connection) -> None:
    """The request was only a question: no row in the audit log."""
    connection.scope["state"][UNCHANGED] = True


def refused(connection: Connection, code: str) -> None:
    """Why what is asked for is not done, where the answer is a page: the audit log has it as that of the API."""
    connection.scope["state"][REFUSED] = code


def address_of(connection: Connection) -> str:
    """Where the request came from; behind a proxy that is trusted, the client that it names."""
    return connection.client.host if connection.client is not None else ""


def ending_of(connection: Connection) -> asyncio.Event:
    """Set when a live view is to end: the controller stops, or whoever watches may not any more."""
    found = connection.scope["state"][ENDING]
    assert isinstance(found, asyncio.Event)  # noqa: S101  # for the type checker: the middleware has put it there
    return found
