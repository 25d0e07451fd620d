"""A device whose channel is another one has no say in a rollout: its words are kept, and count for nothing there."""

import pytest
from sqlalchemy import Engine

from controller.fleet.incoming import Incoming
from controller.fleet.intake_store import IntakeStore, Outcome
from controller.fleet.orders import OrderStore
from controller.fleet.registry import DeviceRegistry
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.messages import ErrorReport, Phase
from tests.unit.fleet.builders import NOW, event_in, presence_in, reported_in

FAILED = {"error": ErrorReport(code="health.http", message="no answer", log_tail="")}


def take_in(engine: Engine, *batch: Incoming) -> Outcome:
    return IntakeStore(engine).take_in(batch, NOW)


class World:
    """Two devices on channel `stable`, one on `other`, and a rollout on `stable` that no failure may stop but one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = RolloutStore(engine)
        for device, channel in (("pi-1", "stable"), ("pi-2", "stable"), ("evil", "other")):
            take_in(engine, presence_in(device), reported_in(device, channel=channel))
        plan = RolloutPlan(waves=[Wave(upto=100, max_failures=0)])
        made = self.store.create(
            package="tacho", version="2.0.0", channel="stable", repository=["http://r"], plan=plan, now=NOW
        )
        self.rollout = made.id
        self.store.evaluate(self.rollout, NOW)

    def fails(self, device: str, *also: Incoming) -> Outcome:
        words = (event_in(device, seq, phase, rollout=self.rollout) for seq, phase in enumerate(_BEFORE, 1))
        last = event_in(device, len(_BEFORE) + 1, Phase.FAILED, rollout=self.rollout, **FAILED)
        return take_in(self.engine, *words, last, *also)

    def seen(self) -> Rollout:
        self.store.evaluate(self.rollout, NOW)
        return RolloutReader(self.engine).rollout(self.rollout)


_BEFORE = (Phase.ACCEPTED, Phase.FETCHING)


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


def test_a_stranger_stops_no_rollout_and_what_it_said_is_kept(world: World, engine: Engine) -> None:
    outcome = world.fails("evil")
    assert outcome.rollouts == {}
    seen = world.seen()
    assert (seen.state, seen.verdicts) == (RolloutState.ACTIVE, {Verdict.PENDING: 2})
    assert [one.device for one in RolloutReader(engine).devices(world.rollout)] == ["pi-1", "pi-2"]
    assert len(DeviceRegistry(engine).device_events("evil")) == 3
    world.fails("pi-1")
    assert world.seen().state is RolloutState.HALTED


def test_who_moved_to_another_channel_since_still_counts(world: World, engine: Engine) -> None:
    take_in(engine, reported_in("pi-1", channel="other"))
    world.fails("pi-1")
    assert world.seen().verdicts[Verdict.FAILED] == 1


def test_who_joins_with_its_first_word_counts(world: World, engine: Engine) -> None:
    """By the report that comes with it, or by what its operator told it: the report is on its way then."""
    world.fails("evil", reported_in("evil", 3, channel="stable"))
    assert world.seen().verdicts[Verdict.FAILED] == 1
    take_in(engine, presence_in("pi-9"), reported_in("pi-9", channel="other"))
    OrderStore(engine).set_desired("pi-9", channel="stable", now=NOW)
    world.fails("pi-9")
    assert world.seen().verdicts[Verdict.FAILED] == 2


def test_what_a_device_said_before_it_told_of_its_new_channel_counts_from_then_on(world: World, engine: Engine) -> None:
    """A device tells of its update first, and of what is true, its channel too, once that is told."""
    world.fails("evil")
    assert Verdict.FAILED not in world.seen().verdicts
    outcome = take_in(engine, reported_in("evil", 3, channel="stable"))
    assert outcome.rollouts == {world.rollout: {"evil": None}}
    assert world.seen().verdicts[Verdict.FAILED] == 1
    # and once only
    take_in(engine, reported_in("evil", 3, channel="other"))
    assert take_in(engine, reported_in("evil", 3, channel="stable")).rollouts == {}


def test_who_has_reported_nothing_yet_counts(world: World) -> None:
    world.fails("pi-7")
    assert world.seen().verdicts[Verdict.FAILED] == 1
