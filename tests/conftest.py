"""Fixtures that give a real Mosquitto; see tests/support/broker.py for which one."""

import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as property_settings

from tests.support.broker import Broker, ProductionBroker, new_broker, new_production_broker

T = TypeVar("T")
_BROKERS = {"broker", "make_broker", "production_broker", "make_production_broker"}


# how fast a machine is decides no test: a property holds or it does not
property_settings.register_profile("flotilla", deadline=None, suppress_health_check=[HealthCheck.too_slow])
property_settings.load_profile("flotilla")


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever uses one of the brokers has the marker `broker`; what takes long begins first, on each worker."""
    for item in items:
        if _BROKERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = dealt(sorted(items, key=_length_s, reverse=True), sum(map(bool, map(_length_s, items))), workers)


def _length_s(item: pytest.Item) -> float:
    """What the marker `long` says; 0 without it."""
    marker = item.get_closest_marker("long")
    return float(marker.args[0]) if marker is not None else 0.0


def dealt(items: Sequence[T], first: int, workers: int) -> list[T]:
    """In an order in which each worker begins with its share of the first items.

    `--dist worksteal` gives each worker one stretch of the list, of the same length, and takes from the end of the
    longest queue for whoever is done. So what takes long would all be the first worker's, were it only sorted: it has
    to stand at the beginning of each stretch, or it is the last that goes on while the other workers have nothing left.
    """
    long, rest = list(items[:first]), list(items[first:])
    order: list[T] = []
    for number in range(workers):
        room = (len(items) - len(order)) // (workers - number)
        mine = long[number::workers]
        fill = max(room - len(mine), 0)
        order += [*mine, *rest[:fill]]
        rest = rest[fill:]
    return order


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: `unique("pi")` gives `pi-3f0c9a1e`."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic_root(unique: Callable[[str], str]) -> str:
    """A topic root that only this test uses, for the shared broker."""
    return f"{unique('test')}/v1"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker with development.conf for all tests: use ids and topics of your own, and don't stop it."""
    shared = new_broker(tmp_path_factory.mktemp("broker"))
    try:
        shared.start()
        yield shared
    finally:
        shared.remove()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[[], Broker]]:
    """Starts brokers that belong to the test: it may kill and restart them."""
    with ExitStack() as stack:

        def make() -> Broker:
            own = new_broker(tmp_path / f"broker-{uuid.uuid4().hex[:8]}")
            stack.callback(own.remove)
            own.start()
            return own

        yield make


@pytest.fixture(scope="session")
def production_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionBroker]:
    """One broker with production.conf for all tests; users controller, watcher, homeassistant, dev-a, dev-b, dev-c."""
    users = ("controller", "watcher", "homeassistant", "dev-a", "dev-b", "dev-c")
    shared = new_production_broker(tmp_path_factory.mktemp("production"), users=users)
    try:
        shared.broker.start()
        yield shared
    finally:
        shared.broker.remove()


@pytest.fixture
def make_production_broker(tmp_path: Path) -> Iterator[Callable[[tuple[str, ...]], ProductionBroker]]:
    """Starts brokers with production.conf for the given users: the test may kill and restart them."""
    with ExitStack() as stack:

        def make(users: tuple[str, ...]) -> ProductionBroker:
            own = new_production_broker(tmp_path / f"production-{uuid.uuid4().hex[:8]}", users=users)
            stack.callback(own.broker.remove)
            own.broker.start()
            return own

        yield make
