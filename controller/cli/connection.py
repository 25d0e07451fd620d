"""What a command adds where the controller is not connected to the broker: nothing is lost, and nothing is new."""

from controller.cli.common import tell_warnings
from controller.client import ControllerClient
from controller.http.views import ControllerView
from schemas.errors import FlotillaError


def tell_stored(client: ControllerClient) -> None:
    """After a change: one line on stderr where devices hear of it only later."""
    reason = _away(client)
    if reason is not None:
        tell_warnings([f"stored; the broker is away ({reason}), so devices hear of it when it is back"])


def tell_as_of_then(client: ControllerClient) -> None:
    """After facts about devices: one line on stderr where they are as old as the connection's end."""
    reason = _away(client)
    if reason is not None:
        line = f"the controller is not connected to the broker ({reason}): what is shown is as of when it last was"
        tell_warnings([line])


def _away(client: ControllerClient) -> str | None:
    """Why the broker is not there; None where it is, and where the controller cannot be asked: what was done, is."""
    try:
        view = client.get(ControllerView, "controller")
    except FlotillaError:
        return None
    return None if view.connected else view.error or "no reason is known"
