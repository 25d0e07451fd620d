"""What a command adds where the controller is not connected to the broker: nothing is lost, and nothing is new."""

from collections.abc import Mapping
from typing import Any, Final

from controller.cli.common import tell_warnings
from controller.client import ControllerClient
from controller.http.views import ControllerView
from schemas.errors import FlotillaError

_NO_REASON: Final = "no reason is known"


def tell_stored(client: ControllerClient) -> None:
    """After a change: one line on stderr where devices hear of it only later."""
    reason = away(client)
    if reason is not None:
        tell_warnings([f"stored; the broker is away ({reason}), so devices hear of it when it is back"])


def tell_as_of_then(client: ControllerClient) -> str | None:
    """After facts about devices: one line on stderr where they are as old as the connection's end.

    Returns:
        As `away`.
    """
    reason = away(client)
    if reason is not None:
        tell_warnings([as_of_then(reason)])
    return reason


def as_of_then(reason: str) -> str:
    """What there is to say beside facts about devices while the broker is away."""
    return f"the controller is not connected to the broker ({reason}): what is shown is as of when it last was"


def away_in(data: Mapping[str, Any]) -> str | None:
    """The same as `away`, out of a live view's `connection`."""
    return None if data["connected"] else data["error"] or _NO_REASON


def away(client: ControllerClient) -> str | None:
    """Why the broker is not there; None where it is, and where the controller cannot be asked: what was done, is."""
    try:
        view = client.get(ControllerView, "controller")
    except FlotillaError:
        return None
    return None if view.connected else view.error or _NO_REASON
