"""`/packages`: what the repository holds, what changed between two versions, and releasing one of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from anyio import to_thread
from litestar import Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Template

from controller.database import utc_now
from controller.http.listing import listed
from controller.http.noting import nothing_changed
from controller.http.preflight import foresee
from controller.http.views import ListedRelease
from controller.repository.bundle_views import ReleaseBundles
from controller.repository.by_version import releases_of
from controller.repository.comparing import difference
from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState
from controller.rollouts.pointing import Pointer
from controller.web.actions import OF_VERSION, Action, Field, named, notice
from controller.web.asking import ask, done, may_release
from controller.web.desk import Desk
from controller.web.fleet_reading import rollout_lines
from controller.web.given import TheDesk, TheVisitor
from controller.web.guarding import fields_of
from controller.web.models import rollout_card
from controller.web.release_dialog import DEVICES_SHOWN, SEEN, fields_and_facts, is_confirmed, seen, wish_of
from controller.web.rendering import Asked, page
from controller.web.visitor import Visitor
from schemas.errors import FlotillaError

PACKAGES_A_PAGE: Final = 30
VERSIONS_A_PAGE: Final = 30
FILES_SHOWN: Final = 300
ROLLOUTS_SHOWN: Final = 5

Text = Annotated[str, QueryParameter(max_length=600)]


class ChannelLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel points at; `stopped` is why nobody new gets it there, if so."""

    channel: str
    version: str
    stopped: RolloutState | None


class PackageLine(msgspec.Struct, frozen=True, kw_only=True):
    """A package in the list: its newest version, and what its channels point at."""

    name: str
    newest: ReleaseRecord | None
    channels: list[ChannelLine]


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """A package's versions; `before` is the key of a release to that of the one before it on its platform."""

    records: list[ListedRelease]
    before: dict[str, str]
    following: str | None


@get("/packages")
async def packages(request: Asked, desk: TheDesk, visitor: TheVisitor, q: Text = "", after: Text = "") -> Template:
    """By name."""

    def read() -> tuple[list[PackageLine], bool, int]:
        names = [name for name in desk.repository.names() if q.strip().lower() in name]
        some = [name for name in names if name > after][: PACKAGES_A_PAGE + 1]
        stopped = desk.fleet.rollouts.stopped_pointers(some)
        lines = [_line(desk, name, stopped) for name in some[:PACKAGES_A_PAGE]]
        return lines, len(some) > PACKAGES_A_PAGE, len(names)

    lines, more, total = await to_thread.run_sync(read)
    return page(
        request,
        visitor,
        "packages.html",
        packages=lines,
        total=total,
        q=q,
        after=after,
        following=lines[-1].name if more else None,
    )


@get("/packages/{name:str}")
async def package(
    request: Asked, desk: TheDesk, visitor: TheVisitor, name: FromPath[str], after: Text = ""
) -> Template:
    """A package's versions and channels."""
    versions = await to_thread.run_sync(_versions, desk, name, after)
    channels = await to_thread.run_sync(lambda: _channels(desk, name, desk.fleet.rollouts.stopped_pointers([name])))
    lines = await to_thread.run_sync(lambda: rollout_lines(desk.engine, package=name, limit=ROLLOUTS_SHOWN))
    return page(
        request,
        visitor,
        "package.html",
        name=name,
        versions=versions,
        channels=channels,
        rollouts=[rollout_card(line) for line in lines],
        after=after,
    )


@get("/packages/{name:str}/compare")
async def compared(
    request: Asked, desk: TheDesk, visitor: TheVisitor, name: FromPath[str], platform: Text = ""
) -> Template:
    """What changed between two versions, `from` and `to`."""
    old, new = (str(request.query_params.get(end, "")) for end in ("from", "to"))
    found = await to_thread.run_sync(
        lambda: difference(desk.repository, desk.bundle_maker, name, old, new, platform=platform)
    )
    return page(request, visitor, "compare.html", name=name, found=found, most=FILES_SHOWN)


@get("/packages/{name:str}/{version:str}")
async def version(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    name: FromPath[str],
    version: FromPath[str],
    did: FromQuery[str | None] = None,
) -> Template:
    """One version on each of its platforms: how it reaches devices, and where it was released."""

    def read() -> dict[str, Any]:
        records = releases_of(desk.repository, name, version)
        others = [one for one in _versions(desk, name, "").records if one.version != records[0].version]
        lines = rollout_lines(desk.engine, package=name, version=records[0].version, limit=ROLLOUTS_SHOWN)
        bundles: list[ReleaseBundles] = [desk.bundle_maker.state(record) for record in records]
        return {
            "version": records[0].version,
            "records": listed(desk.fleet.rollouts, records),
            "others": list(dict.fromkeys(one.version for one in others)),
            "bundles": bundles,
            "rollouts": [rollout_card(line) for line in lines],
            "yanked": next((record for record in records if record.yanked_at is not None), None),
        }

    return page(request, visitor, "version.html", name=name, notice=notice(did), **(await to_thread.run_sync(read)))


