"""`flotilla devices`, `device`, `rollouts` and `rollout`: how the fleet stands."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import click

from controller.cli.common import (
    controller_options,
    json_option,
    print_json,
    print_table,
    printable,
    size_text,
    time_text,
)
from controller.cli.connection import tell_as_of_then
from controller.cli.planning import WAVE_COLUMNS, counts_text, verdict_text, wave_rows
from controller.client import ControllerClient
from controller.fleet.views import Deferral, Device, TakenEvent, Update, deferral_of
from controller.http.views import Page, RolloutDetail, RolloutPace
from controller.rollouts.explaining import away_text, left_out_text
from controller.rollouts.plan import Verdict
from controller.rollouts.views import Failure, Rollout, RolloutDevice, WaveState
from controller.rollouts.whose_hold import with_whose_hold
from schemas.errors import one_line
from schemas.messages import Desired, FactValue, Phase, UpdateEvent

T = TypeVar("T")

PAGE = 500
EVENTS_SHOWN = 50
LOG_LINES = 20
"""Of the newest log; --json has all that the device sent."""
FAILURE_LINES = 8
"""Of the log of each failure."""
_BYTES = frozenset({"disk_free", "memory", "memory_free"})
"""Facts that agents send as bytes."""
_CHECK = "check"
"""The fact that says what came of the last check that a device was asked for."""
WORDS = 500
"""Most characters of what a device says in one line; --json has all of it."""


@click.command()
@click.option(
    "--limit", type=click.IntRange(1), default=10_000, show_default=True, metavar="N", help="At most so many."
)
@controller_options
@json_option
def devices(limit: int, client: ControllerClient, *, as_json: bool) -> None:
    """List the devices that were ever heard of, by id."""
    found = collect(client, Device, "devices", limit)
    tell_as_of_then(client)
    if as_json:
        print_json(found)
        return
    print_table(
        ("DEVICE", "ONLINE", "LAST SEEN", "CHANNEL", "PACKAGES", "TOLD", "NEWEST UPDATE"),
        (
            (
                d.id,
                "yes" if d.online else "no",
                time_text(d.last_seen),
                d.channel or "-",
                installed_text(d),
                apart_text(d),
                update_text(d.update),
            )
            for d in found
        ),
        empty="no device has been heard of yet",
    )


@click.command()
@click.argument("device_id", metavar="ID")
@controller_options
@json_option
def device(device_id: str, client: ControllerClient, *, as_json: bool) -> None:
    """Show one device: what it runs, what it was told and waits for, its facts, and its newest events."""
    view = client.get(Device, "devices", device_id)
    told = client.get(Desired, "devices", device_id, "desired")
    history = client.get(Page[TakenEvent], "devices", device_id, "events", query={"limit": EVENTS_SHOWN, "newest": 1})
    tell_as_of_then(client)
    if as_json:
        print_json({"device": view, "told": told, "events": history.items})
        return
    events = [taken.event for taken in history.items]
    for line in (*device_lines(view), *told_lines(told), *waiting_lines(events, told)):
        click.echo(printable(line))
    click.echo()
    print_table(
        ("SEQ", "TIME", "PACKAGE", "VERSION", "PHASE", "WHAT"),
        ((str(e.seq), time_text(e.at), e.package, e.version, e.phase, event_text(e)) for e in events),
        empty="it has reported no event yet",
    )
    for line in log_lines(events):
        click.echo(printable(line))


@click.command()
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many, newest first."
)
@controller_options
@json_option
def rollouts(limit: int, client: ControllerClient, *, as_json: bool) -> None:
    """List the rollouts, newest first."""
    found = collect(client, Rollout, "rollouts", limit)
    tell_as_of_then(client)
    if as_json:
        print_json(found)
        return
    print_table(
        ("ROLLOUT", "PACKAGE", "VERSION", "CHANNEL", "STATE", "BEGUN", "DEVICES"),
        (
            (r.id, r.package, r.version, r.channel, state_text(r), time_text(r.created_at), counts_text(r.verdicts))
            for r in found
        ),
        empty="nothing has been released yet",
    )


@click.command()
@click.argument("rollout_id", metavar="ID")
@controller_options
@json_option
def rollout(rollout_id: str, client: ControllerClient, *, as_json: bool) -> None:
    """Show one rollout: every device's verdict, and the failures by code and message."""
    detail = client.get(RolloutDetail, "rollouts", rollout_id)
    tell_as_of_then(client)
    if as_json:
        print_json(detail)
        return
    view = detail.rollout
    click.echo(f"{view.package} {view.version} on channel {view.channel}: {view.state}, revision {view.revision}")
    if view.changed_by:
        click.echo(printable(f"{view.state} since {time_text(view.changed_at)}, by {view.changed_by}"))
    click.echo(printable(view.because))
    if away := away_text(view, detail.devices.items):
        click.echo(f"{away} …" if detail.devices.next else away)
    if view.advice:
        click.echo(printable(view.advice))
    waits = {} if detail.devices.next else waiting_alike(detail.devices.items)
    counts = [counts_text(view.verdicts, deferred=waits.get(None)), left_out_text(view.left_out)]
    click.echo("; ".join(filter(None, counts)))
    if detail.pace.per_minute:
        click.echo(pace_text(detail.pace))
    if detail.unanswered:
        click.echo(f"asked, and not answered yet: {detail.unanswered}")
    click.echo()
    if len(view.waves) > 1:
        print_table(WAVE_COLUMNS, wave_rows(view, waits), empty="it has no wave")
        click.echo()
    print_table(
        ("DEVICE", "VERDICT", "FROM", "TIME", "BYTES", "WHAT"),
        (device_row(one) for one in detail.devices.items),
        empty="it means no device that has been heard of",
    )
    if detail.devices.next:
        click.echo(f"… the first {len(detail.devices.items)} of them")
    for failure in detail.failures:
        for line in ("", *failure_lines(failure)):
            click.echo(printable(line))


