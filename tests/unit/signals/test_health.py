"""Ready or not, and why."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from controller.database import open_database, sqlite_url
from controller.fleet.incoming import Incoming, Reader
from controller.fleet.intake import Intake
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.service import FleetStatus
from controller.signals.health import BEHIND_S, MARGIN, Health, Readiness
from schemas.topics import Topics
from tests.support.links import until
from tests.unit.fleet.test_intake import message
from transport import Message

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WELL = FleetStatus(connected=True, error=None, incomplete_devices=0, refused={}, intake_delay_s=0.0)


def look(engine: Engine, status: FleetStatus = WELL, **expiries: timedelta) -> Readiness:
    ends = {role: NOW + left for role, left in expiries.items()}
    return Health(engine, status=lambda: status, expiries=lambda: ends, clock=lambda: NOW).readiness()


def unready(found: Readiness) -> dict[str, str]:
    assert not found.ready
    assert all(one.reason == "" for one in found.checks.values() if one.ok)
    return {name: one.reason for name, one in found.checks.items() if not one.ok}


def test_ready_when_every_part_is(engine: Engine) -> None:
    found = look(engine, timestamp=MARGIN, root=timedelta(days=3000))
    assert found.ready
    assert list(found.checks) == ["database", "broker", "intake", "metadata"]


def test_without_a_broker_it_is_not_ready_and_names_no_address(engine: Engine) -> None:
    away = replace(WELL, connected=False, error="secret.example:8883: connection refused")
    reasons = unready(look(engine, away))
    assert list(reasons) == ["broker"]
    assert "secret.example" not in reasons["broker"]


def test_an_intake_that_is_stuck_is_not_ready(engine: Engine) -> None:
    assert list(unready(look(engine, replace(WELL, intake_delay_s=BEHIND_S)))) == ["intake"]


def test_signatures_that_should_have_been_made_anew_are_named(engine: Engine) -> None:
    reasons = unready(look(engine, timestamp=MARGIN - timedelta(seconds=1), root=timedelta(days=3000)))
    assert reasons == {"metadata": "the signature of timestamp ends on 2026-03-03 11:59 UTC; the log says why"}


def test_without_its_database_it_is_not_ready_and_names_no_path(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path_factory.mktemp("secret") / "flotilla.db"
    engine = open_database(sqlite_url(path))
    engine.dispose()
    for file in path.parent.iterdir():
        file.unlink()
    path.mkdir()
    reasons = unready(look(engine))
    assert list(reasons) == ["database"]
    assert "secret" not in reasons["database"]
    assert str(path) in caplog.text


async def test_the_intake_knows_for_how_long_a_message_has_waited(engine: Engine) -> None:
    class Blocked(IntakeStore):
        """Commits when it is let go."""

        go = threading.Event()

        def take_in(self, batch: Sequence[Incoming], now: datetime) -> Outcome:
            assert self.go.wait(30)
            return super().take_in(batch, now)

    class OneBatch:
        """A link that has one message, which came in a while ago, and then is silent."""

        def __init__(self) -> None:
            self.acknowledged = 0
            self.messages = [message("pi-1", 1)._replace(arrived=1.0)]

        async def batch(self, _: int) -> list[object]:
            if self.messages:
                return [self.messages.pop()]
            await asyncio.Event().wait()
            return []

        def waiting(self, _: int) -> list[Message]:
            return []

        async def acknowledge_all(self, messages: list[Message]) -> None:
            self.acknowledged += len(messages)

    store, link, batches = Blocked(engine), OneBatch(), []
    intake = Intake(store, Reader(Topics()), lambda _: None, on_batch=lambda *done: batches.append(done))
    assert intake.delay_s() == 0
    running = asyncio.create_task(intake.run(link))  # type: ignore[arg-type]  # all that it calls is there
    try:
        await until(lambda: intake.delay_s() > 1)
        store.go.set()
        await until(lambda: link.acknowledged == 1)
        assert intake.delay_s() == 0
        ((messages, waited_s),) = batches
        assert (messages, waited_s > 1) == (1, True)
    finally:
        store.go.set()
        running.cancel()
