"""`/api/v1/releases`, `rollouts`, `devices` and `watch`: what is asked of the fleet, and what it answers."""

import difflib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import msgspec
from anyio import to_thread
from litestar import Controller, Request, delete, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Stream
from sqlalchemy import Engine

from controller.database import utc_now
from controller.fleet.service import FleetService
from controller.fleet.views import Device, FleetStatistics, SentCommand, TakenEvent
from controller.http import deeds
from controller.http.given import (
    AfterName,
    AfterRow,
    Limit,
    TheEngine,
    TheFleet,
    TheReleasing,
    TheRepository,
    check_after,
)
from controller.http.noting import about, does, ending_of, who_of
from controller.http.plans import look_at_wish
from controller.http.views import (
    Announced,
    Asked,
    CommandWish,
    ControllerView,
    DesiredWish,
    DeviceChoice,
    Page,
    ReleaseWish,
    RolloutDetail,
    RolloutPace,
    SetWish,
    StateWish,
    Told,
)
from controller.http.watching import server_sent_events
from controller.meant import did_you_mean
from controller.repository.package_repository import PackageRepository
from controller.rollouts.board import read_board
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import Rollout, RolloutDevice
from controller.settings import ControllerSettings
from controller.version import VERSION
from schemas.errors import OperatorError, one_line
from schemas.messages import Desired, Verb
from schemas.names import DEVICE_PATTERN, UUID7_PATTERN

DEVICES_SHOWN: Final = 500
MAX_ID_DIGITS: Final = 18


@post("/releases", tags=["rollouts"], summary="Announce a version on a channel", before_request=look_at_wish)
async def release(data: JSONBody[ReleaseWish], releasing: TheReleasing) -> Announced:
    """Start a rollout; it takes the place of what the channel announced of this package before."""
    return await to_thread.run_sync(releasing.announce, data)


@delete(
    "/channels/{channel:str}/releases/{name:str}",
    tags=["rollouts"],
    summary="Announce a package on a channel no more",
    status_code=200,
)
async def withdraw(
    request: Request[Any, Any, Any], channel: FromPath[str], name: FromPath[str], releasing: TheReleasing
) -> Rollout:
    """Devices keep what they have; 404 where the channel announces no such package."""
    by = who_of(request).actor
    return await to_thread.run_sync(lambda: releasing.withdraw(name, channel, by=by))


@post("/releases/sets", tags=["rollouts"], summary="Announce several packages as one set", before_request=look_at_wish)
async def release_set(data: JSONBody[SetWish], releasing: TheReleasing) -> list[Announced]:
    """Start a rollout for each; a device takes all of them in one switch, or none. All are announced, or none."""
    return await to_thread.run_sync(releasing.announce_set, data)


async def _rollout(request: Request[Any, Any, Any], fleet: TheFleet, rollout_id: FromPath[str]) -> str:
    found = await to_thread.run_sync(fleet.rollouts.id_of, rollout_id)
    about(request, found)
    return found


