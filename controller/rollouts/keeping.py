"""A rollout's row: from the database to the engine's plan, and what became of it back."""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, update

from controller.database import from_db, to_db
from controller.rollouts.announcing import Intention
from controller.rollouts.plan import Plan, RolloutState, WaveProgress
from controller.rollouts.tables import rollouts
from controller.rollouts.waves import ALL_AT_ONCE, RolloutPlan
from schemas.messages import RolloutPolicy, Targets

_MOVING: Final = ("state", "base", "targets", "progress", "stopped")
_OF_ROLLOUT: Final = update(rollouts).where(rollouts.c.id == bindparam("rollout"))
_SAVE: Final = _OF_ROLLOUT.values({name: bindparam(f"new_{name}") for name in _MOVING})
_SAVE_STATE: Final = _OF_ROLLOUT.values(
    {name: bindparam(f"new_{name}") for name in (*_MOVING, "changed_at", "changed_by")}
)


def plan_of(row: Any) -> Plan:
    """The rollout as the engine knows it. One from before there were plans has one wave, which has begun."""
    targets = msgspec.json.decode(row["targets"], type=Targets)
    policy = msgspec.json.decode(row["policy"], type=RolloutPolicy)
    if row["progress"] is None:
        progress = [
            WaveProgress(started_at=from_db(row["created_at"]), upto=targets.upto, devices=sorted(targets.devices))
        ]
    else:
        progress = msgspec.json.decode(row["progress"], type=list[WaveProgress])
    return Plan(
        rollout=row["id"],
        version=row["version"],
        state=RolloutState(row["state"]),
        base=msgspec.json.decode(row["base"], type=Targets) if row["base"] else targets,
        plan=msgspec.json.decode(row["plan"], type=RolloutPlan) if row["plan"] else ALL_AT_ONCE,
        progress=tuple(progress),
        stopped=row["stopped"] or "",
        not_before=policy.not_before,
        deadline=policy.deadline,
    )


def awaits_approval(row: Any) -> bool:
    """Whether its next wave waits for a person to say go, by the row alone: a list has no device looked at for it.

    A wave that had proven enough and does not any more counts as proven here; whoever shows the rollout itself looks.

    Args:
        row: with `state`, `plan` and `progress`; the latter two may be left out of one that is not active.
    """
    if row["state"] != RolloutState.ACTIVE.value or row["plan"] is None or row["progress"] is None:
        return False
    waves = msgspec.json.decode(row["plan"], type=RolloutPlan).waves
    progress = msgspec.json.decode(row["progress"], type=list[WaveProgress])
    begun = [one for one in progress if one.started_at is not None]
    following = len(begun)
    if following >= len(waves) or not progress[following].lacks_approval(waves[following]):
        return False
    return all(one.proven_at is not None for one in begun)


def stamp_of(row: Any) -> tuple[object, ...]:
    """Tells one state of a rollout from another: as long as it is the same, the same marks hold."""
    return tuple(row[name] for name in ("state", "base", "plan", "progress", "stopped", "policy", "targets"))


def intention_of(row: Any) -> Intention:
    """What its topic is to say."""
    return Intention(
        rollout=row["id"],
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        targets=msgspec.json.decode(row["targets"], type=Targets),
        policy=msgspec.json.decode(row["policy"], type=RolloutPolicy),
        repository=msgspec.json.decode(row["repository"], type=list[str]),
    )


def values_of(intention: Intention, plan: Plan, revision: int, now: datetime) -> dict[str, Any]:
    """A new row."""
    return {
        "id": intention.rollout,
        "package": intention.package,
        "version": intention.version,
        "channel": intention.channel,
        "policy": text_of(intention.policy),
        "repository": text_of(intention.repository),
        "revision": revision,
        "created_at": to_db(now),
        "changed_at": to_db(now),
        "plan": text_of(plan.plan),
        **_moving(plan),
    }


def save(connection: Connection, row: Any, plan: Plan, now: datetime, by: str | None) -> None:
    """Keep how far a rollout is; `by` is who gave it another state, if it has one and somebody did."""
    about = {"rollout": plan.rollout, **{f"new_{name}": value for name, value in _moving(plan).items()}}
    if plan.state.value == row["state"]:
        connection.execute(_SAVE, about)
    else:
        connection.execute(_SAVE_STATE, about | {"new_changed_at": to_db(now), "new_changed_by": by})


def text_of(value: Any) -> str:
    """JSON."""
    return msgspec.json.encode(value).decode()


def _moving(plan: Plan) -> dict[str, Any]:
    """As `_MOVING`."""
    return {
        "state": plan.state.value,
        "base": text_of(plan.base),
        "targets": text_of(plan.targets),
        "progress": text_of(list(plan.progress)),
        "stopped": plan.stopped or None,
    }
