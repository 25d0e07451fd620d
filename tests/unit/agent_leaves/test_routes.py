"""The choice of a route, and the counting of bytes that it is chosen by."""

from datetime import UTC, datetime
from typing import Any

import pytest

from device_agent.budget import Spending
from device_agent.meter import Meter
from device_agent.updates import Update, UpdateRequest
from schemas.errors import DeviceError
from schemas.routes import REQUEST_BYTES, Kind, Offer, Route, choose, objects_cost

START = datetime(2026, 3, 1, tzinfo=UTC)
FROM = Offer(path="from", size=1000, start="a" * 64, version="1.0.0")
FULL = Offer(path="full", size=5000)


@pytest.mark.parametrize(
    ("objects", "offers", "kind", "cost"),
    [
        (0, [FROM, FULL], Kind.OBJECTS, 0),
        (100_000, [], Kind.OBJECTS, 100_000),
        (100_000, [FROM, FULL], Kind.BUNDLE, 1000 + REQUEST_BYTES),
        (100_000, [FULL, FROM], Kind.BUNDLE, 1000 + REQUEST_BYTES),
        (100_000, [FULL], Kind.FULL, 5000 + REQUEST_BYTES),
        (5000 + REQUEST_BYTES, [FULL], Kind.OBJECTS, 5000 + REQUEST_BYTES),
        (5001 + REQUEST_BYTES, [FULL], Kind.FULL, 5000 + REQUEST_BYTES),
        (1200, [FROM], Kind.OBJECTS, 1200),
    ],
)
def test_the_cheapest_route_is_taken_and_objects_where_it_is_all_the_same(
    objects: int, offers: list[Offer], kind: Kind, cost: int
) -> None:
    route = choose(objects, offers)
    assert (route.kind, route.cost) == (kind, cost)
    assert (route.offer is None) == (kind is Kind.OBJECTS)


def test_a_smaller_full_bundle_goes_before_one_from_a_release() -> None:
    assert choose(10**6, [FROM, Offer(path="full", size=10)]) == Route(
        kind=Kind.FULL, cost=10 + REQUEST_BYTES, offer=Offer(path="full", size=10)
    )


def test_what_objects_cost() -> None:
    assert objects_cost([]) == 0
    assert objects_cost([1000, 2000]) == 3000 + 2 * REQUEST_BYTES
    assert objects_cost([1000, 2000], ratio=0.5) == 1500 + 2 * REQUEST_BYTES
    assert objects_cost([1000, 2000], ratio=0.5, exact=77) == 77
    # nothing gets larger by much when it is packed, whatever a repository says
    assert objects_cost([1000], ratio=9.0) == 1000 + REQUEST_BYTES


def spending(*, max_bytes: int | None = 1000, any_size: bool = False, before: int = 0, free: bool = False) -> Spending:
    request = UpdateRequest(package="tacho", version="1.0.0", any_size=any_size)
    update = Update(id="1", request=request, phase=None, created_at=START, changed_at=START, fetched_bytes=before)
    return Spending(update, max_bytes, free=free)


def test_bytes_of_all_attempts_count() -> None:
    spent = spending(before=600)
    assert spent.left == 400
    spent.check(400)
    spent.add(5000, 300)
    assert (spent.left, spent.total, spent.wire) == (100, 900, 300)
    with pytest.raises(DeviceError) as caught:
        spent.check(101)
    assert caught.value.code == "fetch.metered"
    assert "1001 bytes" in caught.value.message and "--any-size" in caught.value.message
    spent.add(0, 5000)
    assert spent.left == 0


@pytest.mark.parametrize("options", [{"max_bytes": None}, {"any_size": True}, {"free": True}])
def test_there_is_no_limit_where_none_is_set_or_it_is_lifted_or_nothing_is_paid(options: dict[str, Any]) -> None:
    spent = spending(**options)
    spent.add(0, 10**9)
    spent.check(10**9)
    assert spent.left is None and not spent.is_limited


def test_a_meter_ends_a_fetch_that_brings_too_much() -> None:
    told: list[int] = []
    meter = Meter(100, told.append)
    meter.spend(60)
    assert meter.left == 40
    meter.check(40, "the manifest")
    with pytest.raises(DeviceError) as caught:
        meter.check(41, "the manifest")
    assert caught.value.code == "fetch.metered"
    with pytest.raises(DeviceError) as caught:
        meter.spend(41)
    assert caught.value.code == "fetch.limit"
    assert (meter.left, meter.spent, told) == (0, 101, [60, 41])
    free = Meter(None)
    free.spend(10**12)
    assert free.left > 10**12
