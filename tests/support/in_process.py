"""The controller's HTTP application without a process, a port or a broker: for what is asked many times.

with application(tmp_path, token="…") as app:
    app.people.add("anna", Role.OPERATOR, PASSWORD)
    app.call("GET", "/api/v1/devices", headers=bearer(...)).status_code
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import Engine

from controller.accounts import passwords
from controller.accounts.answers import Answers
from controller.accounts.audit import AuditLog
from controller.accounts.people import People
from controller.accounts.roles import Role
from controller.accounts.tokens import Tokens
from controller.application import make_application
from controller.database import utc_now
from controller.fleet.service import FleetService
from controller.http.access import Access
from controller.http.api import Parts
from controller.http.guard import Gate
from controller.http.login import Accounts
from controller.http.releasing import Releasing
from controller.http.transfers import Spool
from controller.http.watchers import Watchers
from controller.preflight.gathering import Preflights
from controller.repository.bundle_maker import BundleMaker
from controller.repository.package_repository import PackageRepository
from controller.settings import ControllerSettings, HttpAddress
from controller.signals.health import Health
from controller.signals.metrics import Metrics, new_registry
from controller.signals.numbers import read_numbers
from controller.signals.upkeep import Upkeep
from schemas.topics import DEFAULT_ROOT, Topics
from tests.support.database import opened
from transport import LinkSettings

PASSWORD = "correct horse battery"
FILE_TOKEN = "the token of the data folder"
HOST = "fleet.example:8420"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Application:
    """The application and what lies below it."""

    litestar: Litestar
    client: TestClient[Litestar]
    engine: Engine
    people: People
    tokens: Tokens
    audit: AuditLog
    answers: Answers
    repository: PackageRepository

    def token(self, role: Role, name: str | None = None) -> dict[str, str]:
        """Headers of a machine with this role."""
        return bearer(self.tokens.add(name or f"machine-{role}", role).token)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def application(
    folder: Path, *, token: str | None = FILE_TOKEN, base: str = f"http://{HOST}", **watchers: Any
) -> Iterator[Application]:
    """As `run_controller` puts it together; with a token as where others can reach it, without as on loopback.

    `watchers` are the limits of `Watchers`.
    """
    with cheap_passwords(), _made(folder, token, base, watchers) as made:
        yield made


@contextmanager
def cheap_passwords() -> Iterator[None]:
    """Hashes that take no time; what they cost in earnest is tested once."""
    real = passwords._hasher
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", cheap)
        passwords._of_nobody.cache_clear()
        yield
    passwords._of_nobody.cache_clear()
    assert passwords._hasher is real


@contextmanager
def _made(folder: Path, token: str | None, base: str, limits: dict[str, Any]) -> Iterator[Application]:
    settings = ControllerSettings(data=folder, http=HttpAddress(host="127.0.0.1", port=8420), broker=None)
    folder.mkdir(parents=True, exist_ok=True)
    engine = opened(folder / "flotilla.db")
    repository = PackageRepository(folder / "repository", engine, keys=folder / "keys")
    spool = Spool(folder / "spool")
    spool.prepare()
    link = LinkSettings(url="mqtt://127.0.0.1:1", client_id="in-process")
    people, tokens, audit, answers = People(engine), Tokens(engine), AuditLog(engine), Answers(engine)
    fleet = FleetService(engine, link, Topics(DEFAULT_ROOT), version="1.0.0")
    upkeep = Upkeep(repository)
    accounts = Accounts(people, tokens, audit, has_file_token=token is not None)
    gate = Gate(people, tokens, token)
    made = make_application(
        Parts(
            engine=engine,
            repository=repository,
            fleet=fleet,
            settings=settings,
            spool=spool,
            bundle_maker=BundleMaker(
                repository.bundles, channels=repository.channels, last=0, reported=lambda _: [], workers=1
            ),
            preflights=Preflights(engine, repository),
            releasing=Releasing(repository, fleet, settings),
            broker_url=link.url,
        ),
        accounts=accounts,
        access=Access(gate, audit, answers, Watchers(gate, asyncio.Event(), **limits)),
        metrics=Metrics(
            new_registry(),
            numbers=lambda: read_numbers(engine, utc_now()),
            status=fleet.status,
            watchers=lambda: fleet.feed.watchers,
            upkeep=upkeep,
        ),
        health=Health(engine, status=fleet.status, expiries=lambda: upkeep.expiries),
    )
    with TestClient(made, base_url=base) as client:
        yield Application(
            litestar=made,
            client=client,
            engine=engine,
            people=people,
            tokens=tokens,
            audit=audit,
            answers=answers,
            repository=repository,
        )
    engine.dispose()
