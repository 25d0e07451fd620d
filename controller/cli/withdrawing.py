"""`flotilla yank`, `withdraw` and `gc`: taking back what was published, in three strengths."""

import click

from controller.cli.common import controller_options, json_option, print_json, tell_warnings
from controller.cli.connection import tell_stored
from controller.client import ControllerClient
from controller.http.views import YankView, YankWish
from controller.rollouts.views import Rollout


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--undo", is_flag=True, help="Let it be chosen again.")
@click.option("--reason", default="", metavar="TEXT", help="Why; shown wherever the version is.")
@controller_options
@json_option
def yank(name: str, version: str, reason: str, client: ControllerClient, *, undo: bool, as_json: bool) -> None:
    """Let VERSION of package NAME be chosen no more.

    Lists leave it out and it cannot be released. Devices that have it keep it, and those that fetch it go on:
    nothing is removed.
    """
    wish = YankWish(yanked=not undo, reason=reason)
    answer = client.send("POST", YankView, "packages", name, version, "yank", body=wish)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{name} {version} {'can be chosen again' if undo else 'is yanked'}")
    tell_warnings(answer.warnings)


@click.command()
@click.argument("name")
@click.option("--channel", required=True, metavar="CHANNEL", help="Where.")
@controller_options
@json_option
def withdraw(name: str, channel: str, client: ControllerClient, *, as_json: bool) -> None:
    """Announce package NAME on a channel no more: nobody new starts, and devices keep what they have."""
    rollout = client.send("DELETE", Rollout, "channels", channel, "releases", name)
    if as_json:
        print_json(rollout)
    else:
        click.echo(f"channel {channel} announces {name} no more; it was {rollout.version}, rollout {rollout.id}")
    tell_stored(client)
