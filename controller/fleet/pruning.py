"""Forgets what devices said long ago: the steps of updates, but not the last word of one, unless they are too many."""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, delete, exists, func, select, update

from controller.database import reading, to_db, writing
from controller.fleet.sql import insert_into
from controller.fleet.surplus import BATCH, Surplus, remove_events
from controller.fleet.tables import counters, events
from controller.rollouts.plan import ENDED
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.messages import LAST_WORDS

_PRUNED: Final = "events.pruned"
_LAST_WORDS: Final = [phase.value for phase in LAST_WORDS]
_ENDED: Final = [state.value for state in ENDED]


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were removed; `surplus` by device, where there were too many of one."""

    events: int
    rollout_devices: int
    surplus: dict[str, int] = {}


class Pruner:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._surplus = Surplus(engine)

    def prune(self, keep: timedelta, now: datetime) -> Pruned:
        """Remove what was taken in before `keep`: steps of updates, and devices of rollouts that are over so long.

        Last words stay, and so does what an update has said that has had none yet, unless it is too much of one
        device, see `Surplus`. How far it got is written down, so that each row is looked at once.
        """
        before = to_db(now - keep)
        removed = devices = 0
        while (batch := self._prune_events(before)) is not None:
            removed += batch
        while batch := self._prune_rollout_devices(before):
            devices += batch
        surplus = {device: self._surplus.remove(device) for device in self._surplus.devices()}
        return Pruned(events=removed, rollout_devices=devices, surplus=surplus)

    def _prune_events(self, before: int) -> int | None:
        """One batch; None where nothing was left to look at."""
        with writing(self._engine) as connection:
            seen = connection.scalar(select(counters.c.value).where(counters.c.name == _PRUNED)) or 0
            some = (
                select(events.c.id, events.c.received_at).where(events.c.id > seen).order_by(events.c.id).limit(BATCH)
            )
            ids = []
            for row in connection.execute(some):
                if row.received_at >= before:
                    break
                ids.append(row.id)
            if not ids:
                return None
            last = events.alias()
            has_ended = exists().where(
                last.c.device == events.c.device,
                # taken in later, as it was said later: so not all of a device's events are gone through for each
                last.c.id > events.c.id,
                last.c.update_id == events.c.update_id,
                last.c.phase.in_(_LAST_WORDS),
            )
            within = events.c.id.between(ids[0], ids[-1])
            count = remove_events(connection, within, events.c.phase.not_in(_LAST_WORDS), has_ended)
            _remember(connection, ids[-1])
            return count

    def _prune_rollout_devices(self, before: int) -> int:
        with reading(self._engine) as connection:
            over = select(rollouts.c.id).where(rollouts.c.state.in_(_ENDED), rollouts.c.changed_at < before)
            old = select(rollout_devices.c.rollout, rollout_devices.c.device).where(
                rollout_devices.c.rollout.in_(over),
                # one that is still at it, as far as is known, may yet say how it went
                func.coalesce(rollout_devices.c.phase, _LAST_WORDS[0]).in_(_LAST_WORDS),
            )
            rows = connection.execute(old.limit(BATCH)).all()
        if not rows:
            return 0
        with writing(self._engine) as connection:
            for row in rows:
                key = (rollout_devices.c.rollout == row.rollout, rollout_devices.c.device == row.device)
                connection.execute(delete(rollout_devices).where(*key))
        return len(rows)


def _remember(connection: Connection, event: int) -> None:
    changed = connection.execute(update(counters).where(counters.c.name == _PRUNED).values(value=event)).rowcount
    if not changed:
        connection.execute(insert_into(connection, counters).values(name=_PRUNED, value=event))
