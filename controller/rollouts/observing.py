"""Observations for the engine out of the database, and the verdicts back into it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, or_, select

from controller.database import from_db
from controller.fleet.sql import insert_into
from controller.fleet.tables import desired, device_packages, devices
from controller.rollouts.plan import ENDED, Observation, Plan, Verdict
from controller.rollouts.tables import rollout_devices
from schemas.messages import Phase


class _Pins(msgspec.Struct, frozen=True):
    pins: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """Observations, and the verdict that each device has in the database so far, if it has a row there."""

    observations: list[Observation]
    before: Mapping[str, str | None]


def observe(connection: Connection, plan: Plan, *, channel: str, package: str) -> Observed:
    """What is known of every device that the rollout may concern.

    Those are the devices of its channel and whoever said something about it. Once the channel announces
    something else, it concerns only those whom it concerned till then.
    """
    word, there, told = rollout_devices.c, device_packages.c, desired.c
    joined = (
        devices.outerjoin(rollout_devices, and_(word.rollout == plan.rollout, word.device == devices.c.id))
        .outerjoin(device_packages, and_(there.package == package, there.device == devices.c.id))
        .outerjoin(desired, told.device == devices.c.id)
    )
    found = select(
        devices.c.id,
        devices.c.last_seen,
        devices.c.channel,
        word.device.label("concerned"),
        word.phase,
        word.verdict,
        there.version.label("installed"),
        there.phase.label("installed_phase"),
        told.payload.label("told"),
        *([devices.c.tags, devices.c.facts] if plan.targets.where else []),
    ).select_from(joined)
    over = plan.state in ENDED
    found = found.where(
        word.device.is_not(None) if over else or_(devices.c.channel == channel, word.device.is_not(None))
    )
    rows = connection.execute(found).mappings().all()
    return Observed(
        observations=[_observation(row, package) for row in rows if over or row["channel"] == channel or row["phase"]],
        before={row["id"]: row["verdict"] for row in rows if row["concerned"]},
    )


def _observation(row: Any, package: str) -> Observation:
    return Observation(
        device=row["id"],
        phase=Phase(row["phase"]) if row["phase"] else None,
        installed=row["installed"],
        installed_phase=Phase(row["installed_phase"]) if row["installed_phase"] else None,
        pinned=_pin(row["told"], package),
        last_seen=from_db(row["last_seen"]),
        tags=msgspec.json.decode(row["tags"]) if row.get("tags") else {},
        facts=msgspec.json.decode(row["facts"]) if row.get("facts") else {},
    )


def _pin(told: str | None, package: str) -> str | None:
    if told is None:
        return None
    return (msgspec.json.decode(told, type=_Pins).pins or {}).get(package)


def write_verdicts(connection: Connection, rollout: str, observed: Observed, verdicts: Mapping[str, Verdict]) -> int:
    """Keep the verdicts, touching only rows that differ; returns how many did.

    A device that is not meant, and has said nothing, has no row.
    """
    wanted = {device: verdict.value for device, verdict in verdicts.items() if verdict is not Verdict.NOT_MEANT}
    changed = [
        {"rollout": rollout, "device": device, "verdict": verdict, "life": 0, "seq": 0}
        for device, verdict in sorted(wanted.items())
        if device not in observed.before or observed.before[device] != verdict
    ]
    if changed:
        statement = insert_into(connection, rollout_devices)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[rollout_devices.c.rollout, rollout_devices.c.device],
                set_={"verdict": statement.excluded.verdict},
            ),
            changed,
        )
    gone = sorted(observed.before.keys() - wanted.keys())
    for device in gone:
        connection.execute(
            delete(rollout_devices).where(
                rollout_devices.c.rollout == rollout,
                rollout_devices.c.device == device,
                rollout_devices.c.phase.is_(None),
            )
        )
    return len(changed) + len(gone)
