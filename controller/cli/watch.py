"""`flotilla watch`: every step of every device as it happens."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from controller.cli.common import clock_text, controller_options, harmless_json, printable, tell_warnings
from controller.cli.connection import away, away_in, tell_as_of_then
from controller.cli.fleet import event_text
from controller.cli.following import GONE, Change, gone_text, keep_following, why_gone
from controller.client import ControllerClient
from controller.fleet.views import Device
from controller.rollouts.plan import Verdict
from schemas.errors import OperatorError
from schemas.messages import Phase, Presence, UpdateEvent

STYLES = {
    Phase.SUCCEEDED: "green",
    Phase.ROLLED_BACK: "yellow",
    Phase.ROLLING_BACK: "yellow",
    Phase.FAILED: "red",
    Phase.REJECTED: "red",
    Phase.CANCELLED: "dim",
}

_LINKS = (GONE, "connection")

_COUNT: Final = rf"[0-9]+ (?:{'|'.join(verdict.value.replace('_', ' ') for verdict in Verdict)})\b"
_COUNTS: Final = re.compile(rf"{_COUNT}(?:, {_COUNT})*")
"""How many devices have which verdict, as reasons have it: `2 updating, 1 pending`."""
_NUMBER: Final = re.compile(r"(?<!wave )(?<![\w.-])[0-9]+(?![\w.-])")
"""Any other number but a wave's, and none within a device's name or a version."""


@click.command()
@click.option("--package", metavar="NAME", help="Only updates of this package.")
@click.option("--device", "only", metavar="ID", help="Only this device.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@controller_options
def watch(package: str | None, only: str | None, client: ControllerClient, *, as_json: bool) -> None:
    """Show what devices report, live, until Ctrl-C; it goes on by itself when the controller was restarted."""
    console = Console(highlight=False)
    changes = keep_following(client, "watch")
    if only is not None:
        _tell_if_unknown(client, only)
    gone = tell_as_of_then(client) is not None
    click.echo("watching; Ctrl-C ends it", err=True)
    told: dict[str, object] = {}
    for kind, data in _with_connection(client, changes):
        if kind in _LINKS:
            # whatever is asked for, while either is away it does not come
            line, gone = _of_link(kind, data, gone=gone)
            if as_json:
                click.echo(_as_json(kind, data))
            elif line is not None:
                console.print(line, soft_wrap=True)
            continue
        if only and data.get("device") != only:
            continue
        if package and data.get("package") != package:
            continue
        if as_json:
            click.echo(_as_json(kind, data))
        elif kind == "rollout" and told.get(data["id"]) == _place(data):
            continue  # only its counts have changed, which the devices' own lines tell
        elif line := _line(kind, data):
            console.print(line, soft_wrap=True)
            if kind == "rollout":
                told[data["id"]] = _place(data)


def _tell_if_unknown(client: ControllerClient, device: str) -> None:
    """It may still come, so it is watched for all the same."""
    try:
        client.get(Device, "devices", device)
    except OperatorError as error:
        if error.code != "device.unknown":
            raise
        tell_warnings([f"{error.message}; those that there are: flotilla devices"])


def _with_connection(client: ControllerClient, changes: Iterator[Change]) -> Iterator[Change]:
    """Tell after a gap how the broker is: what was said of it meanwhile is not said again."""
    for kind, data in changes:
        yield kind, data
        if kind == GONE and why_gone(data) is None:
            reason = away(client)
            yield "connection", {"connected": reason is None, "error": reason}


def _as_json(kind: str, data: dict[str, Any]) -> str:
    return harmless_json(msgspec.json.encode({"kind": kind} | data))


def _place(data: dict[str, Any]) -> object:
    """What of a rollout is worth a line: its state, and the reason without its counts, which every device changes."""
    return data["state"], _NUMBER.sub("#", _COUNTS.sub("#", data["because"]))


def _of_link(kind: str, data: dict[str, Any], *, gone: bool) -> tuple[Text | None, bool]:
    """A line on the controller or its broker, if there is news; and whether the broker is away."""
    if kind == GONE:
        return _of_controller(why_gone(data)), gone
    reason = away_in(data)
    # while it is, the reason changes from one attempt to the next
    news = gone != (reason is not None)
    return (_of_broker(reason) if news else None), reason is not None


def _of_controller(reason: str | None) -> Text:
    now = clock_text(datetime.now(UTC))
    if reason is None:
        return Text(f"{now}  the controller answers again", style="bold")
    return Text(printable(f"{now}  {gone_text(reason)}"), style="bold red")


def _of_broker(reason: str | None) -> Text:
    now = clock_text(datetime.now(UTC))
    if reason is None:
        return Text(f"{now}  the broker is there again", style="bold")
    line = f"{now}  the broker is away ({reason}): nothing is heard of devices until it is back"
    return Text(printable(line), style="bold red")


def _line(kind: str, data: dict[str, Any]) -> Text | None:
    if kind == "update":
        event = msgspec.convert(data, UpdateEvent)
        text = f"{clock_text(event.at)}  {event.device:<20} {event.package} {event.version:<10} {event.phase:<12} "
        return Text(printable(text + event_text(event)), style=STYLES.get(event.phase, ""))
    if kind == "presence":
        presence = msgspec.convert(data, Presence)
        word = "online" if presence.online else "offline"
        return Text(f"{clock_text(presence.at)}  {presence.device:<20} {word}", style="dim")
    if kind == "forgotten":
        return Text(printable(f"{clock_text(datetime.now(UTC))}  {data['device']:<20} forgotten"), style="dim")
    if kind == "rollout":
        what = f"rollout {data['package']} {data['version']} on {data['channel']}: {data['state']}, {data['because']}"
        return Text(printable(f"{clock_text(datetime.now(UTC))}  {what}"), style="bold")
    return None
