"""Rollouts in the database: made, changed, evaluated. Every change is announced in the same transaction."""

import contextlib
import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, Select, bindparam, select

from controller.database import reading, to_db, utc_now, writing
from controller.rollouts import announcing
from controller.rollouts.beginning import begin, intentions_of_set, meant, new_id
from controller.rollouts.engine import approved
from controller.rollouts.evaluating import Evaluation, current_row, look, move, settle
from controller.rollouts.keeping import plan_of
from controller.rollouts.plan import MOVES, RolloutState
from controller.rollouts.plan_files import default_plan
from controller.rollouts.reader import read_rollout
from controller.rollouts.relocating import relocate
from controller.rollouts.standing import Standing, Standings, Words
from controller.rollouts.tables import rollouts
from controller.rollouts.taking_back import cancel_all, cancel_device, note_cancel, retry
from controller.rollouts.together import OPEN, lock_all, locked, others_of_set, turn
from controller.rollouts.views import Rollout, WaveState
from controller.rollouts.waves import ALL_AT_ONCE, RolloutPlan, check_plan
from schemas.errors import OperatorError, one_line
from schemas.messages import RolloutPolicy, Targets
from schemas.versions import parse

__all__ = ["Evaluation", "RolloutStore"]

_ANNOUNCED: Final = select(rollouts.c.id).where(OPEN).order_by(rollouts.c.id)
_ON_CHANNEL: Final = _ANNOUNCED.where(rollouts.c.channel == bindparam("channel"))
_OF_PACKAGE: Final = _ANNOUNCED.where(rollouts.c.package == bindparam("package"))
_CHANGED_WITH: Final = (
    select(rollouts.c.id)
    .where(
        rollouts.c.channel == bindparam("channel"),
        rollouts.c.changed_at == bindparam("at"),
        rollouts.c.id != bindparam("not_this"),
    )
    .order_by(rollouts.c.id)
)


