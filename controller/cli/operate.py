"""`flotilla pause`, `resume`, `halt`, `ask`, `tell`, `forget` and `delete`: what an operator decides."""

import click

from controller.cli.common import (
    controller_options,
    json_option,
    plural,
    print_json,
    printable,
    somebody_there,
    tell_warnings,
    time_text,
)
from controller.cli.connection import tell_as_of_then, tell_stored
from controller.client import ControllerClient
from controller.fleet.views import Device
from controller.http.views import Asked, CommandWish, DesiredWish, RolloutDetail, StateWish, Told
from controller.rollouts.explaining import already
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.views import Rollout, WaveState
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.messages import OF_PACKAGE, Verb
from schemas.versions import parse


def _state_command(name: str, state: RolloutState, text: str) -> click.Command:
    @click.command(name, help=text, short_help=text)
    @click.argument("rollout_id", metavar="ROLLOUT")
    @controller_options
    @json_option
    def command(rollout_id: str, client: ControllerClient, *, as_json: bool) -> None:
        before = client.get(RolloutDetail, "rollouts", rollout_id).rollout
        if already(before.state, state):
            tell_as_of_then(client)
            tell_rollout(before, f"is {stands_already(before)}", as_json=as_json)
            return
        rollout = client.send("POST", Rollout, "rollouts", rollout_id, "state", body=StateWish(state=state))
        comes = going_on(rollout) if state is RolloutState.ACTIVE else ""
        tell_rollout(rollout, f"is {rollout.state}: {comes}" if comes else f"is {rollout.state}", as_json=as_json)
        tell_stored(client)

    return command


def stands_already(rollout: Rollout) -> str:
    """Of one that is asked for where it is: `complete already, since … by user:anna: nothing changed`."""
    by = f" by {rollout.changed_by}" if rollout.changed_by else ""
    return f"{rollout.state} already, since {time_text(rollout.changed_at)}{by}: nothing changed"


def tell_rollout(rollout: Rollout, what: str, *, as_json: bool) -> None:
    """What became of a rollout, and what its operator may do next."""
    if as_json:
        print_json(rollout)
        return
    click.echo(printable(f"{rollout.package} {rollout.version} on channel {rollout.channel} {what}"))
    if rollout.advice:
        click.echo(printable(rollout.advice))


def going_on(rollout: Rollout) -> str:
    """What a resume means: what it accepts, and who may start: `what went wrong on 1 device is accepted; …`."""
    accepted = sum(wave.accepted for wave in rollout.waves)
    parts = [f"what went wrong on {plural(accepted, 'device')} is accepted"] if accepted else []
    for wave in rollout.waves:
        if wave.state is WaveState.AWAITING_APPROVAL:
            parts.append(f"wave {wave.number} {wave.because}")
        may_start = wave.verdicts.get(Verdict.PENDING, 0) if wave.started_at else 0
        if may_start:
            parts.append(f"{plural(may_start, 'device')} of wave {wave.number} may start")
    return "; ".join(parts)


pause = _state_command("pause", RolloutState.PAUSED, "Let no further device start a rollout.")
resume = _state_command(
    "resume", RolloutState.ACTIVE, "Go on with a rollout that was paused or halted; what went wrong is accepted."
)
halt = _state_command("halt", RolloutState.HALTED, "Stop a rollout: whoever has not switched yet stays as it is.")


@click.command()
@click.argument("rollout_id", metavar="ROLLOUT")
@controller_options
@json_option
def approve(rollout_id: str, client: ControllerClient, *, as_json: bool) -> None:
    """Say go to the next wave of a ROLLOUT that waits for a person's word."""
    rollout = client.send("POST", Rollout, "rollouts", rollout_id, "approve")
    if as_json:
        print_json(rollout)
    else:
        click.echo(printable(f"{rollout.package} {rollout.version} on channel {rollout.channel}: {rollout.because}"))
    tell_stored(client)


