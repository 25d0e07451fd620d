"""What single devices are told: stored, numbered, checked."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import KEPT, OrderStore
from schemas.codec import decode
from schemas.errors import FlotillaError, OperatorError
from schemas.messages import Desired, Verb
from tests.unit.fleet.builders import NOW, event_in


@pytest.fixture
def orders(engine: Engine) -> OrderStore:
    IntakeStore(engine).take_in([event_in("pi-1"), event_in("pi-2")], NOW)
    return OrderStore(engine)


def test_desired_replaces_what_was_said_and_its_number_grows(orders: OrderStore) -> None:
    assert orders.desired("pi-1") is None
    first = orders.set_desired("pi-1", channel="beta", pins={"tacho": "1.0.0"})
    second = orders.set_desired("pi-1", hold=True)
    assert (first.rev, second.rev) == (1, 2)
    assert orders.desired("pi-1") == second == Desired(rev=2, hold=True)
    (row,) = orders.desired_rows(changed_only=True)
    assert decode(row.payload, Desired) == second


def test_desired_is_published_until_the_broker_took_the_latest(orders: OrderStore) -> None:
    orders.set_desired("pi-1", hold=True)
    orders.set_desired("pi-2", hold=True)
    old = orders.desired_rows(changed_only=True)
    orders.set_desired("pi-1", hold=False)
    orders.mark_published(old)
    assert [(row.device, row.rev) for row in orders.desired_rows(changed_only=True)] == [("pi-1", 2)]
    assert [row.device for row in orders.desired_rows(changed_only=False, after="pi-1")] == ["pi-2"]


def test_a_command_waits_until_it_is_sent_or_expires(orders: OrderStore) -> None:
    first = orders.send_command("pi-1", Verb.RETRY, {"package": "tacho"}, now=NOW)
    second = orders.send_command("pi-1", Verb.REPORT, expires_in=timedelta(minutes=1), now=NOW)
    assert {one.id for one in orders.pending(NOW)} == {first.id, second.id}
    assert [one.id for one in orders.pending(NOW + timedelta(minutes=2))] == [first.id]
    orders.mark_sent([first.id], NOW)
    assert [one.id for one in orders.pending(NOW)] == [second.id]
    shown = {one.id: one for one in orders.commands("pi-1")}
    assert (shown[first.id].sent_at, shown[second.id].sent_at) == (NOW, None)
    assert shown[first.id].args == {"package": "tacho"}
    assert orders.forget_old(NOW + KEPT + timedelta(minutes=2)) == 1


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        (Verb.RETRY, {}),
        (Verb.CANCEL, {"package": "../x"}),
        (Verb.ROLLBACK, {"package": "tacho", "more": 1}),
        (Verb.REPLAY, {"after_seq": -1}),
        (Verb.REPLAY, {"after_seq": 2**53}),
        (Verb.REPLAY, {"after_seq": True}),
        (Verb.REPORT, {"package": "tacho"}),
    ],
)
def test_wrong_arguments_are_refused(orders: OrderStore, verb: Verb, args: dict[str, Any]) -> None:
    with pytest.raises(FlotillaError, match=f"arguments of {verb}") as caught:
        orders.send_command("pi-1", verb, args)
    assert caught.value.code == "input.bad"
    assert orders.commands("pi-1") == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"channel": "Beta"}, "input.bad"),
        ({"tags": {"a b": "c"}}, "input.bad"),
        ({"pins": {"tacho": "1"}}, "version.bad"),
    ],
)
def test_a_desired_that_breaks_the_contract_is_refused(orders: OrderStore, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FlotillaError) as caught:
        orders.set_desired("pi-1", **changes)
    assert caught.value.code == code
    assert orders.desired("pi-1") is None


def test_a_device_that_was_never_heard_of_is_told_nothing(orders: OrderStore) -> None:
    with pytest.raises(FlotillaError) as first:
        orders.set_desired("pi-9", hold=True)
    with pytest.raises(FlotillaError) as second:
        orders.send_command("pi-9", Verb.REPORT)
    assert first.value.code == second.value.code == "device.unknown"


def test_the_controllers_sessions_grow_for_ever(engine: Engine) -> None:
    assert [OrderStore(engine).next_session() for _ in range(3)] == [1, 2, 3]


def test_what_is_changed_is_made_from_what_was_said_and_nobody_writes_in_between(
    orders: OrderStore, engine: Engine
) -> None:
    orders.set_desired("pi-1", pins={"needle": "2.0.0"}, channel="beta")

    def pinned(told: Desired) -> Desired:
        # whoever else wants to write now has to wait until this is written
        other = sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        return msgspec.structs.replace(told, pins={**(told.pins or {}), "tacho": "1.0.0"})

    assert orders.change_desired("pi-1", pinned) == Desired(
        rev=2, channel="beta", pins={"needle": "2.0.0", "tacho": "1.0.0"}
    )
    assert orders.desired("pi-1") == Desired(rev=2, channel="beta", pins={"needle": "2.0.0", "tacho": "1.0.0"})
    assert orders.change_desired("pi-2", lambda told: msgspec.structs.replace(told, hold=True)).rev == 1


def test_a_change_that_cannot_be_changes_nothing(orders: OrderStore) -> None:
    def refused(_: Desired) -> Desired:
        raise OperatorError("input.bad", "it is not pinned")

    with pytest.raises(OperatorError, match="it is not pinned"):
        orders.change_desired("pi-1", refused)
    assert orders.desired("pi-1") is None
    with pytest.raises(OperatorError) as caught:
        orders.change_desired("nobody", lambda told: told)
    assert caught.value.code == "device.unknown"
