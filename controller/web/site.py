"""Puts the pages together: one router at `/`, beside the API and the repository."""

from typing import Any

from jinja2 import Environment
from litestar import Request, Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler, ExceptionHandlersMap

from controller.http.given import always
from controller.http.noting import who_of
from controller.web import account_pages, audit_pages, device_pages, fleet_pages, package_pages, rollout_pages
from controller.web.desk import Desk
from controller.web.guarding import MAX_FORM_BYTES, refuse_other_sites
from controller.web.login_page import login, login_page, logout
from controller.web.problems import problem_pages
from controller.web.rendering import make_environment
from controller.web.statics import Statics
from controller.web.visitor import Visitor, visitor_of

PAGES = [
    fleet_pages.overview,
    fleet_pages.overview_live,
    fleet_pages.devices,
    device_pages.device,
    device_pages.device_live,
    device_pages.ask_device,
    device_pages.tell_device,
    rollout_pages.rollouts,
    rollout_pages.rollout,
    rollout_pages.rollout_live,
    rollout_pages.cell,
    rollout_pages.ask_rollout,
    rollout_pages.steer,
    package_pages.packages,
    package_pages.package,
    package_pages.compared,
    package_pages.version,
    package_pages.ask_version,
    package_pages.change_version,
    audit_pages.audit,
    account_pages.accounts,
]


class Site:
    """All that the application mounts.

    Attributes:
        environment: of the templates.
        problems: handlers that show what goes wrong as pages.
    """

    def __init__(self) -> None:
        statics = Statics()
        self.environment: Environment = make_environment(statics)
        self.problems: ExceptionHandlersMap = problem_pages(self.environment)
        self._static = statics.handler()

    def handlers(self, desk: Desk) -> list[ControllerRouterHandler]:
        """The pages, the way in and out, and the static files, which are for everybody.

        Args:
            desk: what the pages show and ask.
        """
        return [self._pages(desk), self._static, login_page, login, logout]

    def _pages(self, desk: Desk) -> Router:
        self.environment.globals["away"] = lambda: desk.fleet.away
        return Router(
            "/",
            route_handlers=PAGES,
            guards=[refuse_other_sites],
            exception_handlers=self.problems,
            dependencies={
                "desk": always(desk),
                "environment": always(self.environment),
                "visitor": Provide(_visitor, sync_to_thread=False),
            },
            include_in_schema=False,
            request_max_body_size=MAX_FORM_BYTES,
        )


def _visitor(request: Request[Any, Any, Any]) -> Visitor:
    return visitor_of(who_of(request))