def failure_lines(failure: Failure) -> Iterator[str]:
    """Devices with one error, what is said of it, and whose words and log that are."""
    on = f"{', '.join(failure.devices)}{' …' if failure.count > len(failure.devices) else ''}"
    if failure.said_by is None:
        yield f"{failure.count} x {failure.code}: messages that are not told apart here; flotilla device ID has each"
        yield f"  on {on}"
        return
    yield f"{failure.count} x {failure.code}: {failure.message}"
    whose = f"the words {'and the log ' if failure.log_tail else ''}are those of {failure.said_by}"
    yield f"  on {on}; {whose}" if failure.count > 1 else f"  on {on}"
    yield from (f"  | {line}" for line in failure.log_tail.splitlines()[-FAILURE_LINES:])


def pace_text(pace: RolloutPace) -> str:
    """`12 devices finish a minute; at this pace the rest is done by 2026-03-01 14:05:00`; slow ones by the hour."""
    a_minute = pace.per_minute or 0.0
    many, span = (a_minute, "a minute") if a_minute >= 1 else (a_minute * 60, "an hour")
    told = f"{many:.0f}" if many >= 10 else f"{many:.1f}".removesuffix(".0")
    ends = f"; at this pace the rest is done by {time_text(pace.ends_at)}" if pace.ends_at else ""
    return f"{'1 device finishes' if told == '1' else f'{told} devices finish'} {span}{ends}"


def device_row(one: RolloutDevice) -> tuple[str, ...]:
    """A device in a table of a rollout."""
    update, verdict = one.update, verdict_text(one.verdict)
    if one.asked:
        verdict = f"{verdict} ({one.asked} asked)"
    newer = f"{verdict_text(one.newer)} in the newer rollout" if one.newer else ""
    what = [one.reason, update_text(update) if update else "", newer]
    said = "; ".join(text for text in what if text) or "-"
    if update is None:
        return (one.device, verdict, "-", "-", "-", said)
    from_version = update.from_version or "-"
    return (
        one.device,
        verdict,
        from_version,
        time_text(update.at),
        size_text(update.wire_bytes),
        said,
    )


def collect(client: ControllerClient, type_: type[T], path: str, limit: int) -> list[T]:
    """Pages of a list until `limit` items or its end."""
    found: list[T] = []
    after: str | None = None
    while len(found) < limit:
        query = {"limit": min(PAGE, limit - len(found)), "after": after}
        page = client.get(Page[type_], path, query=query)  # type: ignore[valid-type]  # the item's type is a value here
        found += page.items
        after = page.next
        if after is None:
            break
    return found


def device_lines(view: Device) -> Iterator[str]:
    """What there is to say about a device, apart from its events."""
    yield f"{view.id}: {'online' if view.online else 'offline'}, last seen {time_text(view.last_seen)}"
    yield f"channel {view.channel or '-'}, agent {view.agent_version or '-'}"
    yield "tags    " + (", ".join(f"{key}={value}" for key, value in sorted(view.tags.items())) or "-")
    facts = (f"{key}={_fact_text(key, fact)}" for key, fact in sorted(view.facts.items()) if key != _CHECK)
    yield "facts   " + (", ".join(facts) or "-")
    if _CHECK in view.facts:
        # the same again says by its time that it is new
        yield f"check   {view.facts[_CHECK]}; reported {time_text(view.reported_at)}"
    for name, package in sorted(view.packages.items()):
        before = f", before it {package.previous}" if package.previous else ""
        yield f"runs    {name} {package.version} ({package.phase}) since {time_text(package.installed_at)}{before}"


def _fact_text(key: str, fact: FactValue) -> str:
    return size_text(int(fact)) if key in _BYTES and isinstance(fact, (int, float)) else str(fact)


