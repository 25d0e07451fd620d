"""Rollouts in the database: made, changed, evaluated. Every change is announced in the same transaction."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update

from controller.database import reading, to_db, utc_now, writing
from controller.rollouts import announcing
from controller.rollouts.engine import decide
from controller.rollouts.observing import observe, write_verdicts
from controller.rollouts.plan import ENDED, MOVES, Plan, RolloutState
from controller.rollouts.reader import read_rollout
from controller.rollouts.tables import rollouts
from controller.rollouts.views import Rollout
from schemas.errors import OperatorError, one_line
from schemas.ids import uuid7
from schemas.messages import BUCKETS, ReleaseSet, ReleaseState, RolloutPolicy, Targets
from schemas.versions import parse

_OPEN: Final = rollouts.c.state.not_in([state.value for state in ENDED])
"""Of rollouts that are announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a look at a rollout changed. `verdicts` is how many devices have another verdict now."""

    rollout: str
    state: RolloutState
    state_changed: bool
    verdicts: int


class RolloutStore:
    """Synchronous, safe from any thread and from several processes: each change is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        *,
        package: str,
        version: str,
        channel: str,
        repository: Sequence[str],
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
        now: datetime | None = None,
    ) -> Rollout:
        """Ask the devices of a channel to take a release, in place of what the channel announced so far.

        Args:
            package: its name; that the release exists is the caller's to know.
            version: a full version.
            channel: whose devices are asked.
            repository: base URLs, tried in order.
            targets: which of them; all unless given.
            policy: how they may go about it.
            now: the controller's clock.

        Raises:
            PublisherError: `version.bad`.
            OperatorError: `input.bad` for anything that breaks the contract.
        """
        parse(version)
        now = now or utc_now()
        intention = announcing.Intention(
            rollout=_new_id(now),
            package=package,
            version=version,
            channel=channel,
            targets=targets or Targets(),
            policy=policy or RolloutPolicy(),
            repository=list(repository),
        )
        with writing(self._engine) as connection:
            return _begin(connection, intention, now)

    def create_set(
        self,
        *,
        packages: Mapping[str, str],
        channel: str,
        repository: Sequence[str],
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
        now: datetime | None = None,
    ) -> list[Rollout]:
        """As `create`, for several packages (name to version) that devices switch together or not at all.

        Raises:
            PublisherError: `version.bad`.
            OperatorError: `input.bad` for anything that breaks the contract, and for a share of the devices: which
                those are depends on the rollout's id, so each package would mean other ones.
        """
        now = now or utc_now()
        targets, policy = targets or Targets(), policy or RolloutPolicy()
        if targets.upto not in (0, BUCKETS):
            raise OperatorError("input.bad", "a set cannot be for a share of the devices; name devices or conditions")
        if len(packages) < 2:
            raise OperatorError("input.bad", "a set has at least two packages")
        together = msgspec.structs.replace(policy, set=ReleaseSet(id=_new_id(now), packages=dict(packages)))
        with writing(self._engine) as connection:
            made = []
            for package, version in packages.items():
                parse(version)
                intention = announcing.Intention(
                    rollout=_new_id(now),
                    package=package,
                    version=version,
                    channel=channel,
                    targets=targets,
                    policy=together,
                    repository=list(repository),
                )
                made.append(_begin(connection, intention, now))
            return made

    def set_state(self, rollout: str, state: RolloutState, now: datetime | None = None) -> Rollout:
        """Pause, halt, revert or go on with a rollout; asking for the state it is in changes nothing.

        Rollouts that were made as one set change together, those of them that still may.

        Raises:
            OperatorError: `rollout.unknown`, or `rollout.state` where `MOVES` has no such move.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = _row(connection, rollout)
            present = RolloutState(row["state"])
            if state is not present and not (state is RolloutState.ACTIVE and present is RolloutState.COMPLETE):
                if state not in MOVES[present]:
                    possible = ", ".join(sorted(MOVES[present])) or "nothing: it is over, release the package anew"
                    raise OperatorError(
                        "rollout.state",
                        f"rollout {rollout} is {present} and can't become {state}; possible: {possible}",
                    )
                _change(connection, row, state, now)
                _evaluate(connection, rollout, now)
                for other in _others_of_set(connection, row):
                    if state in MOVES[RolloutState(other["state"])]:
                        _change(connection, other, state, now)
                        _evaluate(connection, other["id"], now)
            return read_rollout(connection, rollout)

    def withdraw(self, channel: str, package: str, now: datetime | None = None) -> Rollout:
        """Announce the package on the channel no more; devices keep what they have.

        Raises:
            OperatorError: `rollout.unknown` where the channel announces no such package.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            rollout = announcing.current_rollout(connection, channel, package)
            if rollout is None:
                raise OperatorError(
                    "rollout.unknown", f"channel {one_line(channel)} announces no package {one_line(package)}"
                )
            announcing.withdraw(connection, channel, package, now)
            _set_state(connection, rollout, RolloutState.WITHDRAWN, now)
            _evaluate(connection, rollout, now)
            return read_rollout(connection, rollout)

    def move_repository(self, urls: Sequence[str], now: datetime | None = None) -> int:
        """Announce anew, in the state it is in, every rollout whose devices would fetch from elsewhere.

        All of them or none.

        Args:
            urls: base URLs, tried in order.
            now: the controller's clock.

        Returns:
            How many rollouts were announced anew.

        Raises:
            OperatorError: `input.bad` where an announcement with these URLs breaks the contract, or is too large.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            rows = connection.execute(select(rollouts).where(_OPEN).order_by(rollouts.c.id).with_for_update())
            moving = [row for row in rows.mappings() if _intention(row).repository != list(urls)]
            for row in moving:
                _move(connection, row, list(urls), now)
            return len(moving)

    def evaluate(self, rollout: str, now: datetime | None = None) -> Evaluation | None:
        """Let the engine look at a rollout and keep what it decides; None for one that is not known here."""
        now = now or utc_now()
        with writing(self._engine) as connection:
            return _evaluate(connection, rollout, now)

    def announced(self, channels: set[str] | None = None, *, package: str | None = None) -> list[str]:
        """Ids of the rollouts that are announced now; of all channels or these, of all packages or this one."""
        found = select(rollouts.c.id).where(_OPEN)
        if channels is not None:
            found = found.where(rollouts.c.channel.in_(sorted(channels)))
        if package is not None:
            found = found.where(rollouts.c.package == package)
        with reading(self._engine) as connection:
            return list(connection.scalars(found.order_by(rollouts.c.id)))


def _begin(connection: Connection, intention: announcing.Intention, now: datetime) -> Rollout:
    before = announcing.current_rollout(connection, intention.channel, intention.package)
    revision = announcing.announce(connection, intention, ReleaseState.ACTIVE, now, room=announcing.ROOM)
    if before is not None:
        _set_state(connection, before, RolloutState.SUPERSEDED, now)
        _evaluate(connection, before, now)
    connection.execute(insert(rollouts).values(_values(intention, revision, now)))
    _evaluate(connection, intention.rollout, now)
    return read_rollout(connection, intention.rollout)


def _others_of_set(connection: Connection, row: Any) -> list[Any]:
    """The rollouts that were made together with this one and are still announced."""
    group = _intention(row).policy.set
    if group is None:
        return []
    found = select(rollouts).where(
        _OPEN,
        rollouts.c.channel == row["channel"],
        rollouts.c.package.in_(sorted(group.packages)),
        rollouts.c.id != row["id"],
    )
    rows = connection.execute(found.order_by(rollouts.c.id).with_for_update()).mappings()
    return [other for other in rows if _intention(other).policy.set == group]


def _new_id(now: datetime) -> str:
    return uuid7(to_db(now) // 1000, secrets.token_bytes(10))


def _evaluate(connection: Connection, rollout: str, now: datetime) -> Evaluation | None:
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout).with_for_update()).mappings().first()
    if row is None:
        return None
    state = RolloutState(row["state"])
    targets = msgspec.json.decode(row["targets"], type=Targets)
    policy = msgspec.json.decode(row["policy"], type=RolloutPolicy)
    plan = Plan(rollout=rollout, version=row["version"], state=state, targets=targets, deadline=policy.deadline)
    observed = observe(connection, plan, channel=row["channel"], package=row["package"])
    decisions = decide(plan, observed.observations, now)
    changed = write_verdicts(connection, rollout, observed, decisions.verdicts)
    if decisions.state is not state:
        _change(connection, row, decisions.state, now)
    return Evaluation(
        rollout=rollout, state=decisions.state, state_changed=decisions.state is not state, verdicts=changed
    )


def _change(connection: Connection, row: Any, state: RolloutState, now: datetime) -> None:
    """Set the state of a rollout that is announced, and announce it."""
    _set_state(connection, row["id"], state, now)
    _announce(connection, row, _intention(row), state, now)


def _move(connection: Connection, row: Any, urls: list[str], now: datetime) -> None:
    connection.execute(
        update(rollouts).where(rollouts.c.id == row["id"]).values(repository=msgspec.json.encode(urls).decode())
    )
    intention = msgspec.structs.replace(_intention(row), repository=urls)
    try:
        _announce(connection, row, intention, RolloutState(row["state"]), now)
    except OperatorError as error:
        raise OperatorError(
            error.code, f"rollout {row['id']} of {row['package']} can't be moved to {', '.join(urls)}: {error}"
        ) from error


def _announce(
    connection: Connection, row: Any, intention: announcing.Intention, state: RolloutState, now: datetime
) -> None:
    announced = state.announced
    if announced is None or announcing.current_rollout(connection, row["channel"], row["package"]) != row["id"]:
        raise OperatorError("rollout.state", f"rollout {row['id']} is not what its channel announces")
    revision = announcing.announce(connection, intention, announced, now)
    connection.execute(update(rollouts).where(rollouts.c.id == row["id"]).values(revision=revision))


def _set_state(connection: Connection, rollout: str, state: RolloutState, now: datetime) -> None:
    changed = update(rollouts).where(rollouts.c.id == rollout)
    connection.execute(changed.values(state=state.value, changed_at=to_db(now)))


def _row(connection: Connection, rollout: str) -> Any:
    found = connection.execute(select(rollouts).where(rollouts.c.id == rollout).with_for_update()).mappings().first()
    if found is None:
        raise OperatorError("rollout.unknown", f"there is no rollout {one_line(rollout)}")
    return found


def _values(intention: announcing.Intention, revision: int, now: datetime) -> dict[str, Any]:
    return {
        "id": intention.rollout,
        "package": intention.package,
        "version": intention.version,
        "channel": intention.channel,
        "state": RolloutState.ACTIVE.value,
        "targets": msgspec.json.encode(intention.targets).decode(),
        "policy": msgspec.json.encode(intention.policy).decode(),
        "repository": msgspec.json.encode(intention.repository).decode(),
        "revision": revision,
        "created_at": to_db(now),
        "changed_at": to_db(now),
    }


def _intention(row: Any) -> announcing.Intention:
    return announcing.Intention(
        rollout=row["id"],
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        targets=msgspec.json.decode(row["targets"], type=Targets),
        policy=msgspec.json.decode(row["policy"], type=RolloutPolicy),
        repository=msgspec.json.decode(row["repository"], type=list[str]),
    )
