"""A rollout that was stopped or is over: its waves and devices wait for nothing, and it says who did it and when."""

from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import Engine

from controller.fleet.orders import OrderStore
from controller.rollouts.explaining import person
from controller.rollouts.phases import VERDICTS
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.short_ids import TIME_PART
from controller.rollouts.store import RolloutStore
from controller.rollouts.views import Rollout, WaveState
from controller.rollouts.waves import RolloutPlan, Wave
from controller.web.fleet_reading import rollout_lines
from controller.web.rollout_reading import device_rows
from schemas.errors import OperatorError
from schemas.messages import ErrorReport, Phase, Targets
from tests.unit.fleet.builders import NOW, event_in, installed, presence_in, reported_in, succeeded_in
from tests.unit.rollouts.test_waves_kept import chosen, create, evaluate, fleet, take_in

ONE_FIRST = RolloutPlan(waves=[Wave(devices=1, max_failures=0), Wave(upto=100)])
BROKEN = ErrorReport(code="health.http", message="answered 500")
LATER = NOW + timedelta(minutes=5)
ALL = RolloutPlan(waves=[Wave(upto=100, success=0)])


def named(rollout: Rollout) -> str:
    """As much of its id as commands need of the only one of its time."""
    return rollout.id[:TIME_PART]


def test_a_reverted_rollout_waits_for_nothing_and_says_who_reverted_it_and_when(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    store = RolloutStore(engine)
    store.set_state(rollout.id, RolloutState.REVERTED, LATER, by="user:anna")
    seen = RolloutReader(engine).rollout(rollout.id)
    assert (seen.changed_by, seen.changed_at) == ("user:anna", LATER)
    assert seen.because == "reverted by anna"
    assert [wave.state for wave in seen.waves] == [WaveState.ENDED, WaveState.ENDED]
    assert [wave.because for wave in seen.waves] == [
        "the rollout was reverted; 0 succeeded",
        "the rollout was reverted; it never began",
    ]
    assert seen.verdicts == {Verdict.ENDED: 3}
    assert "wait" not in str([seen.because, seen.waves])


def test_the_waves_of_a_halted_rollout_are_stopped_until_somebody_goes_on(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    store = RolloutStore(engine)
    halted = store.set_state(rollout.id, RolloutState.HALTED, LATER, by="token:ci")
    assert halted.because == "halted by the token ci"
    assert [wave.state for wave in halted.waves] == [WaveState.STOPPED, WaveState.STOPPED]
    assert [wave.because for wave in halted.waves] == [
        "goes on when the rollout is resumed; 0 succeeded",
        "goes on when the rollout is resumed; it has not begun",
    ]
    assert halted.verdicts == {Verdict.HELD: 3}
    going = store.set_state(rollout.id, RolloutState.ACTIVE, LATER + timedelta(minutes=1), by="user:ben")
    assert [wave.state for wave in going.waves] == [WaveState.RUNNING, WaveState.WAITING]
    assert (going.changed_by, going.verdicts) == ("user:ben", {Verdict.PENDING: 1, Verdict.WAITING: 2})


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.HALTED])
def test_a_rollout_that_was_stopped_says_how_to_go_on_and_how_to_get_everybody_back(
    engine: Engine, state: RolloutState
) -> None:
    fleet(engine, 3)
    rollout, store = create(engine, ONE_FIRST), RolloutStore(engine)
    assert rollout.advice == ""
    stopped = store.set_state(rollout.id, state, LATER)
    assert stopped.advice == (
        f"flotilla resume {named(rollout)} goes on with it;"
        f" flotilla revert {named(rollout)} sends back everybody who took it"
    )
    reverted = store.set_state(rollout.id, RolloutState.REVERTED, LATER)
    assert reverted.advice == (
        "devices that join later have nothing announced until another version of tacho is released on channel stable"
    )
    create(engine, ONE_FIRST, version="2.1.0", now=LATER)
    assert RolloutReader(engine).rollout(rollout.id).advice == ""


