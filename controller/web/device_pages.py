"""`/devices/{id}`: one device: what it is, what it did, what it is told and asked."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from anyio import to_thread
from litestar import Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery
from litestar.response import Stream, Template

from controller.database import utc_now
from controller.fleet.views import Device, SentCommand, TakenEvent, deferral_of
from controller.http.noting import ending_of
from controller.rollouts.whose_hold import with_whose_hold
from controller.web.actions import ASK, FORGET, ON_DEVICE, Action, Field, named, notice
from controller.web.asking import ask, done, may_act
from controller.web.desk import Desk
from controller.web.given import TheDesk, TheEnvironment, TheVisitor
from controller.web.guarding import fields_of
from controller.web.live import live
from controller.web.models import lasting, readings
from controller.web.rendering import Asked, away_part, page
from controller.web.visitor import Visitor
from schemas.errors import FlotillaError, OperatorError, one_line
from schemas.messages import LAST_WORDS, OF_PACKAGE, Desired, UpdateEvent

EVENTS_READ: Final = 200
UPDATES_SHOWN: Final = 10


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One update of a device: its steps from the first to the last."""

    update: str
    rollout: str | None
    package: str
    version: str
    from_version: str | None
    steps: list[TakenEvent]

    @property
    def last(self) -> UpdateEvent:
        """The latest step."""
        return self.steps[-1].event

    @property
    def over(self) -> bool:
        """Whether it has had its last word."""
        return self.last.phase in LAST_WORDS


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is shown of one device."""

    device: Device
    stories: list[Story]
    commands: list[SentCommand]
    desired: Desired
    read_at: datetime


def stories(events: list[TakenEvent]) -> list[Story]:
    """Updates out of events in the order of intake, the newest update first."""
    found: dict[str, list[TakenEvent]] = {}
    for taken in events:
        found.setdefault(taken.event.update, []).append(taken)
    made = [
        Story(
            update=update,
            rollout=steps[-1].event.rollout,
            package=steps[-1].event.package,
            version=steps[-1].event.version,
            from_version=steps[-1].event.from_version,
            steps=steps,
        )
        for update, steps in found.items()
    ]
    return sorted(made, key=lambda story: story.steps[-1].id, reverse=True)[:UPDATES_SHOWN]


@get("/devices/{device_id:str}")
async def device(
    request: Asked, desk: TheDesk, visitor: TheVisitor, device_id: FromPath[str], did: FromQuery[str | None] = None
) -> Template:
    """Facts, packages, history and what can be asked for."""
    seen = await to_thread.run_sync(_look, desk, device_id)
    return page(request, visitor, "device.html", **_shown(seen), notice=notice(did))


@get("/devices/{device_id:str}/live")
async def device_live(
    request: Asked, desk: TheDesk, visitor: TheVisitor, environment: TheEnvironment, device_id: FromPath[str]
) -> Stream:
    """The same as it changes."""
    template = environment.get_template("device_parts.html")
    await to_thread.run_sync(desk.fleet.registry.device, device_id)

    async def parts() -> tuple[int, dict[str, str]]:
        read = await desk.fresh.get(("device", device_id), lambda: _look(desk, device_id))
        shown = {"device": template.render(now=utc_now(), visitor=visitor, **_shown(read.value))}
        return read.generation, shown | away_part(environment)

    return live(parts, lambda: desk.fleet.feed.published, ending_of(request))


@get("/devices/{device_id:str}/do/{name:str}")
async def ask_device(
    request: Asked, desk: TheDesk, visitor: TheVisitor, device_id: FromPath[str], name: FromPath[str]
) -> Template:
    """What is asked before a device is told or asked something."""
    action = _action(name)
    may_act(visitor)
    seen, facts = await to_thread.run_sync(_look_before, desk, device_id, action)
    return _ask(request, visitor, action, seen, dict(request.query_params), facts)


@post("/devices/{device_id:str}/do/{name:str}", status_code=200)
async def tell_device(
    request: Asked, desk: TheDesk, visitor: TheVisitor, device_id: FromPath[str], name: FromPath[str]
) -> Template | Response[None]:
    """Tell it, or ask it."""
    action = _action(name)
    may_act(visitor)
    fields = await fields_of(request)
    try:
        await to_thread.run_sync(_do, desk, device_id, name, fields)
    except FlotillaError as error:
        if error.code == "device.unknown":
            raise
        seen, facts = await to_thread.run_sync(_look_before, desk, device_id, action)
        return _ask(request, visitor, action, seen, fields, facts, error)
    desk.fresh.forget()
    return done(request, "/devices" if action is FORGET else f"/devices/{device_id}", action)


def _look(desk: Desk, device_id: str) -> Seen:
    return Seen(
        device=desk.fleet.registry.device(device_id),
        stories=stories(desk.fleet.registry.device_events(device_id, limit=EVENTS_READ, newest=True)),
        commands=desk.fleet.orders.commands(device_id, limit=8),
        desired=desk.fleet.orders.desired(device_id) or Desired(rev=0),
        read_at=utc_now(),
    )


def _look_before(desk: Desk, device_id: str, action: Action) -> tuple[Seen, list[str]]:
    """The device, and lines that help to decide on an action."""
    seen = _look(desk, device_id)
    channel = seen.desired.channel or seen.device.channel
    if action.name != "unpin" or channel is None:
        return seen, []
    registry, pins = desk.fleet.registry, sorted(seen.desired.pins or {})
    newer = [registry.newer_than_its_channel(device_id, package=package, channel=channel) for package in pins]
    return seen, [one for one in newer if one is not None]


def _shown(seen: Seen) -> dict[str, Any]:
    busy = next((story for story in seen.stories if not story.over), None)
    waits = deferral_of(busy.last) if busy else None
    return {
        "seen": seen,
        "device": seen.device,
        "desired": seen.desired,
        "pins": seen.desired.pins or {},
        "facts": lasting(seen.device.facts),
        "readings": readings(seen.device.facts),
        "busy": busy,
        "waits": with_whose_hold(waits, told=bool(seen.desired.hold)) if waits else None,
    }


def _ask(
    request: Asked,
    visitor: Visitor,
    action: Action,
    seen: Seen,
    given: Mapping[str, str],
    facts: Sequence[str],
    error: FlotillaError | None = None,
) -> Template:
    packages = sorted(seen.device.packages)
    chosen = given.get("package", packages[0] if len(packages) == 1 else "")
    fields = []
    if action.name in {"pin", "unpin", *(verb.value for verb in OF_PACKAGE)}:
        known = sorted(seen.desired.pins or {}) if action.name == "unpin" else packages
        choices = known if not chosen or chosen in known else [*known, chosen]
        fields.append(Field(name="package", label="Package", value=chosen, choices=choices))
    if action.name == "pin":
        installed = seen.device.packages.get(chosen)
        version = given.get("version", installed.version if installed else "")
        hint = f"It runs {installed.version}." if installed else ""
        fields.append(Field(name="version", label="Version", value=version, hint=hint))
    back, subject = f"/devices/{seen.device.id}", seen.device.id
    return ask(request, visitor, action, back=back, subject=subject, fields=fields, facts=facts, error=error)


def _do(desk: Desk, device_id: str, name: str, fields: Mapping[str, str]) -> None:
    if name == FORGET.name:
        desk.fleet.steering.forget(device_id)
        return
    package = fields.get("package", "")
    verb = next((verb for verb in ASK if verb.value == name), None)
    if verb is not None:
        desk.fleet.steering.send_command(device_id, verb, {"package": package} if verb in OF_PACKAGE else {})
        return
    # from what is true when it is written, so that somebody else's pin of a moment ago is not taken off with it
    desk.fleet.steering.change_desired(device_id, lambda told: _changed(told, name, package, fields.get("version", "")))


def _changed(told: Desired, name: str, package: str, version: str) -> Desired:
    pins, hold = dict(told.pins or {}), told.hold
    if name == "pin":
        if not package or not version:
            raise OperatorError("input.bad", "a pin needs a package and a version")
        pins[package] = version
    elif name == "unpin":
        if package not in pins:
            raise OperatorError("input.bad", f"{one_line(package, 70) or 'no package'} is not pinned here")
        del pins[package]
    else:
        hold = name == "hold"
    return msgspec.structs.replace(told, pins=pins or None, hold=hold or None)


def _action(name: str) -> Action:
    found = named(ON_DEVICE, name)
    if found is None:
        raise NotFoundException
    return found