def told_lines(told: Desired) -> Iterator[str]:
    """What its operator has told it apart from its channel."""
    if told.hold:
        yield "hold    it starts no update"
    for package, version in sorted((told.pins or {}).items()):
        yield f"pinned  {package} stays at {version}"
    if told.channel is not None:
        yield f"told    to follow channel {told.channel}"
    if told.tags is not None:
        yield f"told    to have the {_tags_text(told.tags)}"


def waiting_lines(events: Sequence[UpdateEvent], told: Desired) -> Iterator[str]:
    """What it has put off, by the last word of each update."""
    last = {event.update: event for event in sorted(events, key=lambda event: event.seq)}
    for event in last.values():
        if event.phase is Phase.DEFERRED:
            waits = None if event.error else deferral_of(event)
            why = deferral_text(with_whose_hold(waits, told=bool(told.hold))) if waits else event_text(event)
            yield f"waits   {event.package} {event.version}: {one_line(why, WORDS)}"


def log_lines(events: Sequence[UpdateEvent]) -> Iterator[str]:
    """The end of the log of the newest trouble, unless the package has succeeded since; events in order of intake."""
    well: set[str] = set()
    for event in reversed(events):
        if event.phase is Phase.SUCCEEDED:
            well.add(event.package)
        elif event.error and event.error.log_tail and event.package not in well:
            yield ""
            yield f"log of event {event.seq}, {event.package} {event.version} {event.phase} at {time_text(event.at)}:"
            yield from (f"  | {line}" for line in event.error.log_tail.splitlines()[-LOG_LINES:])
            return


def deferral_text(waits: Deferral) -> str:
    """Why it waits and until when: `not ready (the robot moves), until 2026-03-01 13:00:00`."""
    because = f" ({waits.because})" if waits.because else ""
    return f"{waits.reason}{because}" + (f", until {time_text(waits.until)}" if waits.until else "")


def waiting_alike(devices: Iterable[RolloutDevice]) -> dict[int | None, str]:
    """What all deferred devices of a wave wait for where that is the same: by wave, and for all of them by None.

    Where they wait until different times, it is said from when until when.
    """
    waits: dict[int | None, list[Deferral | None]] = {}
    for one in devices:
        if one.verdict is Verdict.DEFERRED:
            for wave in {one.wave, None}:
                waits.setdefault(wave, []).append(one.update.waits if one.update else None)
    return {wave: text for wave, some in waits.items() if (text := _alike(some))}


def _alike(some: Sequence[Deferral | None]) -> str:
    known = [one for one in some if one is not None]
    if len(known) < len(some) or len({one.reason for one in known}) > 1:
        return ""
    until = sorted(one.until for one in known if one.until)
    if len(until) < len(known):
        return known[0].reason
    first, last = time_text(until[0]), time_text(until[-1])
    return f"{known[0].reason}, until {first if first == last else f'{first} to {last}'}"


def installed_text(view: Device) -> str:
    """`tacho 1.1.0, base 2.0.0`."""
    return ", ".join(f"{name} {package.version}" for name, package in sorted(view.packages.items())) or "-"


def state_text(view: Rollout) -> str:
    """`active`, `active, awaiting approval`, `superseded (reverted before)`."""
    if any(wave.state is WaveState.AWAITING_APPROVAL for wave in view.waves):
        return f"{view.state}, awaiting approval"
    return f"{view.state} ({view.before} before)" if view.before else view.state.value


def apart_text(view: Device) -> str:
    """What its operator has told it: `on hold, tacho pinned at 1.1.0, channel beta, tags site=bern`."""
    told = [*(["on hold"] if view.hold else []), *(f"{name} pinned at {one}" for name, one in view.pins.items())]
    told += [f"channel {view.told_channel}"] if view.told_channel is not None else []
    told += [_tags_text(view.told_tags)] if view.told_tags is not None else []
    return ", ".join(told) or "-"


def _tags_text(tags: Mapping[str, str]) -> str:
    return "tags " + (", ".join(f"{key}={value}" for key, value in sorted(tags.items())) or "(none)")


def update_text(update: Update | None) -> str:
    """What a device last said, in a few words."""
    if update is None:
        return "-"
    text = f"{update.package} {update.version} {update.phase}"
    if update.waits or update.error:
        waits = deferral_text(update.waits) if update.waits else ""
        error = f"{update.error.code}: {update.error.message}" if update.error else ""
        return one_line(f"{text}: {'; '.join(filter(None, (waits, error)))}", WORDS)
    if update.progress and update.progress.bytes_total and update.phase == "fetching":
        return f"{text} {100 * update.progress.bytes_done // update.progress.bytes_total} %"
    return text


def event_text(event: UpdateEvent) -> str:
    """What an event adds to its phase."""
    if event.error:
        return one_line(f"{event.error.code}: {event.error.message}", WORDS)
    if waits := deferral_of(event):
        return one_line(deferral_text(waits), WORDS)
    if event.progress:
        return f"{size_text(event.progress.bytes_done)} of {size_text(event.progress.bytes_total)}"
    return one_line(", ".join(f"{key}={value}" for key, value in sorted((event.detail or {}).items())), WORDS)
