"""What the repository's tests share."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from tests.support.repository import make_repository


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        """Go on by a `timedelta`'s arguments."""
        self.now += timedelta(**delta)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> PackageRepository:
    return make_repository(tmp_path, clock=clock)
