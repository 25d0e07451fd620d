"""Has the engine look at one rollout, and keeps what it decides: verdicts, how far it is, and what is announced."""

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, select, update

from controller.database import from_db
from controller.rollouts import announcing
from controller.rollouts.engine import by_counts, decide, resumed
from controller.rollouts.explaining import REMEMBERED, how_it_was
from controller.rollouts.judging import Judge
from controller.rollouts.keeping import intention_of, plan_of, save, stamp_of
from controller.rollouts.observing import Observed, drop_unknown, observe, write_marks
from controller.rollouts.plan import ENDED, Plan, RolloutState
from controller.rollouts.reader import view_of
from controller.rollouts.standing import Standing, Words
from controller.rollouts.tables import rollouts
from controller.rollouts.tally import Tally
from controller.rollouts.views import Rollout
from schemas.errors import OperatorError

_ROW: Final = select(rollouts).where(rollouts.c.id == bindparam("rollout")).with_for_update()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a look at a rollout changed.

    Attributes:
        state_changed: whether it has another state; `announced` whether its topic says something else.
        verdicts: how many devices have another verdict now.
        view: the rollout as it is now.
    """

    rollout: str
    state: RolloutState
    state_changed: bool
    announced: bool
    verdicts: int
    view: Rollout


def look(
    connection: Connection,
    rollout: str,
    now: datetime,
    *,
    standing: Standing | None = None,
    changed: Words | None = None,
) -> tuple[Evaluation, Standing] | None:
    """Let the engine look at a rollout; None for one that is not known here.

    Args:
        connection: in a writing transaction.
        rollout: its id.
        now: the controller's clock.
        standing: of the last look, if there was one.
        changed: the devices that changed since then, see `standing.Words`; None for anybody.
    """
    row = row_of(connection, rollout)
    if row is None:
        return None
    number = 0
    if standing is not None and changed is not None and standing.stamp == stamp_of(row):
        number = _look_at_some(connection, row, standing, standing.to_judge(changed) | standing.take_due(now), now)
        plan = by_counts(standing.plan, standing.tally, now)
        if plan == standing.plan:
            return _told(connection, row, row, standing, number), standing
        # where that can't be announced, `settle` says what becomes of it
        with contextlib.suppress(OperatorError):
            if plan is not None:
                return _told(connection, row, _moved(connection, row, standing, plan, now), standing, number), standing
    plan = plan_of(row)
    evaluation, standing = settle(connection, row, plan, now, before=plan)
    return replace(evaluation, verdicts=evaluation.verdicts + number), standing


def settle(
    connection: Connection,
    row: Any,
    plan: Plan,
    now: datetime,
    *,
    before: Plan,
    by: str | None = None,
    observed: Observed | None = None,
) -> tuple[Evaluation, Standing]:
    """Have the engine decide on everything it knows of a rollout, keep that, and announce what is new.

    Args:
        connection: in a writing transaction.
        row: of the rollout, as it is in the database.
        plan: the rollout as it is to be: as it was, or as an operator wants it.
        now: the controller's clock.
        before: as the row has it.
        by: who wants it so, as the audit log names them; None for the engine.
        observed: its devices, where they are known already.
    """
    if observed is None:
        observed = observe(connection, plan, channel=row["channel"], package=row["package"])
    decisions = decide(plan, observed.observations, now)
    try:
        _keep(connection, row, decisions.plan, now, before=before, by=by)
    except OperatorError as error:
        if plan is not before:
            raise
        # what the engine wants cannot be announced: that must be seen, and not come again with every look
        stopped = replace(plan, state=RolloutState.PAUSED, stopped=str(error))
        decisions = decide(stopped, observed.observations, now)
        _keep(connection, row, decisions.plan, now, before=before, by=None)
    number = write_marks(connection, plan.rollout, observed, decisions.marks)
    after = row_of(connection, plan.rollout)
    standing = Standing(stamp_of(after), decisions.plan, decisions.marks)
    return _told(connection, row, after, standing, number), standing


def _moved(connection: Connection, row: Any, standing: Standing, plan: Plan, now: datetime) -> Any:
    """Keep how far a rollout is whose devices are as the standing has them; returns its row as it is then."""
    _keep(connection, row, plan, now, before=standing.plan, by=None)
    after = row_of(connection, plan.rollout)
    standing.plan, standing.stamp = plan, stamp_of(after)
    return after


def move(connection: Connection, row: Any, state: RolloutState, now: datetime, *, by: str | None = None) -> None:
    """Give a rollout the state that an operator or a newer rollout wants.

    Going on forgives what the engine stopped it for. One that is over remembers who had stopped it, when and why.
    """
    before, observed = plan_of(row), None
    plan = replace(before, state=state)
    # of one that was not stopped there is nothing to remember, and so nobody to ask for
    if state is RolloutState.ACTIVE or (state in ENDED and before.state in REMEMBERED):
        observed = observe(connection, before, channel=row["channel"], package=row["package"])
        if state is RolloutState.ACTIVE:
            plan, going = resumed(plan, observed.observations, now)
            observed = replace(observed, observations=going)
        else:
            tally = Tally(map(Judge(before, now).mark, observed.observations))
            since = from_db(row["changed_at"])
            plan = replace(plan, stopped=how_it_was(before, tally, by=row["changed_by"], since=since))
    if state in ENDED:
        _close(connection, row, plan, now, before=before, by=by)
    else:
        settle(connection, row, plan, now, before=before, by=by, observed=observed)


def row_of(connection: Connection, rollout: str) -> Any | None:
    """The row of a rollout, locked against other writers."""
    return connection.execute(_ROW, {"rollout": rollout}).mappings().first()


def current_row(connection: Connection, channel: str, package: str) -> Any | None:
    """The row of the rollout that a topic tells of, locked; None for a topic that is clear.

    To be asked for before the topic is written to: whoever evaluates the rollout locks both in this order too, and
    two writers that do so in different orders would wait for each other for ever.
    """
    announcing.lock_clear(connection, channel, package)
    while (rollout := announcing.current_rollout(connection, channel, package)) is not None:
        row = row_of(connection, rollout)
        # another one may have taken its place while this waited for the lock
        if announcing.current_rollout(connection, channel, package) == rollout:
            return row
    return None


def _close(connection: Connection, row: Any, plan: Plan, now: datetime, *, before: Plan, by: str | None) -> None:
    """Keep that a rollout is over: nothing is decided on any more, and most devices have their verdict already."""
    observed = observe(connection, plan, channel=row["channel"], package=row["package"], unsettled=True)
    judge = Judge(plan, now)
    _keep(connection, row, plan, now, before=before, by=by)
    write_marks(connection, plan.rollout, observed, {one.device: judge.mark(one) for one in observed.observations})


def _keep(connection: Connection, row: Any, plan: Plan, now: datetime, *, before: Plan, by: str | None) -> None:
    """Keep how far a rollout is, and announce it where devices have to know."""
    if plan == before:
        return
    state = plan.state.announced
    if state is not None and (plan.state is not before.state or not _same(plan, before)):
        if announcing.current_rollout(connection, row["channel"], row["package"]) != plan.rollout:
            raise OperatorError("rollout.state", f"rollout {plan.rollout} is not what its channel announces")
        intention = msgspec.structs.replace(intention_of(row), targets=plan.targets)
        revision = announcing.announce(connection, intention, state, now)
        connection.execute(update(rollouts).where(rollouts.c.id == plan.rollout).values(revision=revision))
    save(connection, row, plan, now, by)


def _same(one: Plan, other: Plan) -> bool:
    """Whether both mean the same devices."""
    return (one.progress == other.progress and one.base == other.base) or one.targets == other.targets


def _look_at_some(connection: Connection, row: Any, standing: Standing, devices: set[str], now: datetime) -> int:
    if not devices:
        return 0
    plan = standing.plan
    observed = observe(connection, plan, channel=row["channel"], package=row["package"], only=devices)
    judge = Judge(plan, now)
    marks = {one.device: judge.mark(one) for one in observed.observations}
    number = write_marks(connection, plan.rollout, observed, marks)
    if gone := devices - marks.keys():
        drop_unknown(connection, plan.rollout, gone)
    standing.update(marks, gone=gone)
    return number


def _told(connection: Connection, before: Any, after: Any, standing: Standing, number: int) -> Evaluation:
    return Evaluation(
        rollout=after["id"],
        state=RolloutState(after["state"]),
        state_changed=before["state"] != after["state"],
        announced=before["revision"] != after["revision"],
        verdicts=number,
        view=view_of(connection, after, standing.plan, standing.tally),
    )