def test_a_rollout_that_failures_stopped_says_what_resume_accepts_and_names_the_way_back_first(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    bad = chosen(engine)
    take_in(engine, event_in(bad, 1, Phase.ROLLED_BACK, rollout=rollout.id))
    back = f"flotilla revert {named(rollout)} sends back everybody who took it"
    on = f"flotilla resume {named(rollout)} accepts what went wrong and lets the next devices start"
    again = f"flotilla retry {named(rollout)} after that tries the failed ones again"
    assert evaluate(engine, rollout, LATER).view.advice == f"{back}; {on}; {again}"
    store = RolloutStore(engine)
    with pytest.raises(OperatorError, match="is halted: resume it first"):
        store.retry(rollout.id, now=LATER)
    going = store.set_state(rollout.id, RolloutState.ACTIVE, LATER, by="user:anna")
    assert [(wave.accepted, wave.verdicts) for wave in going.waves] == [
        (1, {Verdict.ROLLED_BACK: 1}),
        (0, {Verdict.PENDING: 2}),
    ]
    assert store.retry(rollout.id, now=LATER).waves[0].verdicts == {Verdict.PENDING: 1}


def test_no_retry_is_named_where_there_is_nothing_to_retry(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=1, deadline="1m"), Wave(upto=100)]))
    take_in(engine, event_in(chosen(engine), 1, Phase.FETCHING, rollout=rollout.id))
    paused = evaluate(engine, rollout, LATER).view
    assert (paused.state, paused.waves[0].verdicts) == (RolloutState.PAUSED, {Verdict.LATE: 1})
    assert paused.advice.endswith(
        f"flotilla resume {named(rollout)} accepts what went wrong and lets the next devices start"
    )


def test_a_rollout_that_was_reverted_names_the_version_that_went_well_before_on_its_channel(engine: Engine) -> None:
    fleet(engine, 3)
    store = RolloutStore(engine)
    for seq, (version, channel, word) in enumerate(
        [("1.9.0", "stable", Phase.SUCCEEDED), ("1.9.5", "beta", Phase.SUCCEEDED), ("1.9.9", "stable", Phase.FAILED)], 1
    ):
        now = NOW + timedelta(seconds=seq)
        tried = create(
            engine, RolloutPlan(waves=[Wave(upto=100, success=0)]), version=version, channel=channel, now=now
        )
        said = {"version": version, "rollout": tried.id}
        good = succeeded_in("pi-1", seq, **said)
        take_in(engine, *(good if word is Phase.SUCCEEDED else [event_in("pi-1", seq, word, **said)]))
        evaluate(engine, tried, now)
    bad = create(engine, ONE_FIRST, version="2.0.0", now=LATER)
    store.set_state(bad.id, RolloutState.REVERTED, LATER)
    worse = create(engine, ONE_FIRST, version="2.0.1", now=LATER + timedelta(minutes=1))
    reverted = store.set_state(worse.id, RolloutState.REVERTED, LATER + timedelta(minutes=2))
    assert reverted.advice == (
        "devices that join later have nothing announced until a version is released anew, e.g. the one before:"
        " flotilla release tacho 1.9.0 --channel stable"
    )
    assert evaluate(engine, worse, LATER + timedelta(minutes=3)).view.advice == reverted.advice


def test_the_version_before_is_the_one_that_all_had_already(engine: Engine) -> None:
    fleet(engine, 1)
    first = create(engine, ALL, version="1.0.0", now=NOW)
    take_in(engine, *succeeded_in("pi-1", 1, rollout=first.id, version="1.0.0"))
    evaluate(engine, first, NOW + timedelta(seconds=1))
    take_in(engine, reported_in("pi-1", 1, packages={"tacho": installed("1.1.0")}))
    flashed = create(engine, ALL, version="1.1.0", now=NOW + timedelta(seconds=2))
    assert flashed.state is RolloutState.COMPLETE
    bad = create(engine, ALL, version="2.0.0", now=NOW + timedelta(seconds=3))
    assert (
        RolloutStore(engine)
        .set_state(bad.id, RolloutState.REVERTED, LATER)
        .advice.endswith("flotilla release tacho 1.1.0 --channel stable")
    )


def test_resume_forgives_a_late_device_that_never_began(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=["pi-1", "pi-2"], deadline="2h"), Wave(upto=100)]))
    at = NOW + timedelta(hours=3)
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id), at=at)
    take_in(engine, reported_in("pi-2"), reported_in("pi-3"), at=at)
    assert evaluate(engine, rollout, at).view.state is RolloutState.PAUSED
    going = RolloutStore(engine).set_state(rollout.id, RolloutState.ACTIVE, at + timedelta(minutes=1))
    assert (going.state, going.waves[0].accepted) == (RolloutState.ACTIVE, 1)
    assert evaluate(engine, rollout, at + timedelta(minutes=2)).view.state is RolloutState.ACTIVE


