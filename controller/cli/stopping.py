"""`flotilla cancel` and `retry`: taking a release back, or having it tried again, on one device or all."""

import click

from controller.cli.common import controller_options, json_option, plural, print_json
from controller.cli.connection import tell_stored
from controller.client import ControllerClient
from controller.http.views import DeviceChoice, RolloutDetail
from controller.rollouts.views import Rollout


@click.command()
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--device", metavar="ID", help="Only on this device, and never again by this rollout; the others go on.")
@controller_options
@json_option
def cancel(rollout_id: str, device: str | None, client: ControllerClient, *, as_json: bool) -> None:
    """Ask devices to stop a rollout's update, unless they have switched; without --device the rollout is halted.

    It is done on a device when that says so; until then it is shown as asked for.
    """
    rollout = client.send("POST", Rollout, "rollouts", rollout_id, "cancel", body=DeviceChoice(device=device))
    tell_stored(client)
    if as_json:
        print_json(rollout)
        return
    what = f"{rollout.package} {rollout.version} on channel {rollout.channel}"
    if device is not None:
        click.echo(f"cancel of {what} asked of {device}; whether it is done shows in: flotilla rollout {rollout.id}")
        return
    waiting = client.get(RolloutDetail, "rollouts", rollout_id).unanswered
    click.echo(f"{what} is {rollout.state}; cancel asked, {plural(waiting, 'device')} of it yet to answer")


@click.command()
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--device", metavar="ID", help="Only on this device.")
@controller_options
@json_option
def retry(rollout_id: str, device: str | None, client: ControllerClient, *, as_json: bool) -> None:
    """Have devices on which a rollout failed, was rolled back, rejected or cancelled try again, once each."""
    rollout = client.send("POST", Rollout, "rollouts", rollout_id, "retry", body=DeviceChoice(device=device))
    tell_stored(client)
    if as_json:
        print_json(rollout)
        return
    # by its answer: who is quick has answered already, and is not counted as waited for any more
    click.echo(
        f"retry of {rollout.package} {rollout.version} on channel {rollout.channel} asked of "
        f"{device or plural(rollout.asked, 'device')}; follow it with: flotilla rollout {rollout.id}"
    )
