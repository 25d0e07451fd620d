"""The world that stories happen in."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.front import Front, front
from tests.support.world import World

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember for the fixture's end that the test failed."""
    made = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or made.failed
    return made


@pytest.fixture
def world(tmp_path: Path, make_broker: Callable[[], Broker], request: pytest.FixtureRequest) -> Iterator[World]:
    """A world with a broker of its own; nothing else runs in it yet. Says all it knows where the test fails."""
    with World(tmp_path / "world", make_broker()) as made:
        yield made
        if request.node.stash.get(_FAILED, False):
            print(made.report())


@pytest.fixture
def repository(world: World) -> Iterator[Front]:
    """What stands between the devices and the controller's repository; the controller runs."""
    with front(world.url) as made:
        world.start_controller(public_url=f"{made.url}/repo")
        yield made
