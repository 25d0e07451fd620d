"""The devices of a rollout, as the page lists them."""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, and_, select

from controller.database import from_db, reading
from controller.fleet.apart import apart_of
from controller.fleet.tables import desired, devices, events
from controller.fleet.views import Deferral, KeptEvent, deferral_of, kept_event
from controller.rollouts.excluding import left_out_by_name
from controller.rollouts.explaining import WHY_LEFT_OUT, reason
from controller.rollouts.holding import is_owners
from controller.rollouts.phases import LEFT_OUT, PHASES, Look, look_of, with_code
from controller.rollouts.plan import RolloutState, Verdict
from controller.rollouts.reader import Standing, in_newer, told_since
from controller.rollouts.tables import rollout_asks, rollout_devices, rollouts
from schemas.messages import Phase, Verb

_word: Final = rollout_devices.c


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout, as a list shows it.

    Attributes:
        reason: why it is held or left out, or that it is away; empty for any other.
        message: what it said of its error; empty for any other.
        newer: the rollout that took this one's place before the device had begun, and means it; None otherwise.
        newer_look: how it stands there.
        waits: why it is deferred, and until when; None for any other.
    """

    device: str
    look: Look
    online: bool
    from_version: str | None
    at: datetime | None
    code: str | None
    bytes_done: int | None
    bytes_total: int | None
    wire_bytes: int | None
    reason: str = ""
    message: str = ""
    newer: str | None = None
    newer_look: Look | None = None
    waits: Deferral | None = None


def device_rows(
    engine: Engine, rollout: str, *, code: str = "", only: str | None = None, after: str = "", limit: int = 50
) -> list[DeviceRow]:
    """Devices of a rollout, and those that it leaves out by name, by id; blocks.

    Args:
        code: only those that are shown by this letter; all for an empty one.
        only: this one device.
        after: the last id of the page before.
        limit: at most this many.
    """
    found = (
        select(rollout_devices, devices.c.online, desired.c.payload.label("told"), rollouts.c.package, rollouts.c.state)
        .join(rollouts, rollouts.c.id == _word.rollout)
        .add_columns(rollout_asks.c.verb.label("asked"), told_since())
        .outerjoin(devices, devices.c.id == _word.device)
        .outerjoin(desired, desired.c.device == _word.device)
        .outerjoin(rollout_asks, and_(rollout_asks.c.rollout == _word.rollout, rollout_asks.c.device == _word.device))
        .where(_word.rollout == rollout, _word.device > after)
    )
    if code:
        found = found.where(with_code(code))
    if only is not None:
        found = found.where(_word.device == only)
    with reading(engine) as connection:
        rows = connection.execute(found.order_by(_word.device).limit(limit)).mappings().all()
        not_begun = [row["device"] for row in rows if row["verdict"] == Verdict.ENDED.value]
        newer = in_newer(connection, rollout, not_begun)
        told = [row["device"] for row in rows if row["phase"] == Phase.DEFERRED.value or row["error_code"]]
        last = _last_words(connection, rollout, told)
        # they have no cell, and so no letter that they are shown by
        out = {} if code or only is not None else left_out_by_name(connection, rollout)
    listed = [_row(row, newer.get(row["device"]), last.get(row["device"])) for row in rows]
    listed += [_left_out(device, online=online) for device, online in out.items() if device > after]
    return sorted(listed, key=lambda one: one.device)[:limit]


def _last_words(connection: Connection, rollout: str, some: list[str]) -> dict[str, KeptEvent]:
    """What devices said last, for why they are deferred or what went wrong: read only for those that are shown."""
    if not some:
        return {}
    latest = and_(events.c.device == _word.device, events.c.life == _word.life, events.c.seq == _word.seq)
    said = select(events.c.payload).select_from(rollout_devices).join(events, latest)
    found = map(kept_event, connection.scalars(said.where(_word.rollout == rollout, _word.device.in_(some))))
    return {event.device: event for event in found}


def _row(row: Any, newer: Standing | None, last: KeptEvent | None) -> DeviceRow:
    waits = deferral_of(last) if last else None
    apart, look = apart_of(row["told"]), look_of(row["verdict"], row["phase"])
    verdict = Verdict(row["verdict"]) if row["verdict"] else None
    owners = waits if not row["told_since"] and is_owners(verdict, waits) else None
    return DeviceRow(
        device=row["device"],
        look=look,
        online=bool(row["online"]),
        from_version=row["from_version"],
        at=None if row["at"] is None else from_db(row["at"]),
        code=row["error_code"],
        bytes_done=row["bytes_done"],
        bytes_total=row["bytes_total"],
        wire_bytes=row["wire_bytes"],
        reason=reason(
            verdict,
            RolloutState(row["state"]),
            pinned=apart.pinned(row["package"]),
            hold=bool(apart.hold),
            leaves=row["asked"] == Verb.CANCEL,
            online=bool(row["online"]),
            waits=owners,
        ),
        message=last.error.message if last and last.error else "",
        newer=newer.rollout if newer else None,
        newer_look=look_of(newer.verdict, newer.phase) if newer else None,
        waits=waits if look is PHASES[Phase.DEFERRED] and owners is None else None,
    )


def _left_out(device: str, *, online: bool) -> DeviceRow:
    return DeviceRow(
        device=device,
        look=LEFT_OUT,
        online=online,
        from_version=None,
        at=None,
        code=None,
        bytes_done=None,
        bytes_total=None,
        wire_bytes=None,
        reason=WHY_LEFT_OUT,
    )
