"""What the API's handlers are given: the controller's parts by name, and from the query which page is asked for."""

from typing import Annotated, Final

from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter
from sqlalchemy import Engine

from controller.fleet.service import FleetService
from controller.http.login import Accounts
from controller.http.releasing import Releasing
from controller.http.views import MAX_PAGE
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from schemas.errors import OperatorError, one_line
from schemas.names import matches

TheAccounts = NamedDependency[Accounts]
TheBundleMaker = NamedDependency[BundleMaker]
TheEngine = NamedDependency[Engine]
TheFleet = NamedDependency[FleetService]
TheReleasing = NamedDependency[Releasing]
TheRepository = NamedDependency[PackageRepository]

MAX_ROW: Final = 2**63 - 1
AfterRow = Annotated[int, QueryParameter(ge=0, le=MAX_ROW, description="`next` of the page before")]
AfterName = Annotated[str, QueryParameter(description="`next` of the page before")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]


def always(value: object) -> Provide:
    """Gives the same value to every request."""
    return Provide(lambda: value, use_cache=True, sync_to_thread=False)


def check_after(after: str | None, pattern: str) -> None:
    """Raise `OperatorError` (`input.bad`) for what no page's `next` can have been, as every item would come after it.

    Args:
        after: as given; none, or an empty one, is the first page.
        pattern: of what the list is ordered by.
    """
    if after and not matches(pattern, after):
        raise OperatorError(
            "input.bad", f"after: {one_line(after, 80)!r} is no page's next; leave it out for the first page"
        )
