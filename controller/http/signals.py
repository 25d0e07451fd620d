"""`/metrics`, `/healthz` and `/readyz`: for whoever watches the controller itself."""

from anyio import to_thread
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from controller.signals.health import Health, Readiness
from controller.signals.metrics import CONTENT_TYPE, Metrics
from controller.version import VERSION


def signal_routes(metrics: Metrics, health: Health) -> list[HTTPRouteHandler]:
    """The three routes.

    `/metrics` is for those who may read the API (`controller/http/rules.py`). The other two are for everybody who can
    connect: what starts and watches services has no token, and learns nothing there about the fleet.
    """

    @get("/metrics", include_in_schema=False)
    async def read_metrics() -> Response[bytes]:
        """Prometheus' text format."""
        text = await to_thread.run_sync(metrics.render)
        return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    @get("/healthz", include_in_schema=False)
    async def healthz() -> Response[dict[str, str]]:
        """200 as long as the process answers: what is restarted for less than that is restarted in vain."""
        return Response({"status": "ok", "version": VERSION}, headers={"Cache-Control": "no-store"})

    @get("/readyz", include_in_schema=False)
    async def readyz() -> Response[Readiness]:
        """200 while everything does its work, else 503; either way which check says what."""
        found = await to_thread.run_sync(health.readiness)
        return Response(found, status_code=200 if found.ready else 503, headers={"Cache-Control": "no-store"})

    return [read_metrics, healthz, readyz]
