"""Puts the handlers together as one ASGI application."""

import asyncio
from typing import Final

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from sqlalchemy import Engine

from controller.accounts.answers import Answers
from controller.fleet.service import FleetService
from controller.http import accounts as account_handlers
from controller.http import fleet as fleet_handlers
from controller.http import packages as package_handlers
from controller.http.access import Access, check_rules
from controller.http.bundles import bundles, make_bundles_again
from controller.http.docs import JSON, PAGE
from controller.http.guard import Gate
from controller.http.login import Accounts
from controller.http.preflight import preflight
from controller.http.releasing import Releasing
from controller.http.repository_files import repository_files
from controller.http.signals import signal_routes
from controller.http.transfers import Spool
from controller.http.watchers import ASK_AGAIN_S, Watchers
from controller.http.watchers import MOST as MOST_WATCHERS
from controller.preflight.gathering import Preflights
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from controller.settings import ControllerSettings
from controller.signals.health import Health
from controller.signals.metrics import Metrics
from controller.version import VERSION
from controller.web.desk import Desk
from controller.web.fleet_reading import FleetReading
from controller.web.freshness import Fresh
from controller.web.login_page import login, login_page, logout
from controller.web.problems import for_browsers
from controller.web.rendering import template_config
from controller.web.site import Site

MAX_WISH_BYTES: Final = 1024 * 1024
"""A request's body, but for uploads: no wish that can be announced is larger than 256 KiB."""


def make_api(
    *,
    repository: PackageRepository,
    fleet: FleetService,
    settings: ControllerSettings,
    spool: Spool,
    broker_url: str,
    token: str | None,
    accounts: Accounts,
    answers: Answers,
    stop: asyncio.Event,
    bundle_maker: BundleMaker,
    preflights: Preflights,
    metrics: Metrics,
    health: Health,
    engine: Engine,
    most_watchers: int = MOST_WATCHERS,
    ask_again_s: float = ASK_AGAIN_S,
) -> Litestar:
    """The application: `/api/v1`, `/api/docs`, `/repo`, `/metrics`, `/healthz`, `/readyz`, and the page at `/`.

    Args:
        engine: the database, which the page and the API ask for numbers.
        token: the one in the data folder; None where only this machine can connect and nobody is asked for one.
        accounts: of people and machines, and the log of what they changed.
        answers: kept for requests that are sent again.
        stop: set when the controller is about to end, so that watchers are let go.
        bundle_maker: told of every release that comes.
        preflights: say what a release would do.
        most_watchers: live views at a time.
        ask_again_s: seconds between two looks at whether whoever watches still may.
    """
    releasing = Releasing(repository, fleet, settings)
    desk = Desk(
        engine=engine,
        fleet=fleet,
        reading=FleetReading(engine),
        repository=repository,
        releasing=releasing,
        bundle_maker=bundle_maker,
        audit=accounts.audit,
        people=accounts.people,
        tokens=accounts.tokens,
        fresh=Fresh(lambda: fleet.feed.published),
        preflights=preflights,
    )
    site = Site()
    api = Router(
        "/api/v1",
        route_handlers=[
            package_handlers.Packages,
            bundles,
            make_bundles_again,
            package_handlers.trusted_root,
            package_handlers.statistics,
            fleet_handlers.release,
            preflight,
            fleet_handlers.release_set,
            fleet_handlers.withdraw,
            fleet_handlers.Rollouts,
            fleet_handlers.Devices,
            fleet_handlers.fleet_statistics,
            fleet_handlers.watch,
            fleet_handlers.about_controller,
            account_handlers.Session,
            account_handlers.Users,
            account_handlers.TokensOfMachines,
            account_handlers.audit_log,
        ],
        dependencies={
            "engine": _always(engine),
            "repository": _always(repository),
            "fleet": _always(fleet),
            "settings": _always(settings),
            "spool": _always(spool),
            "bundle_maker": _always(bundle_maker),
            "preflights": _always(preflights),
            "releasing": _always(releasing),
            "broker_url": _always(broker_url),
        },
    )

    gate = Gate(accounts.people, accounts.tokens, token)
    watchers = Watchers(gate, stop, most=most_watchers, ask_again_s=ask_again_s)
    access = Access(gate, accounts.audit, answers, watchers, max_body=MAX_WISH_BYTES)
    made = Litestar(
        route_handlers=[
            api,
            *signal_routes(metrics, health),
            repository_files(repository),
            site.router(desk),
            site.static,
            login_page,
            login,
            logout,
        ],
        dependencies={"accounts": _always(accounts)},
        middleware=[access.middleware()],
        exception_handlers=for_browsers(site.problems),
        template_config=template_config(site.environment),
        openapi_config=OpenAPIConfig(
            title="Flotilla",
            version=VERSION,
            path="/api/docs",
            render_plugins=[PAGE, JSON],
            use_handler_docstrings=True,
        ),
        request_max_body_size=MAX_WISH_BYTES,
        logging_config=None,
    )
    check_rules(made)
    return made


def _always(value: object) -> Provide:
    return Provide(lambda: value, use_cache=True, sync_to_thread=False)
