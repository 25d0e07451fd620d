"""`flotilla release` and `publish`: announcing a version to a channel."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from controller.cli.bundles import wait_for_bundles, wait_options
from controller.cli.common import controller_options, json_option, print_json, printable, tell_warnings
from controller.cli.connection import tell_as_of_then, tell_stored
from controller.cli.planning import chosen_plan, length_of_time, plan_options, wave_text
from controller.client import ControllerClient
from controller.http.views import Announced, ReleaseWish, SetWish
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, seconds
from schemas.errors import OperatorError
from schemas.messages import BUCKETS, RolloutPolicy, Targets
from schemas.names import CHANNEL_PATTERN, DEVICE_PATTERN, KEY_PATTERN, PACKAGE_PATTERN, matches
from schemas.versions import parse


def _version(ctx: click.Context, _param: click.Parameter, version: str | None) -> str:
    """Say what to type where only one word was given, by what it looks like."""
    if version is not None:
        return version
    name, at, wanted = ctx.params["name"].partition("@")
    apart = f"flotilla release {name} {wanted or 'VERSION'} --channel {ctx.params.get('channel') or 'CHANNEL'}"
    if ctx.params.get("as_set"):
        raise click.UsageError(f"--set is for two packages or more; to release one: {apart}", ctx)
    if at:
        raise click.UsageError(f"write the version as a word of its own: {apart}", ctx)
    raise click.UsageError(f"Missing argument 'VERSION': those that there are show in: flotilla packages {name}", ctx)


@click.command()
@click.argument("name")
@click.argument("version", required=False, metavar="VERSION", callback=_version)
@click.argument("more", nargs=-1, metavar="[NAME@VERSION]...")
@click.option(
    "--set",
    "as_set",
    is_flag=True,
    help="Several packages, each written as NAME@VERSION: devices switch to all of them together, or to none.",
)
@click.option("--channel", required=True, metavar="CHANNEL", help="Devices of this channel are meant.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only devices with this tag or fact; several keys must all hold, of several values of one key any.",
)
@click.option("--device", "devices", multiple=True, metavar="ID", help="Only this device; may be given several times.")
@click.option("--exclude", "excluded", multiple=True, metavar="ID", help="Not this device; may be given several times.")
@click.option(
    "--jitter",
    type=length_of_time("24h"),
    default="0",
    metavar="LENGTH",
    help="Each device waits a random time up to this before it fetches: 10m, or 600 for as many seconds; at most 24h.",
)
@plan_options
@click.option("--allow-downgrade", is_flag=True, help="Also where a newer version is installed.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, by what is known of the devices; nothing changes.")
@wait_options
@controller_options
@json_option
def release(
    name: str,
    version: str,
    more: tuple[str, ...],
    channel: str,
    conditions: tuple[str, ...],
    devices: tuple[str, ...],
    excluded: tuple[str, ...],
    jitter: float,
    plan: str | None,
    waves: tuple[str, ...],
    on_failure: str | None,
    client: ControllerClient,
    *,
    allow_downgrade: bool,
    dry_run: bool,
    as_set: bool,
    wait: bool,
    wait_limit: float,
    as_json: bool,
) -> None:
    """Announce VERSION of package NAME to a channel: its devices fetch, switch, prove it, and report.

    With --set, several packages at once: flotilla release --set engine@2.0.0 tacho@2.1.0 --channel stable
    """
    if not as_set and "@" in name:
        raise OperatorError("input.bad", f"{name!r} is no package name; several packages as NAME@VERSION need --set")
    if more and not as_set:
        raise OperatorError("input.bad", f"{more[0]!r} is one argument too many; several packages need --set")
    if dry_run and (as_set or wait):
        raise OperatorError(
            "input.bad", "--dry-run looks at one package and announces nothing: not with --set or --wait-bundles"
        )
    wanted_plan = chosen_plan(plan, waves, on_failure)
    if as_set and wanted_plan is not None:
        raise OperatorError("input.bad", "a set goes to all its devices at once: not with --plan or --wave")
    members = _members((name, version, *more)) if as_set else {name: version}
    targets = _targets(conditions, devices, excluded)
    for one, wanted in members.items() if wait else ():
        _check_names(one, channel)
        wait_for_bundles(client, one, wanted, wait_limit)
    if as_set:
        _check_channel(channel)
        policy = RolloutPolicy(jitter_s=jitter, allow_downgrade=allow_downgrade)
        together = SetWish(packages=members, channel=channel, targets=targets, policy=policy)
        _tell_set(client.send("POST", list[Announced], "releases", "sets", body=together), as_json=as_json)
        tell_stored(client)
        return
    wish = release_wish(
        name, version, channel, targets, RolloutPolicy(jitter_s=jitter, allow_downgrade=allow_downgrade), wanted_plan
    )
    if dry_run:
        from controller.cli.preflight import tell_preflight  # noqa: PLC0415 - `release` is to start at once

        tell_preflight(client, wish, as_json=as_json)
        tell_as_of_then(client)
        return
    _tell(client.send("POST", Announced, "releases", body=wish), as_json=as_json)
    tell_stored(client)


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--channel", required=True, metavar="CHANNEL", help="Devices of this channel are meant.")
@click.option("--version", metavar="VERSION", help="Instead of the version that the source names.")
@click.option("--platform", metavar="PLATFORM", help="Instead of the platform that the source names.")
@plan_options
@wait_options
@controller_options
@json_option
def publish(
    source: Path,
    channel: str,
    version: str | None,
    platform: str | None,
    plan: str | None,
    waves: tuple[str, ...],
    on_failure: str | None,
    client: ControllerClient,
    *,
    wait: bool,
    wait_limit: float,
    as_json: bool,
) -> None:
    """Build, push and release in one: SOURCE is a folder with flotilla.toml, or a package file."""
    from controller.cli.uploading import push_file  # noqa: PLC0415 - not for `release`, which is to start at once
    from controller.packaging.package_creator import PackageCreator  # noqa: PLC0415 - the same

    _check_channel(channel)
    wanted_plan = chosen_plan(plan, waves, on_failure)
    if source.is_file():
        if version or platform:
            raise OperatorError("input.bad", "--version and --platform are for folders; a package file has its own")
        pushed = push_file(client, source)
    else:
        with tempfile.TemporaryDirectory(prefix="flotilla-") as folder:
            built = PackageCreator(source).build(version=version, platform=platform, out=Path(folder))
            pushed = push_file(client, built.path, called=str(source))
    record = pushed.release
    if wait:
        wait_for_bundles(client, record.package, record.version, wait_limit)
    made = announce(client, name=record.package, version=record.version, channel=channel, plan=wanted_plan)
    _tell(made, as_json=as_json)
    tell_stored(client)


def announce(
    client: ControllerClient,
    *,
    name: str,
    version: str,
    channel: str,
    targets: Targets | None = None,
    policy: RolloutPolicy | None = None,
    plan: RolloutPlan | None = None,
) -> Announced:
    """Start a rollout; raises as `release_wish` does."""
    wish = release_wish(name, version, channel, targets or Targets(), policy or RolloutPolicy(), plan)
    return client.send("POST", Announced, "releases", body=wish)


def release_wish(
    name: str,
    version: str,
    channel: str,
    targets: Targets,
    policy: RolloutPolicy,
    plan: RolloutPlan | None = None,
) -> ReleaseWish:
    """What is to be announced; raises `OperatorError` for names that can be none before anything is sent."""
    _check_names(name, channel)
    wish = ReleaseWish(package=name, version=str(parse(version)), channel=channel, targets=targets, policy=policy)
    return msgspec.structs.replace(wish, plan=plan)


def _check_names(name: str, channel: str) -> None:
    _check_channel(channel)
    if not matches(PACKAGE_PATTERN, name):
        raise OperatorError("input.bad", f"{name!r} is no package name; it has small letters, digits and '-'")


def _tell_set(made: list[Announced], *, as_json: bool) -> None:
    tell_warnings(dict.fromkeys(warning for one in made for warning in one.warnings))
    if as_json:
        print_json(made)
        return
    for rollout in made:
        click.echo(f"announced {rollout.package} {rollout.version} on channel {rollout.channel}, rollout {rollout.id}")
    click.echo("devices switch to all of them together, or to none; follow it with: flotilla watch")


def _members(texts: tuple[str, ...]) -> dict[str, str]:
    members: dict[str, str] = {}
    for text in texts:
        name, at, version = text.partition("@")
        if not at or not matches(PACKAGE_PATTERN, name):
            raise OperatorError("input.bad", f"{text!r} is not of the form NAME@VERSION")
        if name in members:
            raise OperatorError("input.bad", f"{name} stands twice in the set")
        members[name] = str(parse(version))
    return members


def _check_channel(channel: str) -> None:
    if not matches(CHANNEL_PATTERN, channel):
        raise OperatorError(
            "input.bad", f"{channel!r} is no channel name; it has small letters, digits and '-', at most 32"
        )


def _targets(conditions: tuple[str, ...], devices: tuple[str, ...], excluded: tuple[str, ...]) -> Targets:
    where: dict[str, str | list[str]] = {}
    for condition in conditions:
        key, separator, value = condition.partition("=")
        if not separator or not matches(KEY_PATTERN, key):
            raise OperatorError("input.bad", f"--where {condition!r} is not of the form KEY=VALUE")
        known = where.get(key)
        where[key] = value if known is None else [*([known] if isinstance(known, str) else known), value]
    for option, ids in (("--device", devices), ("--exclude", excluded)):
        for device in ids:
            if not matches(DEVICE_PATTERN, device):
                raise OperatorError("input.bad", f"{option} {device!r} is no device id")
    upto = 0 if devices else BUCKETS
    return Targets(upto=upto, devices=list(devices), where=where, exclude=list(excluded))


def plan_lines(rollout: Rollout) -> Iterator[str]:
    """The waves of what was announced; nothing where all devices may start and count at once."""
    waves = [(wave.share, seconds(wave.soak)) for wave in rollout.plan.waves]
    if len(waves) > 1 or waves[0][1]:
        yield f"plan {rollout.plan.name}: {' → '.join(wave_text(*wave) for wave in waves)}; {rollout.because}"


def _tell(rollout: Announced, *, as_json: bool) -> None:
    tell_warnings(rollout.warnings)
    if as_json:
        print_json(rollout)
        return
    click.echo(f"announced {rollout.package} {rollout.version} on channel {rollout.channel}, rollout {rollout.id}")
    for text in plan_lines(rollout):
        click.echo(printable(text))
    click.echo(f"follow it with: flotilla watch, or flotilla rollout {rollout.id}")
