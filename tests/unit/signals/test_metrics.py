"""How a scrape is rendered where something is away, and how often the database is asked."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controller.fleet.service import FleetStatus
from controller.signals import metrics
from controller.signals.metrics import Metrics, new_registry
from controller.signals.numbers import FleetNumbers
from controller.signals.upkeep import Upkeep
from schemas.errors import OperatorError

STATUS = FleetStatus(connected=True, error=None, incomplete_devices=0, refused={"message.json": 3}, intake_delay_s=1.5)
NUMBERS = FleetNumbers(
    devices=3,
    online=2,
    channels={},
    installed={},
    rollouts={},
    announced=(),
    unpublished={},
    incomplete=0,
    missing=0,
)


def rendered(numbers: Callable[[], FleetNumbers], status: FleetStatus = STATUS) -> Metrics:
    upkeep = Upkeep(None)  # type: ignore[arg-type]  # never looks in these tests
    upkeep.expiries = {"timestamp": datetime(2026, 1, 2, tzinfo=UTC), "root": datetime(2030, 1, 1, tzinfo=UTC)}
    return Metrics(
        new_registry(),
        numbers=numbers,
        status=lambda: status,
        watchers=lambda: 0,
        upkeep=upkeep,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_many_scrapers_cost_one_look_at_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def numbers() -> FleetNumbers:
        looks.append(1)
        return replace(NUMBERS, devices=len(looks))

    made = rendered(numbers)
    assert [b"flotilla_devices 1.0" in made.render() for _ in range(5)] == [True] * 5
    monkeypatch.setattr(metrics, "CACHE_S", -1.0)
    assert b"flotilla_devices 2.0" in made.render()


def test_without_its_database_a_controller_still_tells_the_rest() -> None:
    def away() -> FleetNumbers:
        raise OperatorError("data.bad", "the disk is gone")

    text = rendered(away).render().decode().splitlines()
    assert "flotilla_database_up 0.0" in text
    assert "flotilla_broker_connected 1.0" in text
    assert 'flotilla_refused_messages_total{code="message.json"} 3.0' in text
    assert not any(line.startswith("flotilla_devices") for line in text)


def test_the_first_signature_to_end_is_the_one_that_counts() -> None:
    assert b"flotilla_metadata_seconds_left 86400.0" in rendered(lambda: NUMBERS).render()


def test_labels_cannot_break_the_format() -> None:
    numbers = replace(NUMBERS, installed={("tacho", '1.0.0"\n\\x'): 1})
    text = rendered(lambda: numbers).render().decode()
    assert 'flotilla_package_devices{package="tacho",version="1.0.0\\"\\n\\\\x"} 1.0' in text