class Rollouts(Controller):
    """Rollouts, newest first. One is named by its id, or by the beginning of it where no other begins so."""

    path = "/rollouts"
    tags = ("rollouts",)
    dependencies = {"rollout": Provide(_rollout)}  # noqa: RUF012 - as the framework reads it

    @get("", summary="List rollouts")
    async def rollouts(
        self,
        fleet: TheFleet,
        channel: FromQuery[str | None] = None,
        package: FromQuery[str | None] = None,
        rollout_state: FromQuery[RolloutState | None] = None,
        after: AfterName = "",
        limit: Limit = 100,
    ) -> Page[Rollout]:
        """The newest first; `rollout_state` keeps those in one state."""
        check_after(after, UUID7_PATTERN)
        found = await to_thread.run_sync(
            lambda: fleet.rollouts.rollouts(
                channel=channel, package=package, state=rollout_state, before=after or None, limit=limit + 1
            )
        )
        return Page(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    @get("/{rollout_id:str}", summary="One rollout")
    async def rollout_detail(self, fleet: TheFleet, engine: TheEngine, rollout: NamedDependency[str]) -> RolloutDetail:
        """A rollout with its first devices, its failures by error code and message, and how fast it goes."""

        def read() -> RolloutDetail:
            took, at_it = fleet.rollouts.besides_takers(rollout)
            return RolloutDetail(
                rollout=fleet.rollouts.rollout(rollout),
                devices=_device_page(fleet, rollout, "", DEVICES_SHOWN),
                failures=fleet.rollouts.failures(rollout),
                unanswered=fleet.rollouts.unanswered(rollout),
                takers=fleet.rollouts.takers(rollout),
                took=took,
                at_it=at_it,
                pace=_pace(engine, rollout),
            )

        return await to_thread.run_sync(read)

    @get("/{rollout_id:str}/devices", summary="The devices of a rollout")
    async def devices(
        self, fleet: TheFleet, rollout: NamedDependency[str], after: AfterName = "", limit: Limit = 100
    ) -> Page[RolloutDevice]:
        """By id; each with the engine's verdict and its own last words."""
        check_after(after, DEVICE_PATTERN)
        return await to_thread.run_sync(_device_page, fleet, rollout, after, limit)

    @post("/{rollout_id:str}/state", summary="Pause, resume, halt or revert", status_code=200)
    async def set_state(
        self, request: Request[Any, Any, Any], fleet: TheFleet, rollout: NamedDependency[str], data: JSONBody[StateWish]
    ) -> Rollout:
        """Takes effect with the announcement's next revision; 409 where the present state does not allow it.

        Asking for the state it is in, or for `active` where it is complete, answers it as it is: nothing changes.
        """
        if data.state in deeds.TO_STATE:
            does(request, f"rollout.{deeds.TO_STATE[data.state]}")
        by = who_of(request).actor
        return await to_thread.run_sync(lambda: fleet.steering.set_state(rollout, data.state, by=by))

    @post("/{rollout_id:str}/cancel", summary="Ask one device, or all, to stop", status_code=200)
    async def cancel(
        self,
        request: Request[Any, Any, Any],
        fleet: TheFleet,
        rollout: NamedDependency[str],
        data: JSONBody[DeviceChoice],
    ) -> Rollout:
        """All: the rollout is halted. One: it is left out. Until devices have said so it is only asked for; 409."""
        by = who_of(request).actor
        return await to_thread.run_sync(lambda: fleet.steering.cancel(rollout, data.device, by=by))

    @post("/{rollout_id:str}/retry", summary="Have what ended badly tried again", status_code=200)
    async def retry(self, fleet: TheFleet, rollout: NamedDependency[str], data: JSONBody[DeviceChoice]) -> Rollout:
        """On one device or all on which it failed, was rolled back, rejected or cancelled; 409 where there are none."""
        return await to_thread.run_sync(fleet.steering.retry, rollout, data.device)

    @post("/{rollout_id:str}/approve", summary="Say go to the next wave", status_code=200)
    async def approve(self, fleet: TheFleet, rollout: NamedDependency[str]) -> Rollout:
        """It begins with the announcement's next revision; 409 where the rollout does not wait for that."""
        return await to_thread.run_sync(fleet.steering.approve, rollout)


class Devices(Controller):
    """Devices that were ever heard of."""

    path = "/devices"
    tags = ("devices",)

    @get("", summary="List devices")
    async def devices(
        self,
        fleet: TheFleet,
        channel: FromQuery[str | None] = None,
        online: FromQuery[bool | None] = None,
        after: AfterName = "",
        limit: Limit = 100,
    ) -> Page[Device]:
        """By id."""
        check_after(after, DEVICE_PATTERN)
        found = await to_thread.run_sync(
            lambda: fleet.registry.devices(after=after, limit=limit + 1, channel=channel, online=online)
        )
        return Page(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    @get("/{device_id:str}", summary="One device")
    async def device(self, fleet: TheFleet, device_id: FromPath[str]) -> Device:
        """Presence, what it reported, and its newest update."""
        return await to_thread.run_sync(fleet.registry.device, device_id)

    @delete("/{device_id:str}", summary="Forget a device that is gone for good")
    async def forget(self, fleet: TheFleet, device_id: FromPath[str]) -> None:
        """Removes all that it said and was told; 409 while it is there. Should it speak again, it is a new device."""
        await to_thread.run_sync(fleet.steering.forget, device_id)

    @get("/{device_id:str}/events", summary="A device's events")
    async def events(
        self,
        fleet: TheFleet,
        device_id: FromPath[str],
        newest: FromQuery[bool] = False,
        after: AfterRow = 0,
        limit: Limit = 100,
    ) -> Page[TakenEvent]:
        """In the order of intake: from the first, or with `newest` the last ones."""

        def read() -> list[TakenEvent]:
            fleet.registry.device(device_id)
            return fleet.registry.device_events(device_id, after=after, limit=limit + (not newest), newest=newest)

        found = await to_thread.run_sync(read)
        more = not newest and len(found) > limit
        return Page(items=found[:limit], next=str(found[limit - 1].id) if more else None)

    @get("/{device_id:str}/commands", summary="What a device was asked for")
    async def commands(
        self, fleet: TheFleet, device_id: FromPath[str], after: AfterName = "", limit: Limit = 100
    ) -> Page[SentCommand]:
        """The newest first, and when each was sent."""
        check_after(after, UUID7_PATTERN)

        def read() -> list[SentCommand]:
            fleet.registry.device(device_id)
            return fleet.orders.commands(device_id, before=after or None, limit=limit + 1)

        found = await to_thread.run_sync(read)
        return Page(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)

    @post("/{device_id:str}/commands", summary="Ask a device for something")
    async def command(
        self,
        request: Request[Any, Any, Any],
        fleet: TheFleet,
        repository: TheRepository,
        device_id: FromPath[str],
        data: JSONBody[CommandWish],
    ) -> Asked:
        """Sent as soon as there is a connection; void when it has expired before the device is reached."""
        if data.verb in deeds.ASKS:
            does(request, f"device.{deeds.ASKS[data.verb]}")

        def ask() -> Asked:
            package, device = data.args.get("package"), fleet.registry.device(device_id)
            warnings = []
            if unheard := _unheard_of(package, device, repository) if isinstance(package, str) else None:
                # what is under way may be of a release that was deleted, and is cancelled all the same
                if data.verb is not Verb.CANCEL and device.reported_at is not None:
                    raise OperatorError("release.unknown", unheard)
                warnings.append(unheard)
            sent = fleet.steering.send_command(
                device_id, data.verb, data.args, expires_in=timedelta(seconds=data.expires_s)
            )
            if data.verb is Verb.ROLLBACK and (counted := fleet.rollouts.counts_as_failure(device_id, package)):
                warnings.append(counted)
            return Asked(**msgspec.structs.asdict(sent), warnings=warnings)

        return await to_thread.run_sync(ask)

    @get("/{device_id:str}/desired", summary="What a device was told")
    async def told(self, fleet: TheFleet, device_id: FromPath[str]) -> Told:
        """Channel, tags, pins and hold that it was told apart from its channel; revision 0 where it never was."""

        def read() -> Told:
            fleet.registry.device(device_id)
            said = fleet.orders.desired(device_id)
            return Told(**msgspec.structs.asdict(said)) if said is not None else Told(rev=0)

        return await to_thread.run_sync(read)

    @put("/{device_id:str}/desired", summary="Tell a device apart from its channel")
    async def desired(
        self,
        request: Request[Any, Any, Any],
        fleet: TheFleet,
        repository: TheRepository,
        device_id: FromPath[str],
        data: JSONBody[DesiredWish],
    ) -> Told:
        """Channel, tags, pins and hold; it replaces what the device was told before."""

        unpinned: set[str] = set()

        def anew(before: Desired) -> Desired:
            unpinned.update((before.pins or {}).keys() - (data.pins or {}).keys())
            said = Desired(rev=0, channel=data.channel, tags=data.tags, pins=data.pins, hold=data.hold)
            does(request, *_deeds(before, said))
            return said

        def tell() -> Told:
            desired = fleet.steering.change_desired(device_id, anew)
            warnings = [
                f"there is no {package} {version} in the repository; the device can stay at it only if it has it"
                f"{did_you_mean(repository.near(package))}"
                for package, version in (data.pins or {}).items()
                if not repository.has(package, version)
            ]
            follows = data.channel or fleet.registry.device(device_id).channel
            if data.channel is not None and (nobody := fleet.registry.nobody_follows(data.channel)) is not None:
                warnings.append(nobody)
            if follows is not None:
                newer = (
                    fleet.registry.newer_than_its_channel(device_id, package=package, channel=follows)
                    for package in sorted(unpinned)
                )
                warnings += [one for one in newer if one is not None]
            return Told(**msgspec.structs.asdict(desired), warnings=warnings)

        return await to_thread.run_sync(tell)


def _unheard_of(package: str, device: Device, repository: PackageRepository) -> str | None:
    """What to say where a device is asked about a package that there is not, or that it alone once had under way."""
    newest = device.update.package if device.update is not None else None
    if package in device.packages or package == newest or package in repository.names():
        return None
    near = dict.fromkeys([*difflib.get_close_matches(package, device.packages, n=2), *repository.near(package)])
    return f"neither the device nor the repository has a package {one_line(package, 80)}{did_you_mean(near)}"


@get("/fleet", tags=["devices"], summary="Numbers about the fleet")
async def fleet_statistics(fleet: TheFleet) -> FleetStatistics:
    """How many devices, on which channels, with which versions."""
    return await to_thread.run_sync(fleet.registry.statistics)


@get("/watch", tags=["devices"], summary="Changes as they happen", media_type="text/event-stream")
async def watch(
    request: Request[Any, Any, Any],
    fleet: TheFleet,
) -> Stream:
    """Server-sent events: `update`, `presence`, `reported`, `forgotten`, `rollout`, `connection`; `too-slow` ends it.

    `connection` tells that the broker went, or is there again: `connected`, and where it is not the `error`.
    With Last-Event-ID, events of devices that came in after that one are sent first.
    """
    last = request.headers.get("last-event-id")
    if last is not None and not (last.isascii() and last.isdigit() and len(last) <= MAX_ID_DIGITS):
        raise OperatorError("input.bad", f"Last-Event-ID {one_line(last, 40)!r} is none that was sent from here")
    after = None if last is None else int(last)
    changes = server_sent_events(fleet.feed, fleet.registry.events_since, ending_of(request), after=after)
    return Stream(changes, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@get("/controller", tags=["controller"], summary="Where the controller's parts are")
async def about_controller(
    fleet: TheFleet, settings: NamedDependency[ControllerSettings], broker_url: NamedDependency[str]
) -> ControllerView:
    """For people and programs that connect to the broker or the repository by themselves."""
    return ControllerView(
        version=VERSION,
        broker=broker_url,
        connected=fleet.connected,
        error=fleet.away,
        topic_root=settings.topic_root,
        repository=list(settings.repository_urls),
    )


def _deeds(before: Desired, said: Desired) -> Iterator[str]:
    """What it does to a device to be told this in place of that, in the audit log's words for the page's buttons."""
    old, new = before.pins or {}, said.pins or {}
    if new.items() - old.items():
        yield "device.pin"
    if old.keys() - new.keys():
        yield "device.unpin"
    if bool(before.hold) != bool(said.hold):
        yield "device.hold" if said.hold else "device.unhold"
    if (before.channel, before.tags or {}) != (said.channel, said.tags or {}):
        yield "device.desired"


def _pace(engine: Engine, rollout: str) -> RolloutPace:
    """As the page has it."""
    found = read_board(engine, rollout, utc_now()).pace
    return RolloutPace(per_minute=found.per_minute, ends_at=found.ends)


def _device_page(fleet: FleetService, rollout_id: str, after: str, limit: int) -> Page[RolloutDevice]:
    fleet.rollouts.rollout(rollout_id)
    found = fleet.rollouts.devices(rollout_id, after=after, limit=limit + 1)
    return Page(items=found[:limit], next=found[limit - 1].device if len(found) > limit else None)