@get("/packages/{name:str}/{version:str}/do/{action_name:str}")
async def ask_version(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    name: FromPath[str],
    version: FromPath[str],
    action_name: FromPath[str],
) -> Template:
    """What is asked before a version is released or yanked."""
    action = _action(action_name)
    may_release(visitor)
    return await _ask(request, desk, visitor, action, name, version, dict(request.query_params))


@post("/packages/{name:str}/{version:str}/do/{action_name:str}", status_code=200)
async def change_version(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    name: FromPath[str],
    version: FromPath[str],
    action_name: FromPath[str],
) -> Template | Response[None]:
    """Release it, yank it, or take the yank back."""
    action = _action(action_name)
    may_release(visitor)
    fields = await fields_of(request)
    if action.name == "release" and not is_confirmed(fields):
        nothing_changed(request)
        return await _ask(request, desk, visitor, action, name, version, fields)
    try:
        where = await to_thread.run_sync(_do, desk, name, version, action_name, fields)
    except FlotillaError as error:
        if error.code in {"release.unknown", "version.bad"}:
            raise
        return await _ask(request, desk, visitor, action, name, version, fields, error)
    desk.fresh.forget()
    return done(request, where, action)


def _line(desk: Desk, name: str, stopped: Mapping[Pointer, RolloutState]) -> PackageLine:
    newest = desk.repository.search(name, limit=1)
    return PackageLine(name=name, newest=newest[0] if newest else None, channels=_channels(desk, name, stopped))


def _channels(desk: Desk, name: str, stopped: Mapping[Pointer, RolloutState]) -> list[ChannelLine]:
    return [
        ChannelLine(
            channel=entry.channel,
            version=entry.version,
            stopped=stopped.get(Pointer(name, entry.version, entry.channel)),
        )
        for entry in desk.repository.channels(name)
        if entry.version
    ]


def _versions(desk: Desk, name: str, after: str) -> Versions:
    found = desk.repository.search(name, yanked=True, limit=VERSIONS_A_PAGE + 1, after=after or None)
    found = [record for record in found if record.package == name]
    if not found and not after:
        raise desk.repository.unknown(name)
    before: dict[str, str] = {}
    newer: dict[str, str] = {}
    for record in found:
        if record.platform in newer:
            before[newer[record.platform]] = record.version
        newer[record.platform] = record.key
    shown = found[:VERSIONS_A_PAGE]
    return Versions(
        records=listed(desk.fleet.rollouts, shown),
        before=before,
        following=shown[-1].key if len(found) > VERSIONS_A_PAGE else None,
    )


async def _ask(
    request: Asked,
    desk: Desk,
    visitor: Visitor,
    action: Action,
    name: str,
    version: str,
    given: Mapping[str, str],
    error: FlotillaError | None = None,
) -> Template:
    records = await to_thread.run_sync(releases_of, desk.repository, name, version)
    numbers = (await desk.fresh.get("fleet", lambda: desk.reading.numbers(utc_now()))).value
    fields: list[Field] = []
    facts: list[str] = []
    foreseen, held = None, dict[str, str]()
    if action.name == "release":
        pointed = {channel for record in records for channel in record.channels}
        fields, facts, held = fields_and_facts(given, numbers, pointed)
        if held["channel"] and error is None:
            try:
                wish = wish_of(name, records[0].version, held)
                foreseen = await to_thread.run_sync(lambda: foresee(desk.preflights, wish, limit=DEVICES_SHOWN))
            except FlotillaError as refused:
                error = refused
    elif action.name in {"yank", "unyank"}:
        fields.append(Field(name="reason", label="Reason", value=given.get("reason", ""), required=False))
        announced = await to_thread.run_sync(desk.fleet.offered, name, records[0].version)
        facts += [f"Channel {one.channel} still announces it: release another version there." for one in announced]
    return ask(
        request,
        visitor,
        action,
        back=f"/packages/{name}/{records[0].version}",
        subject=f"{name} {records[0].version}",
        fields=fields,
        facts=facts,
        hidden=[] if foreseen is None else [(SEEN, seen(held))],
        looks_first=action.name == "release",
        preflight=foreseen,
        error=error,
    )


def _do(desk: Desk, name: str, version: str, action_name: str, fields: Mapping[str, str]) -> str:
    """Do it; where one looks at what came of it."""
    wanted = releases_of(desk.repository, name, version)[0].version
    if action_name == "release":
        return f"/rollouts/{desk.releasing.announce(wish_of(name, wanted, fields)).id}"
    if action_name == "yank":
        desk.repository.yank(name, wanted, fields.get("reason", "")[:1000])
    else:
        desk.repository.unyank(name, wanted, fields.get("reason", "")[:1000])
    return f"/packages/{name}/{wanted}"


def _action(name: str) -> Action:
    found = named(OF_VERSION, name)
    if found is None:
        raise NotFoundException
    return found
