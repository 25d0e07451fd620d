"""`/api/v1/releases/preflight`: what a release would do, without doing it."""

from anyio import to_thread
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from controller.http.given import AfterName, Limit, check_after
from controller.http.plans import look_at_wish
from controller.http.views import ReleaseWish
from controller.preflight.gathering import Preflights
from controller.preflight.views import Preflight
from schemas.names import DEVICE_PATTERN


@post(
    "/releases/preflight",
    tags=["rollouts"],
    summary="See what a release would do",
    status_code=200,
    before_request=look_at_wish,
)
async def preflight(
    data: JSONBody[ReleaseWish], preflights: NamedDependency[Preflights], after: AfterName = "", limit: Limit = 100
) -> Preflight:
    """Takes the same wish as a release and changes nothing: who is meant, by which way, how many bytes, until when."""
    check_after(after, DEVICE_PATTERN)
    return await to_thread.run_sync(lambda: foresee(preflights, data, after=after, limit=limit))


def foresee(preflights: Preflights, wish: ReleaseWish, *, after: str = "", limit: int) -> Preflight:
    """What a wish would do; blocks, and raises what `Preflights.look` does."""
    return preflights.look(
        package=wish.package,
        version=wish.version,
        channel=wish.channel,
        targets=wish.targets,
        policy=wish.policy,
        plan=wish.chosen_plan(),
        after=after,
        limit=limit,
    )