class RolloutStore:
    """Synchronous, safe from any thread and from several processes: each change is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._standings = Standings()
        self._looking = threading.Lock()

    def create(
        self,
        *,
        package: str,
        version: str,
        channel: str,
        repository: Sequence[str],
        targets: Targets | None = None,
        policy: RolloutPolicy | None = None,
        plan: RolloutPlan | None = None,
        now: datetime | None = None,
    ) -> Rollout:
        """Ask the devices of a channel to take a release, in place of what the channel announced so far.

        Args:
            package: its name; that the release exists is the caller's to know.
            version: a full version.
            channel: whose devices are asked.
            repository: base URLs, tried in order.
            targets: which of them; all unless given.
            policy: how they may go about it; what the plan says of that goes where this says nothing.
            plan: in which waves; unless given, by the number of devices that the release is for.
            now: the controller's clock.

        Raises:
            PublisherError: `version.bad`.
            OperatorError: `input.bad` for anything that breaks the contract, and for a plan that cannot be;
                `device.unknown` where it, or a wave, names only devices that were never heard of.
        """
        parse(version)
        if plan is not None:
            check_plan(plan)
        now = now or utc_now()
        intention = announcing.Intention(
            rollout=new_id(now),
            package=package,
            version=version,
            channel=channel,
            targets=targets or Targets(),
            policy=policy or RolloutPolicy(),
            repository=list(repository),
        )
        with self._looking:
            with writing(self._engine) as connection:
                waves = plan or default_plan(meant(connection, channel, intention.targets))
                rollout, standing = begin(connection, intention, waves, now)
            self._keep_new(rollout, standing)
        return rollout

    def _keep_new(self, rollout: Rollout, standing: Standing) -> None:
        """Spare the first look at a new rollout the reading of its devices.

        Only where nobody else wrote since they were read for it: elsewhere the intake may have taken something in
        that asked for no look, because the rollout was not there yet.
        """
        if self._engine.dialect.name == "sqlite":
            self._standings.keep(rollout.id, standing)

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
        intentions = intentions_of_set(
            packages,
            channel=channel,
            repository=repository,
            targets=targets or Targets(),
            policy=policy or RolloutPolicy(),
            now=now,
        )
        made = {}
        with self._looking:
            with writing(self._engine) as connection:
                replaced = (announcing.current_rollout(connection, channel, package) for package in packages)
                lock_all(connection, filter(None, replaced))
                begun = [begin(connection, intention, ALL_AT_ONCE, now) for intention in intentions]
            for rollout, standing in begun:
                self._keep_new(rollout, standing)
                made[rollout.package] = rollout
        return [made[package] for package in packages]

    def set_state(
        self, rollout: str, state: RolloutState, now: datetime | None = None, *, by: str | None = None
    ) -> Rollout:
        """Pause, halt, revert or go on with a rollout; asking for the state it is in changes nothing (`already`).

        Rollouts that were made as one set change together, those of them that still may. `by` is who wants it, as the
        audit log names them.

        Raises:
            OperatorError: `rollout.unknown`, or `rollout.state` where `MOVES` has no such move.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = locked(connection, rollout)
            turn(connection, row, state, now, by)
            if state is RolloutState.ACTIVE:
                for one in (row, *others_of_set(connection, row)):
                    note_cancel(connection, one["id"], None)
            return read_rollout(connection, rollout)

    def cancel(
        self, rollout: str, device: str | None = None, now: datetime | None = None, *, by: str | None = None
    ) -> Rollout:
        """Ask devices to stop: all of them, which halts the rollout, or one, which it leaves out from now on.

        Rollouts that were made as one set are cancelled together. What is asked is done when the devices say so. `by`
        as for `set_state`.

        Raises:
            OperatorError: `rollout.unknown`, `device.unknown`; `rollout.state` where there is nothing to cancel.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = locked(connection, rollout)
            others = others_of_set(connection, row)
            if device is None:
                turn(connection, row, RolloutState.HALTED, now, by)
                for one in (row, *others):
                    cancel_all(connection, one["id"], now)
            else:
                cancel_device(connection, row, device, now)
                for one in others:
                    with contextlib.suppress(OperatorError):  # it may be over there already
                        cancel_device(connection, one, device, now)
            changed = read_rollout(connection, rollout)
        self._forget(row, others)
        return changed

    def retry(self, rollout: str, device: str | None = None, now: datetime | None = None) -> Rollout:
        """Have devices on which the rollout ended badly, or one of them, try again; their verdicts are open again.

        Returns:
            The rollout, with the number of devices as its `asked`.

        Raises:
            OperatorError: `rollout.unknown`, `device.unknown`; `rollout.state` where nobody may start, or nothing
                ended badly.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = locked(connection, rollout)
            others = others_of_set(connection, row)
            asked = len(retry(connection, row, device, now))
            for one in others:
                with contextlib.suppress(OperatorError):  # it may have gone well there
                    retry(connection, one, device, now)
            changed = msgspec.structs.replace(read_rollout(connection, rollout), asked=asked)
        self._forget(row, others)
        return changed

    def forget_device(self, device: str) -> None:
        """It was removed from the database."""
        with self._looking:
            self._standings.forget(device)

    def _forget(self, row: Any, others: Sequence[Any]) -> None:
        """What was known of these rollouts' devices in memory does not hold any more."""
        with self._looking:
            for one in (row, *others):
                self._standings.drop(one["id"])

    def approve(self, rollout: str, now: datetime | None = None) -> Rollout:
        """Say go: the next wave may begin.

        Raises:
            OperatorError: `rollout.unknown`, or `rollout.state` where it does not wait for that.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = locked(connection, rollout)
            before = plan_of(row)
            if before.state is not RolloutState.ACTIVE:
                paused = RolloutState.ACTIVE in MOVES[before.state]
                how = "; resume it first" if paused else ": it waits for nobody"
                raise OperatorError("rollout.state", f"rollout {rollout} is {before.state}{how}")
            view = read_rollout(connection, rollout)
            plan = approved(before, now)
            if plan is None or view.waves[before.begun].state is not WaveState.AWAITING_APPROVAL:
                raise OperatorError(
                    "rollout.state", f"rollout {rollout} does not wait for anybody to say go: {view.because}"
                )
            settle(connection, row, plan, now, before=before)
            return read_rollout(connection, rollout)

    def withdraw(self, channel: str, package: str, now: datetime | None = None, *, by: str | None = None) -> Rollout:
        """Announce the package on the channel no more; devices keep what they have. `by` as for `set_state`.

        Raises:
            OperatorError: `rollout.unknown` where the channel announces no such package.
        """
        now = now or utc_now()
        with writing(self._engine) as connection:
            row = current_row(connection, channel, package)
            if row is None:
                raise OperatorError(
                    "rollout.unknown", f"channel {one_line(channel)} announces no package {one_line(package)}"
                )
            announcing.withdraw(connection, channel, package, now)
            move(connection, row, RolloutState.WITHDRAWN, now, by=by)
            return read_rollout(connection, row["id"])

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
            return relocate(connection, urls, now)

    def evaluate(self, rollout: str, now: datetime | None = None, *, changed: Words | None = None) -> Evaluation | None:
        """Let the engine look at a rollout and keep what it decides; None for one that is not known here.

        Args:
            rollout: its id.
            now: the controller's clock.
            changed: the devices that were heard of since the last look here, see `standing.Words`; None for anybody,
                which reads them all.
        """
        now = now or utc_now()
        with self._looking:
            try:
                with writing(self._engine) as connection:
                    found = look(connection, rollout, now, standing=self._standings.get(rollout), changed=changed)
            except BaseException:
                # it may know of what was not committed
                self._standings.drop(rollout)
                raise
            if found is None:
                return None
            evaluation, standing = found
            self._standings.keep(rollout, standing)
            return evaluation

    def to_look_at(self, devices: Collection[str], now: datetime) -> dict[str, set[str]]:
        """Rollouts that something may have changed in since their last look, with the devices that it may be.

        Args:
            devices: those that were heard of.
            now: the controller's clock; what time alone changes is found without naming the devices.
        """
        with self._looking:
            found = self._standings.listening(devices) if devices else {}
            return found | {rollout: found.get(rollout, set()) for rollout in self._standings.due(now)}

    def next_due(self) -> datetime | None:
        """When time alone may change something in a rollout that was looked at."""
        with self._looking:
            return self._standings.next_due()

    def asking(self) -> dict[str, set[str]]:
        """Rollouts with the devices of which a word would decide something: they are to be asked to report."""
        with self._looking:
            return self._standings.asking()

    def unseen(self) -> list[str]:
        """Rollouts that are announced and of which nothing is known from an earlier look."""
        announced = self.announced()
        with self._looking:
            return [rollout for rollout in announced if rollout not in self._standings]

    def changed_with(self, rollout: Rollout, at: datetime) -> list[Rollout]:
        """The others of its channel whose state changed at the same moment: what it replaced, and others of its set."""
        about = {"channel": rollout.channel, "at": to_db(at), "not_this": rollout.id}
        with reading(self._engine) as connection:
            return [read_rollout(connection, other) for other in connection.scalars(_CHANGED_WITH, about).all()]

    def announced(self) -> list[str]:
        """Ids of the rollouts that are announced now."""
        return self._ids(_ANNOUNCED)

    def announced_on(self, channel: str) -> list[str]:
        """As `announced`, on this channel."""
        return self._ids(_ON_CHANNEL, channel=channel)

    def announced_of(self, package: str) -> list[str]:
        """As `announced`, of this package."""
        return self._ids(_OF_PACKAGE, package=package)

    def _ids(self, question: Select[tuple[str]], **about: str) -> list[str]:
        with reading(self._engine) as connection:
            return list(connection.scalars(question, about))