@click.command()
@click.argument("device", metavar="DEVICE")
@click.argument("verb", type=click.Choice([verb.value for verb in Verb if verb is not Verb.REPLAY]))
@click.option("--package", metavar="NAME", help="Which one; retry, cancel and rollback need it.")
@click.option("--any-size", is_flag=True, help="retry: for once, whatever the device's owner allows it to fetch.")
@click.option(
    "--expires",
    type=click.FloatRange(1, 7 * 86_400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long the device has to hear of it.",
)
@controller_options
@json_option
def ask(
    device: str,
    verb: str,
    package: str | None,
    expires: float,
    client: ControllerClient,
    *,
    any_size: bool,
    as_json: bool,
) -> None:
    """Ask one DEVICE to report, check itself, or retry, cancel or roll back a package."""
    if any_size and verb != Verb.RETRY:
        raise OperatorError("input.bad", f"--any-size goes with retry, not with {verb}")
    if verb in OF_PACKAGE and not package:
        raise OperatorError("input.bad", f"{verb} is about one package: say which with --package NAME")
    if verb not in OF_PACKAGE and package is not None:
        raise OperatorError("input.bad", f"--package goes with {', '.join(sorted(OF_PACKAGE))}, not with {verb}")
    args: dict[str, str | bool] = {"package": package} if package else {}
    if any_size:
        args["any_size"] = True
    wish = CommandWish(verb=Verb(verb), args=args, expires_s=expires)
    sent = client.send("POST", Asked, "devices", device, "commands", body=wish)
    if as_json:
        print_json(sent)
    else:
        click.echo(f"asked {device} to {verb}; {comes_of(Verb(verb), device)}")
    tell_warnings(sent.warnings)
    tell_stored(client)


def comes_of(verb: Verb, device: str) -> str:
    """Where it shows what comes of a command; a check is a matter of seconds, and is no update."""
    if verb is Verb.CHECK:
        return (
            f"in some seconds the line `check` of `flotilla device {device}` says ok, or what is wrong with its"
            " configuration, broker, repository, disk or clock"
        )
    if verb is Verb.REPORT:
        return f"what it reports anew shows in: flotilla device {device}"
    return f"what comes of it shows in: flotilla device {device}"


@click.command()
@click.argument("device")
@click.option("--channel", metavar="CHANNEL", help="Follow this channel instead of the configured one.")
@click.option("--pin", "pins", multiple=True, metavar="PACKAGE=VERSION", help="Stay at this version; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Instead of the configured tags; repeatable.")
@click.option("--hold/--no-hold", default=None, help="Start no update at all.")
@controller_options
@json_option
def tell(
    device: str,
    channel: str | None,
    pins: tuple[str, ...],
    tags: tuple[str, ...],
    hold: bool | None,
    client: ControllerClient,
    *,
    as_json: bool,
) -> None:
    """Tell one DEVICE something apart from its channel, in place of all that it was told before.

    Without any option it is told nothing special any more.
    """
    wish = DesiredWish(channel=channel, pins=_pins(pins), tags=_pairs(tags, "--tag"), hold=hold)
    before = client.get(Told, "devices", device, "desired")
    desired = client.send("PUT", Told, "devices", device, "desired", body=wish)
    if as_json:
        print_json(desired)
    else:
        click.echo(printable(f"told {device}, revision {desired.rev}: {_wish_text(desired)}"))
        if dropped := [one for one in _wishes(before) if one not in _wishes(desired)]:
            click.echo(printable(f"not any more: {', '.join(dropped)}"))
    tell_warnings(desired.warnings)
    tell_stored(client)


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask, on a terminal either.")
@controller_options
def forget(devices: tuple[str, ...], client: ControllerClient, *, yes: bool) -> None:
    """Forget each DEVICE that is gone for good, with its history and its part in rollouts.

    None is forgotten while one of them is there. Should it speak again, it is a new device. On a terminal you are
    asked; a script is not.
    """
    known = [client.get(Device, "devices", device) for device in dict.fromkeys(devices)]
    if there := [one.id for one in known if one.online]:
        raise OperatorError(
            "device.online",
            f"{', '.join(there)}: there, and back with the next word; stop the agent first; nothing was forgotten",
        )
    if not yes and somebody_there():
        for one in known:
            click.echo(printable(f"{one.id} was heard of last {time_text(one.last_seen)}"), err=True)
        whom = "it, and all that it said" if len(known) == 1 else f"these {len(known)}, and all that they said"
        if not click.confirm(f"Forget {whom}?", err=True):
            raise OperatorError("input.bad", "nothing was forgotten")
    for one in known:
        client.delete("devices", one.id)
        click.echo(printable(f"forgot {one.id}; should it speak again, it is a new device"))


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--platform", metavar="PLATFORM", help="Only for this platform.")
@click.option(
    "--although-in-use", is_flag=True, help="Even where devices run it, may go back to it, or are held at it."
)
@controller_options
def delete(name: str, version: str, platform: str | None, client: ControllerClient, *, although_in_use: bool) -> None:
    """Withdraw VERSION of package NAME from the repository; refused while a channel points at it or devices need it."""
    query = {"platform": platform, "although_in_use": "true" if although_in_use else None}
    client.delete("packages", name, version, query=query)
    click.echo(f"deleted {name} {version}; its content goes with the next garbage collection")


def _wishes(told: Told) -> list[str]:
    """All that a device is told apart from its channel, as options would say it."""
    return [
        *([f"channel {told.channel}"] if told.channel else []),
        *(f"tag {key}={value}" for key, value in sorted((told.tags or {}).items())),
        *(f"pin {package}={version}" for package, version in sorted((told.pins or {}).items())),
        *(["hold"] if told.hold else []),
    ]


def _wish_text(told: Told) -> str:
    said = _wishes(told)
    return f"{', '.join(said)}, and nothing else" if said else "nothing special any more"


def _pins(texts: tuple[str, ...]) -> dict[str, str] | None:
    pairs = _pairs(texts, "--pin")
    for package, version in (pairs or {}).items():
        try:
            parse(version)
        except PublisherError as error:
            raise OperatorError("input.bad", f"--pin {one_line(package, 80)}: {error}") from error
    return pairs


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str] | None:
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise OperatorError("input.bad", f"{option} {text!r} is not of the form NAME=VALUE")
        pairs[key] = value
    return pairs or None