def test_who_was_accepted_is_told_as_long_as_it_has_done_nothing(engine: Engine) -> None:
    """Also while nobody may start, and when another rollout has taken the place."""
    fleet(engine, 3)
    first = Wave(devices=["pi-1", "pi-2"], deadline="2h")
    rollout = create(engine, RolloutPlan(waves=[first, Wave(upto=100, approval=True)]))
    at, store = NOW + timedelta(hours=3), RolloutStore(engine)
    take_in(engine, *succeeded_in("pi-1", 1, rollout=rollout.id), at=at)
    take_in(engine, reported_in("pi-2"), at=at)
    assert evaluate(engine, rollout, at).view.state is RolloutState.PAUSED
    states = (RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.HALTED, RolloutState.ACTIVE)
    assert [store.set_state(rollout.id, state, at).waves[0].accepted for state in states] == [1, 1, 1, 1]
    create(engine, ALL, version="2.1.0", now=at)
    over = RolloutReader(engine).rollout(rollout.id)
    assert (over.waves[0].accepted, over.verdicts[Verdict.ENDED]) == (1, 2)


def test_a_device_that_is_held_or_away_has_a_reason(engine: Engine) -> None:
    fleet(engine, 5)
    orders, store = OrderStore(engine), RolloutStore(engine)
    orders.set_desired("pi-1", pins={"tacho": "1.1.0", "needle": "9.0.0"})
    orders.set_desired("pi-2", hold=True)
    orders.set_desired("pi-3", hold=True, pins={"tacho": "1.1.0"})
    orders.set_desired("pi-4", pins={"needle": "9.0.0"})
    take_in(engine, presence_in("pi-5", online=False))
    rollout = create(engine, RolloutPlan(waves=[Wave(upto=100)]))
    because = {
        "pi-1": "pinned at 1.1.0",
        "pi-2": "on hold",
        "pi-3": "pinned at 1.1.0, on hold",
        "pi-4": "",
        "pi-5": "away",
    }
    assert {one.device: one.reason for one in RolloutReader(engine).devices(rollout.id)} == because
    assert {one.device: one.reason for one in device_rows(engine, rollout.id)} == because
    store.set_state(rollout.id, RolloutState.PAUSED, LATER)
    now = {one.device: one.reason for one in RolloutReader(engine).devices(rollout.id)}
    assert (now["pi-1"], now["pi-4"]) == ("pinned at 1.1.0, the rollout is paused", "the rollout is paused")
    assert {one.device: one.reason for one in device_rows(engine, rollout.id)} == now
    store.set_state(rollout.id, RolloutState.ACTIVE, LATER)
    cancelled = store.cancel(rollout.id, "pi-4", LATER)
    assert cancelled.verdicts[Verdict.HELD] == 4
    for shown in (RolloutReader(engine).devices(rollout.id), device_rows(engine, rollout.id)):
        assert {one.device: one.reason for one in shown}["pi-4"] == "asked to leave it"


def test_cancelling_all_says_who_did(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, ONE_FIRST)
    assert RolloutStore(engine).cancel(rollout.id, now=LATER, by="user:anna").because == "halted by anna"


