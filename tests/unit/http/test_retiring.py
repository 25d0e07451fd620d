"""What is removed on request leaves devices what they need."""

from pathlib import Path
from typing import Any, cast

from controller.http.packages import Packages
from controller.http.views import RetireWish
from tests.support.repository import add_release, make_repository


class Fleet:
    """As `FleetService`: a device runs 1.1.0."""

    def releases_in_use(self) -> dict[str, set[str]]:
        return {"tacho": {"1.1.0"}}


async def test_what_the_fleet_needs_is_asked_for(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        add_release(repository, "tacho", version, {"v": version})
    wish = RetireWish(keep=1, older_than_days=0, dry_run=False)
    handler = cast("Any", Packages.retire)  # what Litestar makes of the method
    gone = await handler.fn(None, None, repository, Fleet(), wish)
    assert gone.releases == ["tacho@1.0.0@any"]
    assert [record.version for record in repository.search("tacho")] == ["1.2.0", "1.1.0"]
