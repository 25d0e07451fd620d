"""A look at what devices said comes to what a look at everything comes to, and reads only whom it has to judge."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event

from controller.fleet.intake_store import IntakeStore
from controller.rollouts import evaluating
from controller.rollouts.observing import Observed
from controller.rollouts.plan import UNDER_WAY, Plan, RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.runner import RolloutRunner
from controller.rollouts.standing import Words
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout
from controller.rollouts.waves import ALL_AT_ONCE, RolloutPlan, Wave
from schemas.messages import Phase
from tests.unit.fleet.builders import NOW, an_id, event_in, presence_in, reported_in

EXAMPLES = itertools.count()
ONE_OF_EACH_SITE = Wave(upto=100, concurrency=1, concurrency_per="site")
PACKAGES = (f"package-{number}" for number in itertools.count())


def begun(engine: Engine, *devices: str, plan: RolloutPlan = ALL_AT_ONCE) -> tuple[RolloutStore, Rollout]:
    IntakeStore(engine).take_in([said(name) for name in devices for said in (presence_in, reported_in)], NOW)
    store = RolloutStore(engine)
    repository = ["http://127.0.0.1:1/repo"]
    package = next(PACKAGES)
    rollout = store.create(
        package=package, version="2.0.0", channel="stable", repository=repository, plan=plan, now=NOW
    )
    return store, rollout


@pytest.fixture
def read(engine: Engine) -> Callable[[], int]:
    """How often devices were read since it was asked for last."""
    questions: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT devices."):
            questions.append(statement)

    def asked() -> int:
        number = len(questions)
        questions.clear()
        return number

    return asked


def test_a_step_that_leaves_the_verdict_is_counted_and_its_device_is_not_read(
    engine: Engine, read: Callable[[], int]
) -> None:
    store, rollout = begun(engine, "pi-1", "pi-2")
    phases = (Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED, Phase.ROLLED_BACK)
    reads = []
    for seq, phase in enumerate(phases, 1):
        step = event_in("pi-1", seq, phase, update=an_id(1), rollout=rollout.id, package=rollout.package)
        said = IntakeStore(engine).take_in([step], NOW).rollouts[rollout.id]
        read()
        store.evaluate(rollout.id, NOW, changed=said)
        reads.append(read())
    assert reads == [1, 0, 0, 1]
    assert RolloutReader(engine).rollout(rollout.id).verdicts == {Verdict.PENDING: 1, Verdict.ROLLED_BACK: 1}


def test_the_last_device_of_a_rollout_has_none_of_the_others_read(engine: Engine, read: Callable[[], int]) -> None:
    store, rollout = begun(engine, "pi-1", "pi-2")
    reads = []
    for name in ("pi-1", "pi-2"):
        step = event_in(name, 1, Phase.ROLLED_BACK, update=an_id(1), rollout=rollout.id, package=rollout.package)
        said = IntakeStore(engine).take_in([step], NOW).rollouts[rollout.id]
        read()
        evaluation = store.evaluate(rollout.id, NOW, changed=said)
        reads.append(read())
    assert reads == [1, 1]
    assert evaluation is not None
    assert (evaluation.state, evaluation.state_changed, evaluation.announced) == (RolloutState.COMPLETE, True, True)
    assert evaluation.view == RolloutReader(engine).rollout(rollout.id)
    again = RolloutStore(engine).evaluate(rollout.id, NOW)
    assert again is not None
    assert (again.view, again.verdicts, again.announced) == (evaluation.view, 0, False)


def test_what_a_device_said_is_told_though_nobody_else_may_start_for_it(engine: Engine) -> None:
    store, rollout = begun(engine, "pi-1", "pi-2", plan=RolloutPlan(waves=[ONE_OF_EACH_SITE]))
    reader = RolloutReader(engine)
    (first,) = (one.device for one in reader.devices(rollout.id) if one.verdict is Verdict.PENDING)
    assert store.evaluate(rollout.id, NOW) is not None
    word = event_in(first, 1, Phase.FETCHING, rollout=rollout.id, package=rollout.package)
    said = IntakeStore(engine).take_in([word], NOW).rollouts[rollout.id]
    evaluation = store.evaluate(rollout.id, NOW, changed=said)
    assert evaluation is not None
    assert (evaluation.verdicts, evaluation.state_changed, evaluation.announced) == (1, False, False)
    assert evaluation.view.verdicts == {Verdict.UPDATING: 1, Verdict.WAITING: 1}


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int, Phase]]:
    """What two devices say, numbered as they say it, in the order in which it comes in: now and then another one."""
    said = draw(st.lists(st.tuples(st.sampled_from(["pi-1", "pi-2"]), st.sampled_from(Phase)), max_size=12))
    counts = {"pi-1": itertools.count(1), "pi-2": itertools.count(1)}
    numbered = [(name, next(counts[name]), phase) for name, phase in said]
    return draw(st.just(numbered) | st.permutations(numbered))


def test_a_step_that_comes_late_does_not_count_for_a_later_one(engine: Engine) -> None:
    store, rollout = begun(engine, "pi-1")
    for seq, phase in ((1, Phase.ACCEPTED), (3, Phase.STAGED), (2, Phase.FETCHING)):
        step = event_in("pi-1", seq, phase, update=an_id(1), rollout=rollout.id, package=rollout.package)
        said = IntakeStore(engine).take_in([step], NOW).rollouts[rollout.id]
        evaluation = store.evaluate(rollout.id, NOW, changed=said)
    assert evaluation is not None
    assert evaluation.view == RolloutReader(engine).rollout(rollout.id)
    assert evaluation.view.phases == {"staged": 1}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(steps(), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_it_comes_to_the_same_as_looking_at_everybody(
    engine: Engine, said: list[tuple[str, int, Phase]], sizes: list[int], looks_after: int
) -> None:
    """Whatever devices say, in batches of any size, and however many of those are looked at together."""
    example = next(EXAMPLES)  # the engine is the same for all of them
    store, rollout = begun(engine, f"{example}-pi-1", f"{example}-pi-2")
    runner = RolloutRunner(store, lambda _rollout, _announced: None, clock=lambda: NOW)
    left = list(said)
    for number, size in enumerate(itertools.cycle(sizes)):
        now, left = left[:size], left[size:]
        if not now:
            break
        batch = [
            event_in(f"{example}-{name}", seq, phase, update=an_id(1), rollout=rollout.id, package=rollout.package)
            for name, seq, phase in now
        ]
        runner.touch(rollouts=IntakeStore(engine).take_in(batch, NOW).rollouts)
        if number % looks_after == 0 or not left:
            words: dict[str, Words | None] = runner._rollouts
            runner._rollouts = {}
            store.evaluate(rollout.id, NOW, changed=words.get(rollout.id, {}))
    partly = store.evaluate(rollout.id, NOW, changed={})
    whole = RolloutStore(engine).evaluate(rollout.id, NOW)
    assert partly is not None
    assert whole is not None
    assert whole.verdicts == 0
    assert partly.view == whole.view


def test_of_what_a_newer_release_replaces_only_those_are_read_whose_verdict_may_change(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rollout = begun(engine, "pi-1", "pi-2", "pi-3")
    about = {"rollout": rollout.id, "package": rollout.package}
    IntakeStore(engine).take_in(
        [event_in("pi-1", 1, Phase.FAILED, **about), event_in("pi-2", 1, Phase.FETCHING, **about)], NOW
    )
    store.evaluate(rollout.id, NOW)
    read: list[str] = []
    observe = evaluating.observe

    def noting(connection: Connection, plan: Plan, **more: Any) -> Observed:
        found = observe(connection, plan, **more)
        read.extend(one.device for one in found.observations)
        return found

    monkeypatch.setattr(evaluating, "observe", noting)
    store.create(
        package=rollout.package, version="3.0.0", channel="stable", repository=["http://r"], plan=ALL_AT_ONCE, now=NOW
    )
    assert sorted(read) == ["pi-2", "pi-3"]
    ended = RolloutReader(engine).rollout(rollout.id)
    assert ended.verdicts == {Verdict.ENDED: 1, Verdict.FAILED: 1, Verdict.UPDATING: 1}


def test_a_last_word_counts_though_a_step_from_before_it_comes_later() -> None:
    runner = RolloutRunner(None, lambda _rollout, _announced: None)  # type: ignore[arg-type]  # it is only told
    runner.touch(rollouts={"one": {"pi-1": Phase.STAGED, "pi-2": Phase.STAGED}})
    runner.touch(rollouts={"one": {"pi-1": None}})
    runner.touch(rollouts={"one": {"pi-1": Phase.FETCHING, "pi-2": Phase.PROBATION}})
    assert runner._rollouts == {"one": {"pi-1": None, "pi-2": Phase.PROBATION}}


def test_what_is_told_of_devices_is_not_changed_by_what_comes_later() -> None:
    runner = RolloutRunner(None, lambda _rollout, _announced: None)  # type: ignore[arg-type]  # it is only told
    said: Words = {"pi-1": Phase.STAGED}
    runner.touch(rollouts={"one": said})
    runner.touch(rollouts={"one": {"pi-1": None}})
    assert said == {"pi-1": Phase.STAGED}


def test_steps_under_way_are_those_without_an_end_and_a_wait() -> None:
    assert {
        Phase.ACCEPTED,
        Phase.FETCHING,
        Phase.STAGED,
        Phase.SWITCHED,
        Phase.PROBATION,
        Phase.ROLLING_BACK,
    } == UNDER_WAY
