"""`/`, `/devices`: the fleet at a glance, and the list of devices."""

from typing import Any

from anyio import to_thread
from litestar import get
from litestar.params import FromQuery
from litestar.response import Stream, Template

from controller.database import utc_now
from controller.http.noting import ending_of
from controller.rollouts.plan import RolloutState
from controller.web.actions import notice
from controller.web.desk import Desk
from controller.web.fleet_reading import Numbers, RolloutLine, Wanted, rollout_lines
from controller.web.given import Text, TheDesk, TheEnvironment, TheVisitor
from controller.web.live import live
from controller.web.models import RolloutCard, VersionBar, rollout_card, version_bars
from controller.web.rendering import Asked, away_part, page

DEVICES_A_PAGE = 50
RUNNING_SHOWN = 6
_RUNNING = (RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.HALTED)


@get("/")
async def overview(request: Asked, desk: TheDesk, visitor: TheVisitor) -> Template:
    """The whole fleet, and what goes on in it."""
    numbers, running = (await _glance(desk))[1:]
    return page(request, visitor, "overview.html", **_overview(numbers, running))


@get("/live")
async def overview_live(request: Asked, desk: TheDesk, environment: TheEnvironment) -> Stream:
    """The overview's parts as they change."""
    template = environment.get_template("overview_parts.html")

    async def parts() -> tuple[int, dict[str, str]]:
        generation, numbers, running = await _glance(desk)
        shown = {"overview": template.render(now=utc_now(), **_overview(numbers, running))}
        return generation, shown | away_part(environment)

    return live(parts, lambda: desk.fleet.feed.published, ending_of(request))


@get("/devices")
async def devices(
    request: Asked,
    desk: TheDesk,
    visitor: TheVisitor,
    q: Text = "",
    channel: Text = "",
    online: Text = "",
    package: Text = "",
    version: Text = "",
    needs: Text = "",
    after: Text = "",
    did: FromQuery[str | None] = None,
) -> Template:
    """A page of devices that fit."""
    wanted = Wanted(
        q=q.strip(),
        channel=channel,
        online={"yes": True, "no": False}.get(online),
        package=package,
        version=version if package else "",
        needs=needs if needs in {"attention", "told"} else "",
    )
    now = utc_now()
    numbers = (await desk.fresh.get("fleet", lambda: desk.reading.numbers(utc_now()))).value
    shown = await to_thread.run_sync(
        lambda: desk.reading.page(wanted, now, after=after, limit=DEVICES_A_PAGE + 1), abandon_on_cancel=True
    )
    total = numbers.devices
    if wanted != Wanted():
        total = (await desk.fresh.get(("devices", wanted), lambda: desk.reading.count(wanted, now))).value
    query = {"q": q, "channel": channel, "online": online, "package": package, "version": version, "needs": needs}
    return page(
        request,
        visitor,
        "devices.html",
        devices=shown[:DEVICES_A_PAGE],
        total=total,
        fleet=numbers.devices,
        channels=[name for name in numbers.channels if name],
        packages={name: [one.version for one in counts] for name, counts in numbers.versions.items()},
        query={name: value for name, value in query.items() if value},
        after=after,
        notice=notice(did),
        following=shown[DEVICES_A_PAGE - 1].id if len(shown) > DEVICES_A_PAGE else None,
    )


async def _glance(desk: Desk) -> tuple[int, Numbers, list[RolloutLine]]:
    numbers = await desk.fresh.get("fleet", lambda: desk.reading.numbers(utc_now()))
    running = await desk.fresh.get("running", lambda: rollout_lines(desk.engine, states=_RUNNING, limit=RUNNING_SHOWN))
    return min(numbers.generation, running.generation), numbers.value, running.value


def _overview(numbers: Numbers, running: list[RolloutLine]) -> dict[str, Any]:
    bars: dict[str, list[VersionBar]] = {name: version_bars(counts) for name, counts in numbers.versions.items()}
    cards: list[RolloutCard] = [rollout_card(line) for line in running]
    return {"numbers": numbers, "bars": bars, "running": cards}
