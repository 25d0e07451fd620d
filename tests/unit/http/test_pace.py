"""How fast a rollout goes, and when it would be done: in the API as on the page."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.database import utc_now
from controller.fleet.intake_store import IntakeStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import ErrorReport, Phase
from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import event_in, installed, presence_in, reported_in

BEGUN_S = 98
NAMES = ["pi-1", "pi-2", "pi-3", "pi-4"]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    with application(tmp_path) as made:
        add_release(made.repository, "tacho", "1.1.0", {"a": "a"})
        yield made


def begin(app: Application, now: datetime, *ends: Phase, then: Sequence[Wave] = ()) -> str:
    """A rollout to four devices that began a while ago; the first ones have ended so, ten seconds before now."""
    intake, rollouts = IntakeStore(app.engine), RolloutStore(app.engine)
    intake.take_in([one for name in NAMES for one in (presence_in(name), reported_in(name, at=now))], now)
    made = rollouts.create(
        package="tacho",
        version="1.1.0",
        channel="stable",
        repository=["http://r"],
        plan=RolloutPlan(waves=[Wave(upto=100, success=0)] if not then else [Wave(devices=NAMES[:2]), *then]),
        now=now - timedelta(seconds=BEGUN_S),
    )
    about: dict[str, Any] = {"rollout": made.id, "update": made.id, "version": "1.1.0"}
    at = now - timedelta(seconds=10)
    for name, phase in zip(NAMES, ends, strict=False):
        error = ErrorReport(code="health.http", message="answered 500") if phase is Phase.ROLLED_BACK else None
        intake.take_in([event_in(name, 1, phase, at=at, error=error, **about)], now)
        if phase is Phase.SUCCEEDED:
            runs = {"tacho": installed("1.1.0", rollout=made.id)}
            intake.take_in([reported_in(name, at=at + timedelta(seconds=1), packages=runs)], now)
    rollouts.evaluate(made.id, now)
    return made.id


def detail(app: Application, rollout: str) -> Any:
    return app.client.get(f"/api/v1/rollouts/{rollout}", headers=bearer(FILE_TOKEN)).json()


def test_a_rollouts_detail_says_how_fast_it_goes_and_when_it_would_be_done(app: Application) -> None:
    rollout = begin(app, utc_now(), Phase.SUCCEEDED, Phase.ROLLED_BACK)
    before = utc_now()
    found = detail(app, rollout)
    assert found["rollout"]["state"] == "active"
    assert found["pace"]["per_minute"] is not None
    # two devices in twenty or twenty-one stretches of five seconds, and two are left
    assert 2 * 60 / (22 * 5) < found["pace"]["per_minute"] < 2 * 60 / (19 * 5)
    left = datetime.fromisoformat(found["pace"]["ends_at"]) - before
    assert timedelta(seconds=90) < left < timedelta(seconds=120)
    page = app.client.get(f"/rollouts/{rollout}", headers={"Accept": "text/html", **bearer(FILE_TOKEN)}).text
    assert re.search(r"<dt>Pace</dt><dd>1\.[12]<", page)
    assert re.search(r"<dt>Estimate</dt><dd>1 min<", page)


@pytest.mark.parametrize("wait", [Wave(upto=100), Wave(upto=100, approval=True)])
def test_no_end_is_said_where_a_wave_waits_for_more_than_its_devices(app: Application, wait: Wave) -> None:
    found = detail(app, begin(app, utc_now(), Phase.SUCCEEDED, then=[wait]))["pace"]
    assert found["per_minute"] is not None
    assert found["ends_at"] is None


def test_no_end_is_said_where_devices_wait_for_their_time_of_day(app: Application) -> None:
    found = detail(app, begin(app, utc_now(), Phase.SUCCEEDED, Phase.DEFERRED))["pace"]
    assert found["per_minute"] is not None
    assert found["ends_at"] is None


def test_where_nobody_finished_or_nothing_goes_on_nothing_is_said_of_it(app: Application) -> None:
    nothing = {"per_minute": None, "ends_at": None}
    rollout = begin(app, utc_now())
    assert detail(app, rollout)["pace"] == nothing
    rollout = begin(app, utc_now(), Phase.SUCCEEDED)
    assert detail(app, rollout)["pace"] != nothing
    RolloutStore(app.engine).set_state(rollout, RolloutState.PAUSED)
    assert detail(app, rollout)["pace"] == nothing


def test_the_description_has_the_pace(app: Application) -> None:
    schemas = app.client.get("/api/docs/openapi.json").json()["components"]["schemas"]
    assert set(schemas["RolloutPace"]["properties"]) == {"per_minute", "ends_at"}
    assert "pace" in schemas["RolloutDetail"]["properties"]
