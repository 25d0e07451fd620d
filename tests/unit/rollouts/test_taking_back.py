"""What operators ask devices for: shown as asked until the devices themselves have answered."""

from datetime import datetime, timedelta

import msgspec
import pytest
from sqlalchemy import Engine, func, select

from controller.database import writing
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from controller.rollouts.asks import EXPIRY, review
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollout_asks
from controller.rollouts.taking_back import may_retry
from controller.rollouts.views import Rollout
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.errors import OperatorError
from schemas.messages import ErrorReport, Phase, ReleaseState, Targets, Verb
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in, succeeded_in
from tests.unit.rollouts.test_waves_kept import announced, create, evaluate, fleet, take_in

CANCELLED = ErrorReport(code="conflict.cancelled", message="cancelled")


def stands(engine: Engine, rollout: Rollout, device: str) -> tuple[Verdict, Verb | None]:
    """Its verdict after a look, and what it is asked for."""
    evaluate(engine, rollout)
    (one,) = [one for one in RolloutReader(engine).devices(rollout.id) if one.device == device]
    return one.verdict, one.asked


def sent(engine: Engine) -> list[tuple[str, Verb]]:
    """The commands that wait for the broker."""
    return sorted((one.device, one.verb) for one in OrderStore(engine).pending(NOW))


def test_one_device_is_left_out_and_shown_as_asked_until_it_has_said_its_last_word(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.FETCHING, rollout=rollout.id))
    RolloutStore(engine).cancel(rollout.id, "pi-1", NOW)
    message = announced(engine)
    assert (message.revision, message.state, message.targets.exclude) == (2, ReleaseState.ACTIVE, ["pi-1"])
    assert sent(engine) == [("pi-1", Verb.CANCEL)]
    assert stands(engine, rollout, "pi-1") == (Verdict.UPDATING, Verb.CANCEL)
    # words that are no last ones do not answer
    take_in(engine, event_in("pi-1", 2, Phase.STAGED, rollout=rollout.id))
    assert stands(engine, rollout, "pi-1") == (Verdict.UPDATING, Verb.CANCEL)
    take_in(engine, event_in("pi-1", 3, Phase.CANCELLED, rollout=rollout.id, error=CANCELLED))
    assert stands(engine, rollout, "pi-1") == (Verdict.CANCELLED, None)
    assert stands(engine, rollout, "pi-2") == (Verdict.PENDING, None)


def test_a_whole_rollout_is_halted_and_its_devices_are_asked_until_they_have_answered(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.FETCHING, rollout=rollout.id))
    asked = RolloutStore(engine).cancel(rollout.id, now=NOW)
    assert (asked.state, asked.cancel_asked_at) == (RolloutState.HALTED, NOW)
    assert announced(engine).state is ReleaseState.HALTED
    assert stands(engine, rollout, "pi-1") == (Verdict.UPDATING, Verb.CANCEL)
    take_in(engine, event_in("pi-1", 2, Phase.CANCELLED, rollout=rollout.id, error=CANCELLED))
    assert stands(engine, rollout, "pi-1") == (Verdict.CANCELLED, None)


def test_who_says_nothing_by_itself_to_the_end_of_a_rollout_is_asked_to_report(engine: Engine) -> None:
    fleet(engine, 3)
    take_in(engine, presence_in("pi-3", online=False))
    OrderStore(engine).change_desired("pi-1", lambda told: msgspec.structs.replace(told, pins={"tacho": "1.0.0"}), NOW)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-2", 1, Phase.FETCHING, rollout=rollout.id))
    later = NOW + timedelta(minutes=1)
    RolloutStore(engine).cancel(rollout.id, now=later)
    # one is pinned, one stops by itself, and of one that is away nobody knows
    assert [(one.device, one.verb) for one in OrderStore(engine).pending(later)] == [("pi-1", Verb.REPORT)]
    assert [stands(engine, rollout, one)[1] for one in ("pi-1", "pi-2", "pi-3")] == [Verb.CANCEL] * 3
    take_in(engine, reported_in("pi-1"), at=later)
    assert [stands(engine, rollout, one)[1] for one in ("pi-1", "pi-2", "pi-3")] == [None, Verb.CANCEL, Verb.CANCEL]


def test_a_retry_that_was_not_answered_is_taken_back_with_all_of_its_rollout(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=CANCELLED))
    RolloutStore(engine).retry(rollout.id, now=NOW)
    RolloutStore(engine).cancel(rollout.id, now=NOW)
    assert stands(engine, rollout, "pi-1") == (Verdict.HELD, None)


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.HALTED])
def test_nobody_is_asked_again_to_retry_as_long_as_nobody_may_start(engine: Engine, state: RolloutState) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=CANCELLED))
    store, late = RolloutStore(engine), NOW + 2 * EXPIRY
    store.retry(rollout.id, now=NOW)
    store.set_state(rollout.id, state, NOW)
    with writing(engine) as connection:
        assert review(connection, ["pi-1"], ["pi-1"], late) == 0
    store.set_state(rollout.id, RolloutState.ACTIVE, late)
    with writing(engine) as connection:
        assert review(connection, ["pi-1"], ["pi-1"], late) == 1


