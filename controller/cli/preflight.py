"""`flotilla release … --dry-run`: what the release would do."""

from collections.abc import Iterator

import click
import msgspec

from controller.cli.common import plural, print_json, print_table, printable, size_text, tell_warnings, time_text
from controller.cli.planning import wave_text
from controller.client import ControllerClient
from controller.http.views import ReleaseWish
from controller.preflight.views import ForeseenDevice, Preflight

PAGE = 500
SHOWN = 500
"""Devices that people are shown; --json has all of them."""


def tell_preflight(client: ControllerClient, wish: ReleaseWish, *, as_json: bool) -> None:
    """Ask what a release would do, and print it."""
    seen = _ask(client, wish, most=None if as_json else SHOWN)
    tell_warnings(seen.warnings)
    if as_json:
        print_json(seen)
        return
    for line in summary_lines(seen):
        click.echo(printable(line))
    click.echo()
    print_table(("DEVICE", "WAVE", "RUNS", "WAY", "BYTES", "WHAT"), map(_row, seen.devices), empty="it means no device")
    if seen.next is not None:
        click.echo(f"… the first {len(seen.devices)} of {seen.meant}")
    click.echo("\nnothing was changed; without --dry-run it is announced")


def summary_lines(seen: Preflight) -> Iterator[str]:
    """What there is to say about all devices together."""
    release = f"{seen.package} {seen.version} on channel {seen.channel}"
    yield f"{release}: {_who(seen)}"
    all_of_them = seen.starting + seen.later >= seen.ready
    if seen.ready:
        ways = ", ".join(f"{kind} {count}" for kind, count in seen.routes.items()) or "nothing to fetch"
        yield f"way        {ways}; {size_text(seen.bytes)} {'in all' if all_of_them else 'if all of them take it'}"
    if seen.starts_when:
        yield f"start      {f'{time_text(seen.starts_at)}: ' if seen.starts_at else ''}{seen.starts_when}"
    if seen.obstacles:
        several = f"{plural(seen.would_not, 'device')}, {seen.for_several}: " if seen.for_several else ""
        yield f"would not  {several}{', '.join(f'{count} {code}' for code, count in seen.obstacles.items())}"
    if len(seen.waves) > 1 or not all_of_them:
        told = ", ".join(wave_text(wave.share, wave.soak_s, wave.number_text) for wave in seen.waves)
        yield f"waves      {told}, by the plan {seen.plan}"
    if seen.drawn_when:
        yield f"wave -     {seen.drawn_when}"
    ends = seen.estimate
    yield f"end        {f'about {time_text(ends.ends_at)}: ' if ends.ends_at else ''}{ends.basis}"


def _who(seen: Preflight) -> str:
    """How many devices would take it, and when."""
    of = f"{seen.ready} of {plural(seen.meant, 'device')}"
    then = f"from {time_text(seen.starts_at)} on" if seen.starts_at else "now"
    if seen.starting == seen.ready:
        return f"{of} would take it {then}"
    first = seen.waves[0].share
    when = [f"{seen.starting} of them {then} ({first})", *([f"{seen.later} later"] if seen.later else [])]
    never = seen.ready - seen.starting - seen.later
    return f"{of} could take it: {', '.join([*when, *([f'{never} not at all by this plan'] if never else [])])}"


def _ask(client: ControllerClient, wish: ReleaseWish, *, most: int | None) -> Preflight:
    path = ("releases", "preflight")
    seen = client.send("POST", Preflight, *path, body=wish, query={"limit": PAGE})
    while seen.next is not None and (most is None or len(seen.devices) < most):
        more = client.send("POST", Preflight, *path, body=wish, query={"limit": PAGE, "after": seen.next})
        seen = msgspec.structs.replace(seen, devices=[*seen.devices, *more.devices], next=more.next)
    return seen


def _row(one: ForeseenDevice) -> tuple[str, ...]:
    way = "-" if one.route is None else one.route.value
    if one.from_version:
        way = f"{way} from {one.from_version}"
    what = "; ".join(obstacle.message for obstacle in one.obstacles)
    return (
        one.device,
        "-" if one.wave is None else str(one.wave),
        one.installed or "-",
        way,
        size_text(one.bytes) if one.bytes else "-",
        what or "would take it",
    )
