"""What is counted as it happens: messages that come in, and HTTP requests."""

import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controller.fleet.intake_store import Outcome
from controller.fleet.observers import Observer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_COMMIT_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_LAG_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86_400.0)
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200)
_ANSWER_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_NOWHERE: Final = "none"
"""The route of a request that no route fits: its path is the client's to choose, and would be a series each."""


class IntakeCounters(Observer):
    """Counts what the intake takes in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batches = Histogram(
            "flotilla_intake_batch_messages",
            "Messages in one batch, refused ones included",
            buckets=_BATCH,
            registry=registry,
        )
        self._commit = Histogram(
            "flotilla_intake_commit_seconds",
            "From the arrival of a batch's oldest message to the commit of the batch",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self._lag = ManyObservations(
            "flotilla_intake_lag_seconds",
            "From a device's publishing an event, by its own clock, to the event's arrival in the database",
            buckets=_LAG_S,
        )
        registry.register(self._lag)
        self._events = Counter(
            "flotilla_intake_events",
            "Events by whether they were new or had been here already",
            ["outcome"],
            registry=registry,
        )
        self._new, self._repeated = self._events.labels("stored"), self._events.labels("repeated")

    def batch_done(self, messages: int, waited_s: float) -> None:
        """Count a batch."""
        self._batches.observe(messages)
        self._commit.observe(waited_s)

    def taken_in(self, outcome: Outcome) -> None:
        """Count its events."""
        self._new.inc(len(outcome.stored))
        self._repeated.inc(outcome.repeated)
        now = time.time()
        # a clock that goes ahead would count as negative
        self._lag.observe_all(max(now - one.event.at.timestamp(), 0.0) for one in outcome.stored)


class ManyObservations(Collector):
    """A histogram that takes many observations at once.

    The library's own takes one at a time, with a lock for each number that changes: longer than reading an event.

    Args:
        name: of the metric.
        documentation: what it says, one line.
        buckets: their upper ends, rising; one without an end is added.
    """

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._ends = [float(end) for end in buckets]
        self._counted = ([0] * (len(self._ends) + 1), 0.0)

    def observe_all(self, values: Iterable[float]) -> None:
        """Count these in; from one thread."""
        counts, total = self._counted
        counts = counts.copy()
        for value in values:
            counts[bisect_left(self._ends, value)] += 1
            total += value
        self._counted = counts, total  # at once: whoever collects sees all of it or nothing

    def collect(self) -> Iterator[Metric]:
        """What was counted so far."""
        counts, total = self._counted
        ends = [*map(str, self._ends), "+Inf"]
        buckets = list(zip(ends, accumulate(counts), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)


class RequestCounter:
    """An ASGI application around another one that counts its HTTP requests by route."""

    def __init__(self, application: Application, registry: CollectorRegistry) -> None:
        self._application = application
        self._requests = Counter(
            "flotilla_http_requests",
            "Requests by method, route and status; route `none` where none fits",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "flotilla_http_answer_seconds",
            "From a request to the beginning of its answer",
            ["route"],
            buckets=_ANSWER_S,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when its answer begins."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._application(scope, receive, counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # the router notes in the scope what it has found: a pattern, or for a mount only its handler
        handler = scope.get("route_handler")
        route = scope.get("path_template") or (min(handler.paths) if handler is not None else _NOWHERE)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
