"""Puts the API, the repository, the signals and the page together as one ASGI application."""

from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from controller.http.access import MAX_WISH_BYTES, Access, check_rules
from controller.http.api import Parts, api_router
from controller.http.docs import JSON, PAGE
from controller.http.given import always
from controller.http.login import Accounts
from controller.http.repository_files import repository_files
from controller.http.signals import signal_routes
from controller.signals.health import Health
from controller.signals.metrics import Metrics
from controller.version import VERSION
from controller.web.desk import Desk
from controller.web.fleet_reading import FleetReading
from controller.web.freshness import Fresh
from controller.web.problems import for_browsers
from controller.web.rendering import template_config
from controller.web.site import Site


def make_application(parts: Parts, *, accounts: Accounts, access: Access, metrics: Metrics, health: Health) -> Litestar:
    """The application: `/api/v1`, `/api/docs`, `/repo`, `/metrics`, `/healthz`, `/readyz`, and the page at `/`.

    Args:
        parts: what API and page work with.
        accounts: of people and machines, and the log of what they changed.
        access: what every request goes through.
        metrics: for `/metrics`; `health` for the two beside it.
    """
    site = Site()
    made = Litestar(
        route_handlers=[
            api_router(parts),
            *signal_routes(metrics, health),
            repository_files(parts.repository),
            *site.handlers(_desk(parts, accounts)),
        ],
        dependencies={"accounts": always(accounts)},
        middleware=[access.middleware()],
        exception_handlers=for_browsers(site.problems),
        template_config=template_config(site.environment),
        openapi_config=_description(),
        request_max_body_size=MAX_WISH_BYTES,
        logging_config=None,
    )
    check_rules(made)
    return made


def _desk(parts: Parts, accounts: Accounts) -> Desk:
    return Desk(
        engine=parts.engine,
        fleet=parts.fleet,
        reading=FleetReading(parts.engine),
        repository=parts.repository,
        releasing=parts.releasing,
        bundle_maker=parts.bundle_maker,
        audit=accounts.audit,
        people=accounts.people,
        tokens=accounts.tokens,
        has_file_token=accounts.has_file_token,
        fresh=Fresh(lambda: parts.fleet.feed.published),
        preflights=parts.preflights,
    )


def _description() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Flotilla",
        version=VERSION,
        path="/api/docs",
        render_plugins=[PAGE, JSON],
        use_handler_docstrings=True,
    )
