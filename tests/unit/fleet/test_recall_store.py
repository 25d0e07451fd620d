"""A database that is put back: what the broker still holds of a rollout goes before what the database knows of it."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from controller.fleet.incoming import Incoming
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.fleet.recall_store import Announced, Recalled, RecallStore, Told
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.codec import decode
from schemas.messages import Announcement, Desired, Phase, ReleaseState
from tests.support.database import opened
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in, succeeded_in

NAMES = [f"pi-{number}" for number in range(1, 6)]
WAVES = [Wave(devices=["pi-1"], max_failures=0), Wave(devices=["pi-2", "pi-3"]), Wave(upto=100)]


class Site:
    """A controller's database, and how it was yesterday."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.today = opened(folder / "today.db")
        take_in(self.today, *map(presence_in, NAMES), *map(reported_in, NAMES))

    def back_up(self) -> Engine:
        """The database as it is, as a copy."""
        with sqlite3.connect(self._folder / "today.db") as database:
            database.execute("VACUUM INTO ?", (str(self._folder / "yesterday.db"),))
        return opened(self._folder / "yesterday.db")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.today.dispose()


def take_in(engine: Engine, *batch: Incoming) -> None:
    IntakeStore(engine).take_in(batch, NOW)


def release(engine: Engine, *waves: Wave) -> Rollout:
    plan = RolloutPlan(waves=list(waves or WAVES))
    return RolloutStore(engine).create(
        package="tacho", version="2.0.0", channel="stable", repository=["http://r"], plan=plan, now=NOW
    )


def look(engine: Engine, rollout: Rollout, at: datetime = NOW) -> Rollout:
    found = RolloutStore(engine).evaluate(rollout.id, at)
    assert found is not None
    return found.view


def announced(engine: Engine) -> Announcement:
    (topic,) = AnnouncementStore(engine).topics(changed_only=False)
    assert topic.payload is not None
    return decode(topic.payload, Announcement)


def published(engine: Engine) -> None:
    """The broker takes all that the database has to say."""
    store = AnnouncementStore(engine)
    for topic in store.topics(changed_only=True):
        store.mark_published([topic])


def hear(engine: Engine, other: Engine) -> Recalled:
    """Let a database hear what another one has announced last."""
    (topic,) = AnnouncementStore(other).topics(changed_only=False)
    assert topic.payload is not None
    return RecallStore(engine).learn([Announced(decode(topic.payload, Announcement), topic.payload.decode())], NOW)


def test_whoever_was_let_in_since_stays_in(site: Site) -> None:
    rollout = release(site.today)
    published(site.today)
    yesterday = site.back_up()
    take_in(site.today, *succeeded_in("pi-1", rollout=rollout.id))
    assert look(site.today, rollout).wave == 2
    heard = announced(site.today)
    assert hear(yesterday, site.today).rollouts == {rollout.id}
    again = announced(yesterday)
    assert again.targets == heard.targets
    assert (again.targets.devices, again.revision) == (["pi-1", "pi-2", "pi-3"], heard.revision + 1)
    # what the first wave has proven is asked for anew, and then it goes on where it was
    assert look(yesterday, rollout).because.startswith("wave 1 of 3")
    for device in ("pi-1", "pi-2", "pi-3"):
        assert look(yesterday, rollout).wave == 2
        take_in(yesterday, *succeeded_in(device, rollout=rollout.id))
    assert look(yesterday, rollout).wave == 3
    assert announced(yesterday).targets.upto == 10_000
    yesterday.dispose()


def test_what_it_was_stopped_for_yesterday_does_not_stop_what_goes_on_today(site: Site) -> None:
    rollout = release(site.today)
    take_in(site.today, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id))
    assert look(site.today, rollout).state is RolloutState.HALTED
    published(site.today)
    yesterday = site.back_up()
    RolloutStore(site.today).set_state(rollout.id, RolloutState.ACTIVE, NOW)
    hear(yesterday, site.today)
    after = look(yesterday, rollout)
    assert (after.state, after.wave) == (RolloutState.ACTIVE, 2)
    assert after.because == "wave 2 of 3 (2 devices): waits for 2 pending; 0 succeeded"
    assert announced(yesterday).state is ReleaseState.ACTIVE
    # and that was forgiven once: what fails from now on stops it
    take_in(yesterday, *(event_in(device, 1, Phase.FAILED, rollout=rollout.id) for device in ("pi-2", "pi-3")))
    stopped = look(yesterday, rollout)
    assert (stopped.state, stopped.because) == (
        RolloutState.HALTED,
        "wave 2 of 3 (2 devices): 0 of 2 devices succeeded, 100 % must; 2 failed",
    )
    yesterday.dispose()