def test_a_device_is_told_which_word_of_it_does_not_answer_a_cancel(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    failed = event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=CANCELLED)
    take_in(engine, failed)
    store, late = RolloutStore(engine), NOW + 2 * EXPIRY
    store.retry(rollout.id, now=NOW)
    store.cancel(rollout.id, "pi-1", NOW)
    with writing(engine) as connection:
        review(connection, ["pi-1"], ["pi-1"], late)
    cancels = [one for one in OrderStore(engine).commands("pi-1") if one.verb is Verb.CANCEL]
    assert [one.args.get("ended") for one in cancels] == [failed.event.update] * 2
    # what it says while it tries again may be its last word, on its way
    take_in(engine, event_in("pi-1", 2, Phase.FETCHING, rollout=rollout.id))
    store.cancel(rollout.id, "pi-1", late + EXPIRY)
    assert "ended" not in OrderStore(engine).commands("pi-1")[0].args


def test_what_failed_is_open_again_and_nobody_else_is_asked(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=CANCELLED))
    take_in(engine, *succeeded_in("pi-2", 1, rollout=rollout.id))
    assert stands(engine, rollout, "pi-1") == (Verdict.ROLLED_BACK, None)
    RolloutStore(engine).retry(rollout.id, now=NOW)
    assert stands(engine, rollout, "pi-1") == (Verdict.PENDING, Verb.RETRY)
    assert RolloutReader(engine).failures(rollout.id) == []
    assert sent(engine) == [("pi-1", Verb.RETRY)]
    # the word that it has taken back does not count when it comes again, a newer one does
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=CANCELLED))
    assert stands(engine, rollout, "pi-1") == (Verdict.PENDING, Verb.RETRY)
    take_in(engine, event_in("pi-1", 2, Phase.ACCEPTED, rollout=rollout.id))
    assert stands(engine, rollout, "pi-1") == (Verdict.UPDATING, None)


def test_a_retry_is_answered_by_a_device_that_has_the_release_by_another_way(engine: Engine) -> None:
    """It was sent back to it by hand: it has nothing to do, and says nothing."""
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.REJECTED, rollout=rollout.id, error=CANCELLED))
    RolloutStore(engine).retry(rollout.id, now=NOW)
    assert stands(engine, rollout, "pi-1") == (Verdict.PENDING, Verb.RETRY)
    take_in(engine, reported_in("pi-1", 1, packages={rollout.package: installed(rollout.version)}))
    assert stands(engine, rollout, "pi-1") == (Verdict.SUCCEEDED, None)
    (row,) = RolloutReader(engine).devices(rollout.id)
    assert row.update is None
    assert RolloutReader(engine).unanswered(rollout.id) == 0
    with writing(engine) as connection:
        review(connection, ["pi-1"], ["pi-1"], NOW)
        assert connection.scalar(select(func.count()).select_from(rollout_asks)) == 0


@pytest.mark.parametrize("fails", [True, False])
def test_who_is_tried_again_after_its_waves_deadline_has_as_long_again(engine: Engine, fails: bool) -> None:
    fleet(engine, 3)
    first = Wave(devices=["pi-1", "pi-2"], deadline="1h", max_failures=0)
    rollout = create(engine, RolloutPlan(waves=[first, Wave(upto=100, approval=True)]))
    take_in(engine, *succeeded_in("pi-2", 1, rollout=rollout.id), event_in("pi-1", 1, Phase.FAILED, rollout=rollout.id))
    assert evaluate(engine, rollout).state is RolloutState.HALTED
    later, store = NOW + timedelta(hours=2), RolloutStore(engine)
    went_on = store.set_state(rollout.id, RolloutState.ACTIVE, NOW)
    assert (went_on.state, went_on.waves[0].accepted) == (RolloutState.ACTIVE, 1)
    take_in(engine, presence_in("pi-1"), at=later)
    tried = store.retry(rollout.id, "pi-1", later)
    assert (tried.state, tried.waves[0].verdicts) == (RolloutState.ACTIVE, {Verdict.PENDING: 1, Verdict.SUCCEEDED: 1})
    if fails:
        take_in(engine, event_in("pi-1", 2, Phase.FAILED, rollout=rollout.id), at=later)
        assert evaluate(engine, rollout, later).state is RolloutState.HALTED
        return
    later += timedelta(hours=1, seconds=1)
    take_in(engine, presence_in("pi-1"), at=later)
    now = evaluate(engine, rollout, later).view
    assert now.waves[0].verdicts == {Verdict.LATE: 1, Verdict.SUCCEEDED: 1}


