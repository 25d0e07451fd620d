"""What the pages' handlers work with: one value for all of them instead of ten."""

from dataclasses import dataclass

from sqlalchemy import Engine

from controller.accounts.audit import AuditLog
from controller.accounts.people import People
from controller.accounts.tokens import Tokens
from controller.fleet.service import FleetService
from controller.http.releasing import Releasing
from controller.preflight.gathering import Preflights
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from controller.web.fleet_reading import FleetReading
from controller.web.freshness import Fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The controller's parts that the page shows and asks.

    Attributes:
        fresh: answers that many pages share.
        has_file_token: whether the token in the data folder is good for something; on loopback nobody is asked for one.
        preflights: say what a release would do.
    """

    engine: Engine
    fleet: FleetService
    reading: FleetReading
    repository: PackageRepository
    releasing: Releasing
    bundle_maker: BundleMaker
    audit: AuditLog
    people: People
    tokens: Tokens
    has_file_token: bool
    fresh: Fresh
    preflights: Preflights
