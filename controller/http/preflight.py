"""`/api/v1/releases/preflight`: what a release would do, without doing it."""

from anyio import to_thread
from litestar import post

from controller.http.packages import Limit
from controller.http.views import ReleaseWish
from controller.preflight.gathering import Preflights
from controller.preflight.views import Preflight
from controller.rollouts.plan_files import ready_plan


@post("/releases/preflight", tags=["rollouts"], summary="See what a release would do", status_code=200)
async def preflight(data: ReleaseWish, preflights: Preflights, after: str = "", limit: Limit = 100) -> Preflight:
    """Takes the same wish as a release and changes nothing: who is meant, by which way, how many bytes, until when."""
    return await to_thread.run_sync(
        lambda: preflights.look(
            package=data.package,
            version=data.version,
            channel=data.channel,
            targets=data.targets,
            policy=data.policy,
            plan=ready_plan(data.plan) if isinstance(data.plan, str) else data.plan,
            after=after,
            limit=limit,
        )
    )
