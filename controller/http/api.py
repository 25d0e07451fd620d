"""The API at `/api/v1`: its handlers, and the controller's parts that they are given."""

from dataclasses import dataclass, fields
from typing import Final

from litestar import Router
from litestar.types import ControllerRouterHandler
from sqlalchemy import Engine

from controller.fleet.service import FleetService
from controller.http import accounts, fleet, packages
from controller.http.bundles import bundles, make_bundles_again
from controller.http.given import always
from controller.http.preflight import preflight
from controller.http.releasing import Releasing
from controller.http.transfers import Spool
from controller.preflight.gathering import Preflights
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from controller.settings import ControllerSettings

HANDLERS: Final[list[ControllerRouterHandler]] = [
    packages.Packages,
    bundles,
    make_bundles_again,
    packages.trusted_root,
    packages.statistics,
    fleet.release,
    preflight,
    fleet.release_set,
    fleet.withdraw,
    fleet.Rollouts,
    fleet.Devices,
    fleet.fleet_statistics,
    fleet.watch,
    fleet.about_controller,
    accounts.Session,
    accounts.Users,
    accounts.TokensOfMachines,
    accounts.audit_log,
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the handlers work with; each is given to those that name it as it is named here.

    Attributes:
        engine: the database, which is asked for numbers.
        bundle_maker: told of every release that comes.
        preflights: say what a release would do.
        broker_url: where the controller itself connects.
    """

    engine: Engine
    repository: PackageRepository
    fleet: FleetService
    settings: ControllerSettings
    spool: Spool
    bundle_maker: BundleMaker
    preflights: Preflights
    releasing: Releasing
    broker_url: str


def api_router(parts: Parts) -> Router:
    """All of it; who may do what is said in `controller.http.rules`."""
    given = {field.name: always(getattr(parts, field.name)) for field in fields(parts)}
    return Router("/api/v1", route_handlers=HANDLERS, dependencies=given)
