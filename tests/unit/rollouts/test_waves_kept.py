"""Rollouts in waves in the database: each step announced once, kept over a restart, and read device by device."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, update

from controller.database import writing
from controller.fleet.incoming import Incoming
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts import evaluating
from controller.rollouts.announcing import AnnouncementStore
from controller.rollouts.observing import Observed
from controller.rollouts.plan import Plan, RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import Evaluation, RolloutStore
from controller.rollouts.tables import rollouts
from controller.rollouts.views import Rollout, WaveState
from controller.rollouts.waves import RolloutPlan, Wave
from controller.web.fleet_reading import rollout_lines
from schemas.codec import decode
from schemas.errors import OperatorError
from schemas.messages import Announcement, Phase, ReleaseState, Targets, Window
from schemas.targeting import is_meant
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in, succeeded_in

NAMED = ("pi-1", "pi-2", "pi-3")
TWO = RolloutPlan(waves=[Wave(devices=1, max_failures=0, soak="10m"), Wave(upto=100, approval=True)])


def take_in(engine: Engine, *batch: Incoming, at: datetime = NOW) -> None:
    IntakeStore(engine).take_in(batch, at)


def fleet(engine: Engine, number: int) -> list[str]:
    """Devices that are online."""
    names = [f"pi-{one}" for one in range(1, number + 1)]
    take_in(engine, *map(presence_in, names), *map(reported_in, names))
    return names


def create(engine: Engine, plan: RolloutPlan | None = TWO, **more: Any) -> Rollout:
    values = {"package": "tacho", "version": "2.0.0", "channel": "stable", "repository": ["http://127.0.0.1:1/repo"]}
    return RolloutStore(engine).create(**(values | {"now": NOW, "plan": plan} | more))


def evaluate(engine: Engine, rollout: Rollout, at: datetime = NOW) -> Evaluation:
    found = RolloutStore(engine).evaluate(rollout.id, at)
    assert found is not None
    return found


def announced(engine: Engine) -> Announcement:
    (topic,) = AnnouncementStore(engine).topics(changed_only=False)
    assert topic.payload is not None
    return decode(topic.payload, Announcement)


def chosen(engine: Engine) -> str:
    (device,) = announced(engine).targets.devices
    return device


def test_a_wave_that_lets_devices_begin_one_after_the_other_says_how_many_are_to_come(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, RolloutPlan(waves=[Wave(upto=100, concurrency=1)]))
    assert rollout.verdicts == {Verdict.PENDING: 1, Verdict.WAITING: 2}
    assert rollout.because == "waits for 1 pending, 2 whose turn has not come; 0 succeeded"


def test_the_first_announcement_means_the_canary_alone(engine: Engine) -> None:
    fleet(engine, 5)
    rollout = create(engine)
    message = announced(engine)
    assert (message.revision, message.state, message.targets.upto) == (1, ReleaseState.ACTIVE, 0)
    assert len(message.targets.devices) == 1
    assert rollout.verdicts == {Verdict.PENDING: 1, Verdict.WAITING: 4}
    assert [wave.state for wave in rollout.waves] == [WaveState.RUNNING, WaveState.WAITING]
    assert (rollout.wave, rollout.waves[0].started_at, rollout.waves[0].share) == (1, NOW, "1 device")
    assert rollout.because == "wave 1 of 2 (1 device): waits for 1 pending; 0 succeeded"
    by_device = {one.device: (one.wave, one.verdict) for one in RolloutReader(engine).devices(rollout.id)}
    assert by_device[chosen(engine)] == (1, Verdict.PENDING)


def test_from_twenty_devices_on_a_release_without_a_plan_is_tried_on_one(engine: Engine) -> None:
    fleet(engine, 19)
    assert create(engine, plan=None).plan.name == "all-at-once"
    take_in(engine, reported_in("pi-20"))
    assert create(engine, plan=None).plan.name == "canary"
    named = create(engine, plan=None, targets=Targets(upto=0, devices=["pi-1", "pi-2"]))
    assert named.plan.name == "all-at-once"


def test_it_goes_on_after_proof_and_a_persons_word_and_a_restart_changes_nothing(engine: Engine) -> None:
    names = fleet(engine, 5)
    rollout = create(engine)
    canary = chosen(engine)
    take_in(engine, *succeeded_in(canary, rollout=rollout.id))
    found = evaluate(engine, rollout)
    assert (found.announced, found.view.waves[0].state) == (False, WaveState.SOAKING)
    with pytest.raises(OperatorError, match="does not wait for anybody to say go: wave 1 of 2"):
        RolloutStore(engine).approve(rollout.id, NOW)
    assert [line.awaits_approval for line in rollout_lines(engine)] == [False]
    # every look is by a new store, as after a restart
    soaked = NOW + timedelta(minutes=10, seconds=1)
    store = RolloutStore(engine)
    assert evaluate(engine, rollout, soaked).view.waves[0].state is WaveState.SOAKING
    assert store.evaluate(rollout.id, soaked) is not None
    assert store.asking() == {rollout.id: {canary}}
    take_in(engine, reported_in(canary, 1, packages={"tacho": installed("2.0.0")}), at=soaked)
    proven = evaluate(engine, rollout, soaked)
    assert [wave.state for wave in proven.view.waves] == [WaveState.PROVEN, WaveState.AWAITING_APPROVAL]
    assert (proven.announced, proven.view.waves[0].proven_at) == (False, soaked)
    assert f"flotilla approve {rollout.id}" in proven.view.because
    assert evaluate(engine, rollout, soaked).view == proven.view
    assert [line.awaits_approval for line in rollout_lines(engine)] == [True]

    going = RolloutStore(engine).approve(rollout.id, soaked)
    assert (going.wave, going.revision, going.waves[1].approved_at) == (2, 2, soaked)
    assert [line.awaits_approval for line in rollout_lines(engine)] == [False]
    assert announced(engine).targets.upto == 10_000
    for device in names:
        if device != canary:
            take_in(engine, *succeeded_in(device, rollout=rollout.id), at=soaked)
    done = evaluate(engine, rollout, soaked)
    assert (done.state, done.view.revision) == (RolloutState.COMPLETE, 3)
    assert RolloutReader(engine).rollout(rollout.id) == done.view


def test_a_canary_that_fails_halts_it_in_the_next_revision_and_an_operator_may_go_on(engine: Engine) -> None:
    fleet(engine, 5)
    rollout = create(engine)
    take_in(engine, event_in(chosen(engine), 1, Phase.ROLLED_BACK, rollout=rollout.id))
    found = evaluate(engine, rollout)
    assert (found.state, found.announced) == (RolloutState.HALTED, True)
    message = announced(engine)
    assert (message.state, message.revision, len(message.targets.devices)) == (ReleaseState.HALTED, 2, 1)
    assert found.view.waves[0].state is WaveState.FAILED
    assert found.view.because == "wave 1 of 2 (1 device): 1 rolled back of 1 with a result; 0 may fail"
    with pytest.raises(OperatorError, match="is halted; resume it first"):
        RolloutStore(engine).approve(rollout.id, NOW)
    going = RolloutStore(engine).set_state(rollout.id, RolloutState.ACTIVE, NOW)
    assert (going.state, going.waves[1].state) == (RolloutState.ACTIVE, WaveState.AWAITING_APPROVAL)
    assert evaluate(engine, rollout).state is RolloutState.ACTIVE


def test_a_named_device_that_was_never_heard_of_is_let_in_with_its_wave(engine: Engine) -> None:
    fleet(engine, 2)
    create(engine, plan=RolloutPlan(waves=[Wave(devices=["pi-1", "pi-new"]), Wave(upto=100)]))
    assert announced(engine).targets.devices == ["pi-1", "pi-new"]


def test_who_is_pinned_or_on_hold_is_not_waited_for(engine: Engine) -> None:
    fleet(engine, 3)
    orders = OrderStore(engine)
    orders.set_desired("pi-2", pins={"tacho": "1.0.0"})
    orders.set_desired("pi-3", hold=True)
    rollout = create(engine, plan=None)
    assert rollout.verdicts == {Verdict.PENDING: 1, Verdict.HELD: 2}
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.COMPLETE
    orders.set_desired("pi-3", hold=False)
    assert evaluate(engine, rollout).view.verdicts == {Verdict.SUCCEEDED: 1, Verdict.HELD: 1, Verdict.PENDING: 1}


def test_what_a_failing_wave_does_is_the_plans_to_say(engine: Engine) -> None:
    fleet(engine, 3)
    for name, state in (("pause", RolloutState.PAUSED), ("revert", RolloutState.REVERTED)):
        wanted = RolloutPlan(waves=[Wave(devices=1, max_failures=0), Wave(upto=100)], on_failure=name)  # type: ignore[arg-type]  # an enum by its value
        rollout = create(engine, plan=RolloutPlan(waves=wanted.waves, on_failure=wanted.on_failure))
        take_in(engine, event_in(chosen(engine), 1, Phase.FAILED, rollout=rollout.id, update=rollout.id))
        assert evaluate(engine, rollout).state is state
        assert announced(engine).state.value == state.value


def test_a_success_that_goes_back_later_is_none_any_more(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.SUCCEEDED: 1}
    take_in(engine, reported_in("pi-1", 1, packages={"tacho": installed("1.0.0")}))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.LEFT: 1}
    take_in(engine, event_in("pi-1", 2, Phase.ROLLED_BACK, rollout=rollout.id))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.ROLLED_BACK: 1}


def test_a_device_that_moved_to_another_channel_has_not_failed_where_it_was(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100, max_failures=0)]))
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.SUCCEEDED: 1, Verdict.PENDING: 1}
    take_in(engine, reported_in("pi-1", 1, channel="beta", packages={"tacho": installed("3.0.0")}))
    after = evaluate(engine, rollout)
    assert (after.state, after.view.verdicts) == (RolloutState.ACTIVE, {Verdict.HELD: 1, Verdict.PENDING: 1})
    take_in(engine, *succeeded_in("pi-2", 1, rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.COMPLETE


def test_a_word_without_a_report_is_no_proof(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.SUCCEEDED, rollout=rollout.id))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.SOAKING: 1}
    store = RolloutStore(engine)
    store.evaluate(rollout.id, NOW + timedelta(seconds=20))
    assert store.asking() == {rollout.id: {"pi-1"}}
    assert OrderStore(engine).ask_to_report(["pi-1", "nobody"], expires_in=timedelta(minutes=1), now=NOW) == 1
    (asked,) = OrderStore(engine).pending(NOW)
    assert (asked.device, asked.verb.value, asked.args) == ("pi-1", "report", {})


def test_a_device_that_is_asleep_as_usual_holds_nothing_up(engine: Engine) -> None:
    for week in (3, 2):
        take_in(engine, reported_in("pi-2"), at=NOW - timedelta(weeks=week, hours=6))
    take_in(engine, reported_in("pi-2"), presence_in("pi-2", online=False), at=NOW - timedelta(days=1))
    take_in(engine, presence_in("pi-1"), reported_in("pi-1"))
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100)]))
    assert rollout.verdicts == {Verdict.ASLEEP: 1, Verdict.PENDING: 1}
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.COMPLETE
    take_in(engine, presence_in("pi-2", session=2))
    back = evaluate(engine, rollout)
    assert (back.state, back.view.verdicts[Verdict.PENDING]) == (RolloutState.ACTIVE, 1)


def test_a_soak_that_began_while_the_clock_was_wrong_begins_again(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100, soak="10m")]))
    ahead = NOW + timedelta(days=90)
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id), at=ahead)
    store = RolloutStore(engine)
    store.evaluate(rollout.id, NOW)
    assert store.asking() == {rollout.id: {"pi-1"}}
    for minutes, verdict in ((1, Verdict.SOAKING), (10, Verdict.SOAKING), (12, Verdict.SUCCEEDED)):
        at = NOW + timedelta(minutes=minutes)
        take_in(engine, reported_in("pi-1", 1, packages={"tacho": installed("2.0.0")}), at=at)
        assert evaluate(engine, rollout, at).view.verdicts == {verdict: 1}


def test_times_are_the_controllers_whatever_a_device_says(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100, soak="10m")]))
    long_ago = NOW - timedelta(days=4000)
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id, at=long_ago))
    assert evaluate(engine, rollout).view.verdicts == {Verdict.SOAKING: 1}


def test_a_rollout_from_before_there_were_plans_goes_on_as_it_was(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=None)
    with writing(engine) as connection:
        connection.execute(update(rollouts).values(base=None, plan=None, progress=None, stopped=None))
    before = announced(engine)
    view = RolloutReader(engine).rollout(rollout.id)
    assert (view.plan.name, view.wave, view.targets) == ("all-at-once", 1, Targets())
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.ACTIVE
    assert announced(engine) == before
    take_in(engine, *succeeded_in("pi-2", rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.COMPLETE


def test_when_devices_may_start_by_the_plan_is_announced_to_them(engine: Engine) -> None:
    window = Window(start="22:00", end="05:00", days=[5, 6])
    create(engine, plan=RolloutPlan(waves=[Wave(upto=100)], window=window, not_before=NOW, jitter="1h30m"))
    policy = announced(engine).policy
    assert (policy.window, policy.not_before, policy.jitter_s) == (window, NOW, 5400)


def test_what_could_not_be_announced_later_is_refused_now(engine: Engine) -> None:
    with pytest.raises(OperatorError, match="can list 3000"):
        create(
            engine,
            plan=RolloutPlan(waves=[Wave(devices=[f"a{n}" for n in range(2000)]), Wave(upto=100)]),
            targets=Targets(upto=0, devices=[f"b{n}" for n in range(2000)]),
        )
    assert RolloutReader(engine).rollouts() == []


def test_a_look_at_what_changed_reads_nothing_else(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet(engine, 50)
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100, soak="10m")]))
    store = RolloutStore(engine)
    store.evaluate(rollout.id, NOW)
    read: list[int] = []
    observe = evaluating.observe

    def counting(connection: Connection, plan: Plan, *, only: Collection[str] | None = None, **more: Any) -> Observed:
        found = observe(connection, plan, only=only, **more)
        read.append(len(found.observations))
        return found

    monkeypatch.setattr(evaluating, "observe", counting)
    take_in(engine, *succeeded_in("pi-7", rollout=rollout.id))
    changed = store.evaluate(rollout.id, NOW, changed=dict.fromkeys(["pi-7", "stranger"]))
    assert changed is not None
    assert (changed.verdicts, read) == (1, [1])
    assert changed.view == RolloutReader(engine).rollout(rollout.id)
    # nobody is read when nothing changed, and one is when its time has come
    store.evaluate(rollout.id, NOW, changed={})
    assert read == [1]
    assert store.next_due() == NOW + timedelta(minutes=10, microseconds=1)
    soaked = NOW + timedelta(minutes=11)
    assert store.to_look_at(set(), soaked) == {rollout.id: set()}
    store.evaluate(rollout.id, soaked, changed={})
    assert read == [1, 1]
    assert store.asking() == {rollout.id: {"pi-7"}}
    assert store.to_look_at({"pi-7", "pi-8"}, soaked) == {rollout.id: {"pi-7", "pi-8"}}
    # an operator's word makes everything new
    RolloutStore(engine).set_state(rollout.id, RolloutState.PAUSED, soaked)
    read.clear()
    paused = store.evaluate(rollout.id, soaked, changed={"pi-8": None})
    assert paused is not None
    assert read == [50]
    assert paused.view == RolloutReader(engine).rollout(rollout.id)


@pytest.mark.parametrize("plan", [TWO, RolloutPlan(waves=[Wave(devices=1)])])
def test_a_canary_that_waited_for_somebody_begins_as_soon_as_a_device_is_there(
    engine: Engine, plan: RolloutPlan
) -> None:
    take_in(engine, *(one for name in ("pi-1", "pi-2") for one in (presence_in(name, online=False), reported_in(name))))
    rollout = create(engine, plan=plan)
    store = RolloutStore(engine)
    store.evaluate(rollout.id, NOW)
    assert announced(engine).targets.devices == []
    take_in(engine, presence_in("pi-2", session=2))
    assert store.to_look_at({"pi-2"}, NOW) == {rollout.id: {"pi-2"}}
    store.evaluate(rollout.id, NOW, changed={"pi-2": None})
    assert chosen(engine) == "pi-2"


def test_what_a_failed_look_knew_is_forgotten(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet(engine, 3)
    rollout = create(engine, plan=None)
    store = RolloutStore(engine)
    store.evaluate(rollout.id, NOW)
    take_in(engine, *succeeded_in("pi-1", rollout=rollout.id))

    def fail(*_: object) -> None:
        raise OperatorError("disk.full", "no space")

    with monkeypatch.context() as broken, pytest.raises(OperatorError):
        broken.setattr(evaluating, "_told", fail)
        store.evaluate(rollout.id, NOW, changed={"pi-1": None})
    assert RolloutReader(engine).rollout(rollout.id).verdicts == {Verdict.PENDING: 3}
    assert store.unseen() == [rollout.id]
    found = store.evaluate(rollout.id, NOW, changed={})
    assert found is not None
    assert found.view.verdicts == {Verdict.PENDING: 2, Verdict.SUCCEEDED: 1}


def test_one_at_a_time_goes_on_past_who_is_away_and_lets_it_in_when_it_is_back(engine: Engine) -> None:
    take_in(engine, *(one for name in NAMED for one in (presence_in(name, online=name == "pi-3"), reported_in(name))))
    rollout = create(engine, plan=RolloutPlan(waves=[Wave(upto=100, concurrency=1)]))
    store = RolloutStore(engine)

    def let_in() -> list[str]:
        targets = announced(engine).targets
        return [one for one in NAMED if is_meant(targets, rollout=rollout.id, device=one, tags={}, facts={})]

    store.evaluate(rollout.id, NOW)
    assert let_in() == ["pi-3"]
    take_in(engine, *succeeded_in("pi-3", 1, rollout=rollout.id))
    store.evaluate(rollout.id, NOW, changed={"pi-3": None})
    assert let_in() == ["pi-3"]
    take_in(engine, presence_in("pi-2", session=2))
    assert store.to_look_at({"pi-2"}, NOW) == {rollout.id: {"pi-2"}}
    store.evaluate(rollout.id, NOW, changed={"pi-2": None})
    assert let_in() == ["pi-2", "pi-3"]
