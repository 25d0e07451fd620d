"""Devices that a release leaves out by name are counted and listed with the reason, and have no part in its rollout."""

from sqlalchemy import Engine

from controller.rollouts.board import read_board
from controller.rollouts.explaining import WHY_LEFT_OUT, left_out_text
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import RolloutReader
from controller.rollouts.store import RolloutStore
from controller.rollouts.waves import RolloutPlan, Wave
from controller.web.rollout_reading import device_rows
from schemas.messages import Targets
from tests.unit.fleet.builders import NOW, reported_in, succeeded_in
from tests.unit.rollouts.test_waves_kept import create, evaluate, fleet, take_in

ALL = RolloutPlan(waves=[Wave(upto=100)])


def test_who_is_left_out_by_name_is_listed_with_the_reason_page_by_page(engine: Engine) -> None:
    fleet(engine, 5)
    rollout = create(engine, ALL, targets=Targets(exclude=["pi-2", "pi-4"]))
    reader = RolloutReader(engine)
    listed = {one.device: (one.verdict, one.wave, one.reason) for one in reader.devices(rollout.id)}
    out, meant = (Verdict.NOT_MEANT, None, WHY_LEFT_OUT), (Verdict.PENDING, 1, "")
    assert listed == {"pi-1": meant, "pi-2": out, "pi-3": meant, "pi-4": out, "pi-5": meant}
    assert {one.device: (one.look.label, one.reason) for one in device_rows(engine, rollout.id)} == {
        device: ("left out" if has == out else "may start", has[2]) for device, has in listed.items()
    }
    # by id, whatever the size of a page; a list of one kind of device has them not
    for read in (
        lambda after, limit: [one.device for one in reader.devices(rollout.id, after=after, limit=limit)],
        lambda after, limit: [one.device for one in device_rows(engine, rollout.id, after=after, limit=limit)],
    ):
        assert (read("", 2), read("pi-2", 2), read("pi-4", 2)) == (["pi-1", "pi-2"], ["pi-3", "pi-4"], ["pi-5"])
    assert [one.device for one in device_rows(engine, rollout.id, code="p")] == ["pi-1", "pi-3", "pi-5"]
    assert device_rows(engine, rollout.id, code="u") == device_rows(engine, rollout.id, only="pi-2") == []


def test_who_is_left_out_by_name_is_counted_and_counts_in_nothing_else(engine: Engine) -> None:
    fleet(engine, 3)
    take_in(engine, reported_in("pi-far", channel="beta"))
    rollout = create(engine, ALL, targets=Targets(exclude=["pi-2", "pi-far", "pi-never"]))
    assert (rollout.left_out, rollout.meant, rollout.verdicts) == (1, 2, {Verdict.PENDING: 2})
    assert len(read_board(engine, rollout.id, NOW).cells) == 2
    for device in ("pi-1", "pi-3"):
        take_in(engine, *succeeded_in(device, 1, rollout=rollout.id))
    done = evaluate(engine, rollout).view
    assert (done.state, done.left_out, done.meant) == (RolloutState.COMPLETE, 1, 2)
    # another release took its place: it is remembered
    create(engine, ALL, version="2.1.0")
    assert RolloutReader(engine).rollout(rollout.id).left_out == 1


def test_who_is_left_out_later_by_a_cancel_has_its_own_word(engine: Engine) -> None:
    fleet(engine, 2)
    rollout = create(engine, ALL)
    assert rollout.left_out == 0
    seen = RolloutStore(engine).cancel(rollout.id, "pi-2", NOW)
    assert (seen.left_out, seen.verdicts) == (0, {Verdict.PENDING: 1, Verdict.HELD: 1})
    (row,) = [one for one in RolloutReader(engine).devices(rollout.id) if one.device == "pi-2"]
    assert row.reason == "asked to leave it"


def test_how_many_are_left_out_in_words() -> None:
    assert [left_out_text(number) for number in range(3)] == [
        "",
        "1 device is left out by the release",
        "2 devices are left out by the release",
    ]
