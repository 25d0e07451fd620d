"""`/metrics`: all that can be measured about the controller and its fleet, in Prometheus' text format."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controller.database import utc_now
from controller.fleet.service import FleetStatus
from controller.logs import told
from controller.signals.numbers import FleetNumbers
from controller.signals.upkeep import Upkeep
from controller.version import VERSION
from schemas.errors import OperatorError, one_line

CACHE_S: Final = 5.0
"""So many scrapers as like may ask: the database is asked once in this time."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


_UP: Final = "1 while the database answers"

log = logging.getLogger(__name__)


def new_registry() -> CollectorRegistry:
    """A registry of our own, with what is known of this process."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Metrics:
    """Renders a registry after adding what the database, the fleet service and the repository say.

    Args:
        registry: has the counters already.
        numbers: reads the database.
        status: how the fleet service is doing; safe from any thread.
        watchers: how many watch live.
        upkeep: what is known of the repository.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        numbers: Callable[[], FleetNumbers],
        status: Callable[[], FleetStatus],
        watchers: Callable[[], int],
        upkeep: Upkeep,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._registry = registry
        registry.register(_Fleet(_Cached(numbers)))
        registry.register(_Service(status, watchers))
        registry.register(_Repository(upkeep, clock))

    def render(self) -> bytes:
        """The text of a scrape; blocks for a few queries at most."""
        return generate_latest(self._registry)


class _Cached:
    def __init__(self, read: Callable[[], FleetNumbers]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._kept: tuple[float, FleetNumbers] | None = None

    def __call__(self) -> FleetNumbers:
        """What was read less than `CACHE_S` ago, by whomever."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > CACHE_S:
                self._kept = (time.monotonic(), self._read())
            return self._kept[1]


class _Fleet(Collector):
    def __init__(self, numbers: Callable[[], FleetNumbers]) -> None:
        self._numbers = numbers

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """From the database; without it, that it is away, so that all other numbers are still there."""
        try:
            numbers = self._numbers()
        except OperatorError as error:
            log.warning("metrics: %s", one_line(error), extra=told("metrics", error))
            yield _gauge("flotilla_database_up", _UP, 0)
            return
        yield _gauge("flotilla_database_up", _UP, 1)
        yield _gauge("flotilla_devices", "Devices that were ever heard of", numbers.devices)
        yield _gauge("flotilla_devices_online", "Devices that are online", numbers.online)
        yield _labelled("flotilla_channel_devices", "Devices by channel", "channel", numbers.channels)
        installed = GaugeMetricFamily(
            "flotilla_package_devices", "Devices by package and version that they run", labels=["package", "version"]
        )
        for key, count in numbers.installed.items():
            installed.add_metric(key, count)
        yield installed
        yield _labelled("flotilla_rollouts", "Rollouts by state", "state", numbers.rollouts)
        yield from _rollouts(numbers)
        yield _labelled(
            "flotilla_unpublished_messages", "What the broker has not taken yet, by kind", "kind", numbers.unpublished
        )
        yield _gauge("flotilla_incomplete_devices", "Devices that have events which are not here", numbers.incomplete)
        yield _gauge("flotilla_missing_events", "Events of devices that are not here", numbers.missing)


def _rollouts(numbers: FleetNumbers) -> Iterator[Metric]:
    verdicts = GaugeMetricFamily(
        "flotilla_rollout_devices",
        "Devices of announced rollouts by verdict",
        labels=["rollout", "package", "version", "channel", "verdict"],
    )
    phases: dict[str, int] = {}
    for one in numbers.announced:
        for verdict, count in one.verdicts.items():
            verdicts.add_metric([one.rollout, one.package, one.version, one.channel, verdict], count)
        for phase, count in one.phases.items():
            phases[phase] = phases.get(phase, 0) + count
    yield verdicts
    yield _labelled(
        "flotilla_phase_devices", "Devices by phase of their last word in announced rollouts", "phase", phases
    )


class _Service(Collector):
    def __init__(self, status: Callable[[], FleetStatus], watchers: Callable[[], int]) -> None:
        self._status = status
        self._watchers = watchers

    def describe(self) -> Iterable[Metric]:
        """Nothing, likewise."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """From memory."""
        status = self._status()
        version = GaugeMetricFamily("flotilla_controller_info", "The controller's version", labels=["version"])
        version.add_metric([VERSION], 1)
        yield version
        yield _gauge("flotilla_broker_connected", "1 while the controller is connected to its broker", status.connected)
        yield _gauge(
            "flotilla_intake_delay_seconds",
            "How long the oldest message has waited for its commit",
            status.intake_delay_s,
        )
        yield _gauge("flotilla_watchers", "Live views that are open", self._watchers())
        refused = CounterMetricFamily(
            "flotilla_refused_messages", "Messages of devices that were refused, by error code", labels=["code"]
        )
        for code, count in status.refused.items():
            refused.add_metric([code], count)
        yield refused


class _Repository(Collector):
    def __init__(self, upkeep: Upkeep, clock: Callable[[], datetime]) -> None:
        self._upkeep = upkeep
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing, likewise."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """From the last look."""
        there = self._upkeep.statistics
        if there is not None:
            yield _gauge("flotilla_repository_packages", "Packages in the repository", there.packages)
            yield _gauge("flotilla_repository_releases", "Releases in the repository", there.releases)
            sizes = {
                "objects": there.object_bytes,
                "targets": there.target_bytes,
                "metadata": there.metadata_bytes,
                "bundles": there.bundle_bytes,
            }
            yield _labelled("flotilla_repository_bytes", "Bytes on the disk by kind of file", "kind", sizes)
        if self._upkeep.expiries:
            soonest = min(self._upkeep.expiries.values())
            left = (soonest - self._clock()).total_seconds()
            yield _gauge("flotilla_metadata_seconds_left", "Until the first signature of the repository ends", left)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    made = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made