def test_why_it_was_stopped_is_not_told_of_a_rollout_that_went_on_and_was_stopped_again(site: Site) -> None:
    rollout = release(site.today)
    take_in(site.today, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id))
    look(site.today, rollout)
    published(site.today)
    yesterday = site.back_up()
    store = RolloutStore(site.today)
    store.set_state(rollout.id, RolloutState.ACTIVE, NOW)
    store.set_state(rollout.id, RolloutState.HALTED, NOW)
    hear(yesterday, site.today)
    after = look(yesterday, rollout)
    assert (after.state, after.because) == (RolloutState.HALTED, "halted by an operator")
    yesterday.dispose()


def test_a_rollout_that_was_cancelled_yesterday_and_goes_on_today_asks_nobody_to_stop(site: Site) -> None:
    rollout = release(site.today)
    RolloutStore(site.today).cancel(rollout.id, now=NOW)
    published(site.today)
    yesterday = site.back_up()
    RolloutStore(site.today).set_state(rollout.id, RolloutState.ACTIVE, NOW)
    hear(yesterday, site.today)
    after = look(yesterday, rollout)
    assert (after.state, after.cancel_asked_at) == (RolloutState.ACTIVE, None)
    yesterday.dispose()


def test_an_operators_halt_that_the_broker_has_not_heard_of_goes_before_what_it_holds(site: Site) -> None:
    rollout = release(site.today)
    published(site.today)
    yesterday = site.back_up()
    take_in(site.today, *succeeded_in("pi-1", rollout=rollout.id))
    look(site.today, rollout)
    # the database is back, and the broker is not there yet
    RolloutStore(yesterday).set_state(rollout.id, RolloutState.HALTED, NOW + timedelta(minutes=1))
    hear(yesterday, site.today)
    assert look(yesterday, rollout).state is RolloutState.HALTED
    after = announced(yesterday)
    assert (after.state, after.targets) == (ReleaseState.HALTED, announced(site.today).targets)
    assert after.revision > announced(site.today).revision
    yesterday.dispose()


def test_a_rollout_that_the_database_does_not_know_is_taken_over(site: Site) -> None:
    before = release(site.today)
    published(site.today)
    yesterday = site.back_up()
    later = RolloutStore(site.today).create(
        package="tacho", version="2.1.0", channel="stable", repository=["http://r"], now=NOW + timedelta(hours=1)
    )
    heard = announced(site.today)
    assert hear(yesterday, site.today).rollouts == {before.id, later.id}
    assert announced(yesterday) == heard
    taken_over, old = look(yesterday, later), look(yesterday, before)
    assert (taken_over.version, taken_over.state) == ("2.1.0", RolloutState.ACTIVE)
    assert taken_over.verdicts == {Verdict.PENDING: 5}
    assert old.state is RolloutState.SUPERSEDED
    yesterday.dispose()


def test_what_a_device_was_told_since_stays_and_goes_on_from_there(site: Site) -> None:
    today = OrderStore(site.today)
    today.set_desired("pi-1", hold=True)
    yesterday = site.back_up()
    today.set_desired("pi-1", pins={"tacho": "1.0.0"})
    (row,) = today.desired_rows(changed_only=False)
    said = Told("pi-1", decode(row.payload, Desired), row.payload.decode())
    assert RecallStore(yesterday).learn([said], NOW).channels == {"stable"}
    again = OrderStore(yesterday)
    told = again.desired("pi-1")
    assert told is not None
    assert (told.rev, told.pins, told.hold) == (2, {"tacho": "1.0.0"}, None)
    assert again.set_desired("pi-1", hold=True).rev == 3
    yesterday.dispose()


def test_shares_that_began_since_are_begun(site: Site) -> None:
    rollout = release(site.today, Wave(devices=1), Wave(upto=40), Wave(upto=100, approval=True))
    (canary,) = announced(site.today).targets.devices
    published(site.today)
    yesterday = site.back_up()
    take_in(site.today, *succeeded_in(canary, rollout=rollout.id))
    look(site.today, rollout)
    hear(yesterday, site.today)
    assert announced(yesterday).targets == announced(site.today).targets
    after = look(yesterday, rollout)
    assert (after.wave, announced(yesterday).targets.upto) == (2, 4000)
    assert after.waves[0].verdicts == {Verdict.PENDING: 1}
    yesterday.dispose()