def test_what_the_engine_stopped_is_nobody_s_doing_and_is_remembered_when_somebody_reverts_it(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    take_in(engine, event_in(chosen(engine), 1, Phase.ROLLED_BACK, rollout=rollout.id))
    halted = evaluate(engine, rollout, LATER).view
    assert (halted.state, halted.changed_by, halted.changed_at) == (RolloutState.HALTED, None, LATER)
    assert halted.because.startswith("wave 1 of 2 (1 device): 1 rolled back")
    assert [wave.state for wave in halted.waves] == [WaveState.FAILED, WaveState.STOPPED]
    seen = RolloutStore(engine).set_state(rollout.id, RolloutState.REVERTED, LATER, by="user:anna")
    assert seen.because == f"reverted by anna; before that: {halted.because}"
    assert [wave.state for wave in seen.waves] == [WaveState.FAILED, WaveState.ENDED]
    assert seen.verdicts == {Verdict.ENDED: 2, Verdict.ROLLED_BACK: 1}


def test_a_rollout_that_another_took_the_place_of_waits_for_nothing(engine: Engine) -> None:
    fleet(engine, 2)
    first = create(engine, ONE_FIRST)
    create(engine, ONE_FIRST, version="2.1.0", now=LATER)
    seen = RolloutReader(engine).rollout(first.id)
    assert [wave.state for wave in seen.waves] == [WaveState.ENDED, WaveState.ENDED]
    assert seen.waves[0].because == "a newer rollout took its place; 0 succeeded"
    assert seen.verdicts == {Verdict.ENDED: 2}


def test_whoever_had_not_begun_when_another_took_its_place_is_shown_by_how_it_stands_there(engine: Engine) -> None:
    fleet(engine, 4)
    first = create(engine, ONE_FIRST)
    begun = chosen(engine)
    held, waiting, left_out = (one for one in ("pi-1", "pi-2", "pi-3", "pi-4") if one != begun)
    take_in(engine, *succeeded_in(begun, 1, rollout=first.id))
    OrderStore(engine).change_desired(held, lambda told: msgspec.structs.replace(told, hold=True))
    everybody = RolloutPlan(waves=[Wave(upto=100)])
    second = create(engine, everybody, version="2.1.0", targets=Targets(exclude=[left_out]), now=LATER)
    rows = {one.device: one.newer for one in RolloutReader(engine).devices(first.id)}
    assert rows == {begun: None, held: Verdict.HELD, waiting: Verdict.PENDING, left_out: None}
    shown = {one.device: (one.look.label, one.newer, one.newer_look) for one in device_rows(engine, first.id)}
    assert shown[held] == ("not begun", second.id, VERDICTS["held"])
    assert shown[waiting] == ("not begun", second.id, VERDICTS["pending"])
    assert shown[left_out] == ("not begun", None, None)
    assert (shown[begun][1], [one.newer for one in RolloutReader(engine).devices(second.id)]) == (None, [None] * 4)
    RolloutStore(engine).withdraw("stable", "tacho", LATER)
    assert {one.newer for one in RolloutReader(engine).devices(first.id)} == {None}


@pytest.mark.parametrize("wanted", [RolloutState.REVERTED, RolloutState.HALTED])
def test_what_was_stopped_is_remembered_after_a_newer_rollout_took_its_place(
    engine: Engine, wanted: RolloutState
) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    bad = chosen(engine)
    take_in(engine, event_in(bad, 1, Phase.ROLLED_BACK, rollout=rollout.id))
    halted = evaluate(engine, rollout, LATER).view
    if wanted is RolloutState.REVERTED:
        RolloutStore(engine).set_state(rollout.id, wanted, LATER, by="user:anna")
    create(engine, ONE_FIRST, version="2.1.0", now=LATER + timedelta(hours=1))
    evaluate(engine, rollout, LATER + timedelta(hours=2))
    seen = RolloutReader(engine).rollout(rollout.id)
    assert (seen.state, seen.before) == (RolloutState.SUPERSEDED, wanted)
    lines = {one.id: one.before for one in rollout_lines(engine)}
    assert [lines[one.id] for one in RolloutReader(engine).rollouts()] == [None, wanted]
    who = "reverted by anna; before that: " if wanted is RolloutState.REVERTED else "halted: "
    when = "2026-03-01T12:05:00Z"
    assert seen.because == f"a newer rollout took its place; before that: {who}{halted.because} (since {when})"
    assert [wave.state for wave in seen.waves] == [WaveState.FAILED, WaveState.ENDED]
    assert seen.waves[0].verdicts == {Verdict.ROLLED_BACK: 1}
    assert halted.because in seen.waves[0].because
    waves = {one.device: one.wave for one in RolloutReader(engine).devices(rollout.id)}
    assert waves == dict.fromkeys({"pi-1", "pi-2", "pi-3"}, 2) | {bad: 1}


def test_what_is_taken_back_on_purpose_went_wrong_on_nobody(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    first = chosen(engine)
    take_in(engine, *succeeded_in(first, 1, rollout=rollout.id))
    evaluate(engine, rollout, LATER)
    second = next(one for one in ("pi-1", "pi-2", "pi-3") if one != first)
    take_in(engine, event_in(second, 1, Phase.ROLLED_BACK, rollout=rollout.id, error=BROKEN))
    RolloutStore(engine).set_state(rollout.id, RolloutState.REVERTED, LATER, by="user:anna")
    back = ErrorReport(code="conflict.reverted", message="the rollout was reverted")
    take_in(engine, event_in(first, 2, Phase.ROLLED_BACK, rollout=rollout.id, error=back))
    seen = evaluate(engine, rollout, LATER + timedelta(hours=1)).view
    assert seen.waves[0].state is WaveState.PROVEN
    assert (seen.waves[0].verdicts, seen.waves[1].verdicts[Verdict.ROLLED_BACK]) == ({Verdict.CANCELLED: 1}, 1)
    assert [one.code for one in RolloutReader(engine).failures(rollout.id)] == ["health.http"]


def test_each_wave_of_a_reverted_rollout_has_its_own_reason(engine: Engine) -> None:
    fleet(engine, 4)
    rollout = create(engine, RolloutPlan(waves=[Wave(devices=1, max_failures=0), Wave(upto=100, max_failures=0)]))
    first = chosen(engine)
    take_in(engine, *succeeded_in(first, 1, rollout=rollout.id))
    evaluate(engine, rollout, LATER)
    others = [one for one in ("pi-1", "pi-2", "pi-3", "pi-4") if one != first]
    take_in(engine, event_in(others[0], 1, Phase.FETCHING, rollout=rollout.id))
    take_in(engine, reported_in(first, 2, packages={"tacho": installed("1.9.0")}))
    halted = evaluate(engine, rollout, LATER).view
    assert halted.because == "wave 1 of 2 (1 device): 1 left of 1 with a result; 0 may fail"
    take_in(engine, event_in(others[0], 2, Phase.FAILED, rollout=rollout.id, error=BROKEN))
    evaluate(engine, rollout, LATER)
    seen = RolloutStore(engine).set_state(rollout.id, RolloutState.REVERTED, LATER, by="user:anna")
    assert [wave.because for wave in seen.waves] == [
        halted.because,
        "wave 2 of 2 (everybody): 1 failed of 1 with a result; 0 may fail",
    ]


def test_a_wave_of_which_nobody_had_begun_when_it_was_reverted_has_proven_nothing(engine: Engine) -> None:
    fleet(engine, 3)
    rollout = create(engine, ONE_FIRST)
    take_in(engine, *succeeded_in(chosen(engine), 1, rollout=rollout.id))
    assert evaluate(engine, rollout, LATER).view.wave == 2
    seen = RolloutStore(engine).set_state(rollout.id, RolloutState.REVERTED, LATER, by="user:anna")
    assert [wave.state for wave in seen.waves] == [WaveState.PROVEN, WaveState.ENDED]
    assert seen.waves[1].because == "the rollout was reverted; 0 succeeded"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((Phase.SUCCEEDED, Phase.SUCCEEDED), ""),
        ((Phase.SUCCEEDED, Phase.REJECTED), "1 succeeded, 1 rejected; "),
        ((Phase.REJECTED, Phase.REJECTED), "0 succeeded, 2 rejected; "),
        ((Phase.REJECTED, Phase.ROLLED_BACK), "0 succeeded, 1 rejected, 1 rolled back; "),
    ],
)
def test_a_complete_rollout_counts_those_that_did_not_succeed(
    engine: Engine, words: tuple[Phase, Phase], says: str
) -> None:
    fleet(engine, 2)
    rollout = create(engine, RolloutPlan(waves=[Wave(upto=100, success=0)]))
    for device, word in zip(("pi-1", "pi-2"), words, strict=True):
        said = succeeded_in(device, 1, rollout=rollout.id)
        take_in(engine, *(said if word is Phase.SUCCEEDED else [event_in(device, 1, word, rollout=rollout.id)]))
    seen = evaluate(engine, rollout, LATER).view
    assert seen.state is RolloutState.COMPLETE
    assert seen.because == f"{says}nobody is waited for; devices that come later or come back get it too"


def test_nobody_is_told_to_resume_what_is_over_before_saying_go(engine: Engine) -> None:
    fleet(engine, 2)
    first = create(engine, ONE_FIRST)
    create(engine, ONE_FIRST, version="2.1.0", now=LATER)
    with pytest.raises(OperatorError, match="is superseded: it waits for nobody"):
        RolloutStore(engine).approve(first.id, LATER)


def test_a_paused_rollout_says_that_its_waves_wait_for_that(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, ONE_FIRST)
    paused = RolloutStore(engine).set_state(rollout.id, RolloutState.PAUSED, LATER)
    assert paused.because == "paused by an operator"
    assert paused.waves[1].because == "does not begin as long as the rollout is paused"


@pytest.mark.parametrize(
    ("actor", "text"),
    [
        ("user:anna", "anna"),
        ("token:ci", "the token ci"),
        ("local:loopback", "somebody at the controller's machine"),
        (None, "an operator"),
    ],
)
def test_whoever_acted_is_named_as_people_would(actor: str | None, text: str) -> None:
    assert person(actor) == text
