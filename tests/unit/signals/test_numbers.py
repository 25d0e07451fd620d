"""What a scrape reads from the database."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.store import RolloutStore
from controller.signals import numbers
from controller.signals.numbers import read_numbers
from schemas.messages import Verb
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in


def test_an_empty_database_has_nothing_of_everything(engine: Engine) -> None:
    found = read_numbers(engine, NOW)
    assert (found.devices, found.online, found.incomplete, found.missing) == (0, 0, 0, 0)
    assert set(found.rollouts.values()) == {0}
    assert found.unpublished == {"announcements": 0, "desired": 0, "commands": 0, "notifications": 0}


def test_events_that_devices_have_and_the_controller_has_not_are_counted(engine: Engine) -> None:
    IntakeStore(engine).take_in([event_in("pi-1", 4), reported_in("pi-1", 6), event_in("pi-2", 1)], NOW)
    found = read_numbers(engine, NOW)
    assert (found.incomplete, found.missing) == (1, 5)


def test_what_the_broker_has_not_taken_is_counted_until_it_has(engine: Engine) -> None:
    IntakeStore(engine).take_in([presence_in("pi-1"), reported_in("pi-1")], NOW)
    orders, announcements = OrderStore(engine), AnnouncementStore(engine)
    RolloutStore(engine).create(package="tacho", version="1.0.0", channel="stable", repository=["http://x"], now=NOW)
    orders.set_desired("pi-1", hold=True, now=NOW)
    command = orders.send_command("pi-1", Verb.REPORT, now=NOW)
    waiting = read_numbers(engine, NOW).unpublished
    assert waiting == {"announcements": 1, "desired": 1, "commands": 1, "notifications": 0}
    assert read_numbers(engine, NOW + timedelta(hours=2)).unpublished["commands"] == 0, "it has expired"
    for topic in announcements.topics(changed_only=True):
        announcements.mark_published([topic])
    orders.mark_published(orders.desired_rows(changed_only=True))
    orders.mark_sent([command.id], NOW)
    assert set(read_numbers(engine, NOW).unpublished.values()) == {0}


def test_however_many_versions_there_are_the_series_are_bounded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "MAX_VERSIONS", 2)
    reports = [
        reported_in(f"pi-{number}", packages={"tacho": installed(version)})
        for number, version in enumerate(["1.0.0", "2.0.0", "2.0.0", "3.0.0", "3.0.0", "3.0.0"])
    ]
    IntakeStore(engine).take_in(reports, NOW)
    assert read_numbers(engine, NOW).installed == {("tacho", "3.0.0"): 3, ("tacho", "2.0.0"): 2}


def test_only_announced_rollouts_have_series(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MAX_ROLLOUTS", 1)
    store = RolloutStore(engine)
    for number, package in enumerate(["tacho", "tacho", "needle"]):
        store.create(
            package=package,
            version=f"{number + 1}.0.0",
            channel="stable",
            repository=["http://x"],
            now=NOW + timedelta(seconds=number),
        )
    found = read_numbers(engine, NOW)
    assert [(one.package, one.version) for one in found.announced] == [("needle", "3.0.0")]
    assert (found.rollouts["active"], found.rollouts["superseded"]) == (2, 1)
