"""How often the repository's size is looked up."""

import asyncio
from datetime import datetime
from typing import cast

import pytest

from controller.repository.package_repository import PackageRepository
from controller.signals import upkeep
from controller.signals.upkeep import Upkeep, pause_s
from schemas.errors import TrustError
from tests.support.links import until


@pytest.mark.parametrize(("took_s", "pause"), [(0.001, 15.0), (0.1, 90.0), (1.0, 900.0), (60.0, 900.0)])
def test_the_longer_a_look_takes_the_more_seldom_it_is(took_s: float, pause: float) -> None:
    assert pause_s(took_s) == pytest.approx(pause)


class Repository:
    """Changes when it is told to; each look at it takes time."""

    def __init__(self) -> None:
        self.stamp_now = 0
        self.looks = 0
        self.is_damaged = False

    def stamp(self) -> object:
        return self.stamp_now

    def expiries(self) -> list[tuple[str, datetime]]:
        if self.is_damaged:
            raise TrustError("trust.metadata", "damaged")
        return []

    def statistics(self) -> None:
        self.looks += 1


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def looking(repository: Repository) -> Upkeep:
    return Upkeep(cast("PackageRepository", repository))


def test_it_is_looked_at_again_when_something_was_pushed_and_now_and_then(
    repository: Repository, looking: Upkeep
) -> None:
    assert looking.look_again(1000.0)
    assert not looking.look_again(1100.0)
    repository.stamp_now = 1
    assert looking.look_again(1200.0)
    assert not looking.look_again(1300.0)
    assert looking.look_again(1300.0 + upkeep.LONGEST_S)
    assert repository.looks == 3


def test_a_large_repository_is_not_looked_at_with_every_push(
    repository: Repository, looking: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "pause_s", lambda _took_s: 400.0)
    assert looking.look_again(1000.0)
    repository.stamp_now = 1
    assert not looking.look_again(1399.0)
    assert looking.look_again(1500.0)


def test_a_look_that_failed_is_tried_again(repository: Repository, looking: Upkeep) -> None:
    repository.is_damaged = True
    with pytest.raises(TrustError):
        looking.look_again(1000.0)
    repository.is_damaged = False
    assert not looking.look_again(1001.0)
    assert looking.look_again(1100.0)


async def test_what_was_pushed_since_the_start_is_seen_soon(
    repository: Repository, looking: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LEAST_S", 0.01)
    monkeypatch.setattr(upkeep, "SHARE", 0)
    stop = asyncio.Event()
    running = asyncio.create_task(looking.run(stop))
    await until(lambda: repository.looks == 1)
    repository.stamp_now = 1
    await until(lambda: repository.looks == 2)
    stop.set()
    await running
