"""What the API's handlers are given: the controller's parts by name, and the size of a page from the query."""

from typing import Annotated

from litestar.di import NamedDependency
from litestar.params import QueryParameter

from controller.fleet.service import FleetService
from controller.http.login import Accounts
from controller.http.releasing import Releasing
from controller.http.views import MAX_PAGE
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository

TheAccounts = NamedDependency[Accounts]
TheBundleMaker = NamedDependency[BundleMaker]
TheFleet = NamedDependency[FleetService]
TheReleasing = NamedDependency[Releasing]
TheRepository = NamedDependency[PackageRepository]

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]
