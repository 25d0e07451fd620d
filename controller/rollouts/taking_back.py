"""Cancelling and retrying, for a whole rollout or single devices: what the store does in one transaction."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, select, update

from controller.database import to_db
from controller.fleet.tables import devices
from controller.fleet.views import unknown_device
from controller.rollouts.asks import ask, ask_all_to_stop, open_asks
from controller.rollouts.engine import in_turn_again
from controller.rollouts.evaluating import settle
from controller.rollouts.keeping import plan_of
from controller.rollouts.plan import ENDED, RETRIED, STARTING, Plan, RolloutState, Verdict
from controller.rollouts.tables import rollout_devices, rollouts
from controller.rollouts.words import take_back
from schemas.errors import OperatorError
from schemas.messages import LAST_WORDS, Phase, Verb

MOST_EXCLUDED: Final = 3000
"""As many ids as an announcement can list."""

_word = rollout_devices.c


def may_retry(state: RolloutState, verdicts: Mapping[Verdict, int]) -> bool:
    """Whether there is anything to retry in a rollout with so many devices of each verdict."""
    return state in STARTING and any(verdicts.get(verdict) for verdict in RETRIED)


def cancel_device(connection: Connection, row: Any, device: str, now: datetime) -> None:
    """Take the release back from one device: the announcement leaves it out from now on, and it is asked to stop.

    Args:
        connection: in a writing transaction.
        row: of the rollout.
        device: its id.
        now: the controller's clock.

    Raises:
        OperatorError: `device.unknown`; `rollout.state` where the rollout is over, does not mean the device, or has
            come to its end there.
    """
    plan = plan_of(row)
    if plan.state in ENDED:
        raise OperatorError("rollout.state", f"rollout {plan.rollout} is {plan.state}: there is nothing to cancel")
    _require(connection, device)
    word = _words(connection, plan.rollout, [device]).get(device)
    phase = word["phase"] if word else None
    # whoever the release itself left out was never asked, and must not be let in by a retry after this
    if word is None and device not in open_asks(connection, plan.rollout, [device]):
        raise OperatorError("rollout.state", f"rollout {plan.rollout} does not mean {device}")
    if phase in LAST_WORDS:
        undo = f"; to undo it: flotilla ask {device} rollback --package {row['package']}"
        raise OperatorError(
            "rollout.state",
            f"{device} is done with this rollout: {phase}{undo if phase == Phase.SUCCEEDED else ''}",
        )
    excluded = sorted({*plan.base.exclude, device})
    if len(excluded) > MOST_EXCLUDED:
        raise OperatorError("input.bad", f"an announcement can leave out {MOST_EXCLUDED} devices; halt the rollout")
    ask(connection, row, Verb.CANCEL, [device], now)
    settle(connection, row, _excluding(plan, excluded), now, before=plan)


def cancel_all(connection: Connection, rollout: str, now: datetime) -> None:
    """Ask all of a rollout, which was just halted, to stop; in a writing transaction."""
    note_cancel(connection, rollout, now)
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().one()
    ask_all_to_stop(connection, row, now)


def retry(connection: Connection, row: Any, device: str | None, now: datetime) -> list[str]:
    """Have devices on which the rollout ended badly try again: their verdicts are open again; returns which these are.

    Args:
        connection: in a writing transaction.
        row: of the rollout.
        device: only this one; None for all.
        now: the controller's clock.

    Raises:
        OperatorError: `device.unknown`; `rollout.state` where nobody may start, or nothing ended badly.
    """
    plan = plan_of(row)
    if plan.state not in STARTING:
        how = "release it anew" if plan.state in {*ENDED, RolloutState.REVERTED} else "resume it first"
        raise OperatorError("rollout.state", f"rollout {plan.rollout} is {plan.state}: {how}")
    if device is not None:
        _require(connection, device)
    ended_badly = [phase.value for phase in LAST_WORDS if phase is not Phase.SUCCEEDED]
    found = select(_word.device, _word.wave).where(_word.rollout == plan.rollout, _word.phase.in_(ended_badly))
    if device is not None:
        found = found.where(_word.device == device)
    # locked: what a device says from here on counts after it was asked
    waves = {row.device: row.wave for row in connection.execute(found.order_by(_word.device).with_for_update())}
    again = list(waves)
    if not again:
        raise OperatorError(
            "rollout.state", f"rollout {plan.rollout} has not ended badly on {device or 'any device'}: nothing to retry"
        )
    ask(connection, row, Verb.RETRY, again, now)
    take_back(connection, again, _word.rollout == plan.rollout)
    going = in_turn_again(_excluding(plan, sorted({*plan.base.exclude} - {*again})), waves, now)
    settle(connection, row, going, now, before=plan)
    return again


def note_cancel(connection: Connection, rollout: str, now: datetime | None) -> None:
    """Note since when the whole rollout is asked to stop; None takes that back."""
    asked_at = None if now is None else to_db(now)
    connection.execute(update(rollouts).where(rollouts.c.id == rollout).values(cancel_asked_at=asked_at))


def _excluding(plan: Plan, excluded: Collection[str]) -> Plan:
    return replace(plan, base=msgspec.structs.replace(plan.base, exclude=list(excluded)))


def _words(connection: Connection, rollout: str, some: Collection[str]) -> dict[str, Any]:
    found = select(rollout_devices).where(_word.rollout == rollout, _word.device.in_(sorted(some)))
    return {row["device"]: row for row in connection.execute(found).mappings()}


def _require(connection: Connection, device: str) -> None:
    if connection.scalar(select(devices.c.id).where(devices.c.id == device)) is None:
        raise unknown_device(device)