def test_a_retry_lets_one_device_in_that_was_left_out(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=None)
    store = RolloutStore(engine)
    store.cancel(rollout.id, "pi-1", NOW)
    take_in(engine, event_in("pi-1", 1, Phase.CANCELLED, rollout=rollout.id, error=CANCELLED))
    assert stands(engine, rollout, "pi-1") == (Verdict.CANCELLED, None)
    store.retry(rollout.id, "pi-1", NOW)
    assert announced(engine).targets.exclude == []
    assert stands(engine, rollout, "pi-1") == (Verdict.PENDING, Verb.RETRY)


def test_whom_the_release_itself_leaves_out_can_be_neither_cancelled_nor_let_in_by_that(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, plan=None, targets=Targets(exclude=["pi-1"]))
    store = RolloutStore(engine)
    with pytest.raises(OperatorError, match="does not mean pi-1"):
        store.cancel(rollout.id, "pi-1", NOW)
    # one that was asked, and has said nothing, may be asked again
    for _ in range(2):
        store.cancel(rollout.id, "pi-2", NOW)
    assert announced(engine).targets.exclude == ["pi-1", "pi-2"]
    assert sent(engine) == [("pi-2", Verb.CANCEL)] * 2


def test_a_device_is_not_asked_to_stop_for_ever_in_a_rollout_that_another_took_the_place_of(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    failed = ErrorReport(code="health.http", message="no answer")
    take_in(engine, event_in("pi-1", 1, Phase.ROLLED_BACK, rollout=rollout.id, error=failed))
    RolloutStore(engine).retry(rollout.id, "pi-1", NOW)
    # it is away: the retry is lost, and of the cancel there is nothing that it could say
    RolloutStore(engine).cancel(rollout.id, "pi-1", NOW)
    create(engine, plan=None)
    late = NOW + timedelta(hours=2)
    IntakeStore(engine).take_in([presence_in("pi-1", at=late), reported_in("pi-1", seq=1, at=late)], late)
    assert stands(engine, rollout, "pi-1")[1] is None
    assert [command for command in OrderStore(engine).pending(late) if command.verb is Verb.CANCEL] == []


@pytest.mark.parametrize(
    ("asked_at", "again"),
    [(NOW - 2 * EXPIRY, True), (NOW, False), (NOW + timedelta(days=1), True)],
    ids=["expired", "lately", "before the clock was put back"],
)
def test_a_device_is_asked_again_when_its_command_is_lost(engine: Engine, asked_at: datetime, again: bool) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, event_in("pi-1", 1, Phase.FETCHING, rollout=rollout.id))
    RolloutStore(engine).cancel(rollout.id, "pi-1", asked_at)
    with writing(engine) as connection:
        assert review(connection, ["pi-1"], ["pi-1"], NOW) == int(again)
        assert review(connection, ["pi-1"], ["pi-1"], NOW) == 0


@pytest.mark.parametrize(
    ("state", "verdict", "expected"),
    [
        (RolloutState.ACTIVE, Verdict.ROLLED_BACK, True),
        (RolloutState.COMPLETE, Verdict.CANCELLED, True),
        (RolloutState.ACTIVE, Verdict.SILENT, False),
        (RolloutState.ACTIVE, Verdict.SUCCEEDED, False),
        (RolloutState.HALTED, Verdict.FAILED, False),
    ],
)
def test_a_retry_is_offered_where_it_can_be_done(state: RolloutState, verdict: Verdict, expected: bool) -> None:
    assert may_retry(state, {verdict: 1}) is expected
    assert not may_retry(state, {verdict: 0})


def test_a_retry_is_not_answered_by_a_report_from_before_the_rollback(engine: Engine) -> None:
    fleet(engine, 1)
    rollout = create(engine, plan=None)
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id))
    bad = ErrorReport(code="health.http", message="500")
    take_in(engine, event_in("pi-1", 2, Phase.ROLLED_BACK, rollout=rollout.id, error=bad))
    take_in(engine, presence_in("pi-1", online=False))  # before its next report
    assert RolloutStore(engine).retry(rollout.id, None, NOW).asked == 1
    assert stands(engine, rollout, "pi-1")[1] is Verb.RETRY
    later, report = NOW + 2 * EXPIRY, reported_in("pi-1", 2, packages={"tacho": installed("1.0.0")})
    take_in(engine, presence_in("pi-1", session=2), report, at=later)
    evaluate(engine, rollout, later)
    take_in(engine, report, at=later + timedelta(minutes=1))
    again = [(one.device, one.verb) for one in OrderStore(engine).pending(later + timedelta(minutes=1))]
    assert ("pi-1", Verb.RETRY) in again
