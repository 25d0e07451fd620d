"""The beginning of a rollout: it takes its topic over, in one revision, with whom its first wave means."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select

from controller.database import to_db
from controller.fleet.sql import map_of
from controller.fleet.tables import devices
from controller.rollouts import announcing
from controller.rollouts.drawing import drawn
from controller.rollouts.engine import decide
from controller.rollouts.evaluating import current_row, move, row_of
from controller.rollouts.keeping import stamp_of, values_of
from controller.rollouts.naming import strangers
from controller.rollouts.observing import observe, write_marks
from controller.rollouts.plan import Observation, Plan, RolloutState, WaveProgress
from controller.rollouts.reader import read_rollout
from controller.rollouts.standing import Standing
from controller.rollouts.tables import rollouts
from controller.rollouts.views import Rollout
from controller.rollouts.waves import MAX_IDS, RolloutPlan
from schemas.errors import OperatorError
from schemas.ids import uuid7
from schemas.messages import BUCKETS, ReleaseSet, RolloutPolicy, Targets
from schemas.targeting import where_holds
from schemas.versions import parse

_ADD: Final = insert(rollouts)


def begin(
    connection: Connection, intention: announcing.Intention, wanted: RolloutPlan, now: datetime
) -> tuple[Rollout, Standing]:
    """Make a rollout, in place of the one that its topic told of.

    Args:
        connection: in a writing transaction.
        intention: what to announce; its targets are whom the rollout is for at all.
        wanted: in which waves.
        now: the controller's clock.

    Returns:
        The rollout, and what became of its devices so far: the first look need not read them all again.

    Raises:
        OperatorError: `input.bad` where an announcement of it, now or later, breaks the contract; `device.unknown`
            where it, or one of its waves, names only devices that were never heard of.
    """
    intention = msgspec.structs.replace(intention, policy=_merged(intention.policy, wanted))
    plan = Plan(
        rollout=intention.rollout,
        version=intention.version,
        state=RolloutState.ACTIVE,
        base=intention.targets,
        plan=wanted,
        progress=tuple(WaveProgress() for _ in wanted.waves),
        not_before=intention.policy.not_before,
        deadline=intention.policy.deadline,
    )
    before = current_row(connection, intention.channel, intention.package)
    observed = observe(connection, plan, channel=intention.channel, package=intention.package)
    plan = replace(plan, rollout=drawn(plan, observed.observations, now, lambda: new_id(now)))
    intention = msgspec.structs.replace(intention, rollout=plan.rollout)
    _check_last_announcement(intention, plan, observed.observations, now)
    strangers(connection, intention.targets, wanted)
    decisions = decide(plan, observed.observations, now)
    plan = decisions.plan
    state = plan.state.announced
    if state is None:
        raise OperatorError("rollout.state", "a new rollout is always announced")
    intention = msgspec.structs.replace(intention, targets=plan.targets)
    revision = announcing.announce(connection, intention, state, now, room=announcing.ROOM)
    if before is not None:
        move(connection, before, RolloutState.SUPERSEDED, now)
    connection.execute(_ADD, values_of(intention, plan, revision, now))
    write_marks(connection, plan.rollout, observed, decisions.marks)
    standing = Standing(stamp_of(row_of(connection, plan.rollout)), plan, decisions.marks)
    made = read_rollout(connection, plan.rollout)
    if before is not None and before["state"] == RolloutState.ACTIVE.value:
        made = msgspec.structs.replace(made, instead_of=before["id"])
    return made, standing


def intentions_of_set(
    packages: Mapping[str, str],
    *,
    channel: str,
    repository: Sequence[str],
    targets: Targets,
    policy: RolloutPolicy,
    now: datetime,
) -> list[announcing.Intention]:
    """What to announce of each package (name to version) of a set, in the order of their names.

    Raises:
        PublisherError: `version.bad`.
        OperatorError: `input.bad` for a share of the devices, or for a single package.
    """
    if targets.upto not in (0, BUCKETS):
        raise OperatorError("input.bad", "a set cannot be for a share of the devices; name devices or conditions")
    if len(packages) < 2:
        raise OperatorError("input.bad", "a set has at least two packages")
    together = msgspec.structs.replace(policy, set=ReleaseSet(id=new_id(now), packages=dict(packages)))
    intentions = []
    for package, version in sorted(packages.items()):  # whatever order the sets have that are made at once
        parse(version)
        intentions.append(
            announcing.Intention(
                rollout=new_id(now),
                package=package,
                version=version,
                channel=channel,
                targets=targets,
                policy=together,
                repository=list(repository),
            )
        )
    return intentions


def meant(connection: Connection, channel: str, targets: Targets) -> int:
    """How many devices of a channel a release is for: those that it names and its share of the others.

    Whom it leaves out, and who does not meet its conditions, counts nowhere. Which devices a share is depends on the
    rollout's id, so it is counted and not drawn.
    """
    known = devices.c
    found = select(known.id, *([known.tags, known.facts] if targets.where else [])).where(known.channel == channel)
    left_out = frozenset(targets.exclude)
    fitting = {
        row["id"] for row in connection.execute(found).mappings() if row["id"] not in left_out and _fits(targets, row)
    }
    named = len(fitting & {*targets.devices})
    return named + _share(len(fitting) - named, targets.upto)


def _share(number: int, upto: int) -> int:
    """So many buckets of a number of devices, rounded up."""
    return -(-number * upto // BUCKETS)


def _fits(targets: Targets, row: Any) -> bool:
    if not targets.where:
        return True
    return where_holds(targets.where, tags=map_of(row["tags"]), facts=map_of(row["facts"]))


def new_id(now: datetime) -> str:
    """The id of a rollout that begins now."""
    return uuid7(to_db(now) // 1000, secrets.token_bytes(10))


def _merged(policy: RolloutPolicy, wanted: RolloutPlan) -> RolloutPolicy:
    """The policy, with what the plan says where the policy says nothing."""
    return msgspec.structs.replace(
        policy,
        jitter_s=policy.jitter_s or wanted.jitter_s,
        window=policy.window or wanted.window,
        not_before=policy.not_before or wanted.not_before,
    )


def _check_last_announcement(
    intention: announcing.Intention, plan: Plan, seen: list[Observation], now: datetime
) -> None:
    """Refuse now what could not be announced when the last wave begins.

    Raises:
        OperatorError: `input.bad`.
    """
    ids = set(plan.base.devices)
    for number, wave in enumerate(plan.waves, start=1):
        if isinstance(wave.devices, list):
            ids.update(wave.devices)
        if wave.where is not None:
            ids.update(one.device for one in seen if where_holds(wave.where, tags=one.tags, facts=one.facts))
        if len(ids) > MAX_IDS:
            raise OperatorError(
                "input.bad",
                f"wave {number} ({wave.share}) makes it {len(ids)} devices that must be listed by id, and an"
                f" announcement can list {MAX_IDS}; use upto, or more channels",
            )
    largest = msgspec.structs.replace(plan.base, devices=sorted(ids))
    announcing.check(msgspec.structs.replace(intention, targets=largest), now)
