"""Questions about rollouts, answered from the database."""

import re
from collections.abc import Collection
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, bindparam, func, select

from controller.database import from_db, reading
from controller.fleet.apart import apart_of
from controller.fleet.sql import among, listed
from controller.fleet.tables import desired, devices, events
from controller.fleet.views import deferral_of, kept_event, update_view
from controller.rollouts.advising import STOPPED, advice
from controller.rollouts.asks import Asked, asked_of
from controller.rollouts.excluding import left_out_by_name, left_out_of
from controller.rollouts.explaining import WHY_LEFT_OUT, because, reason, stopped_before, wave_views
from controller.rollouts.failing import read_failures
from controller.rollouts.holding import Held, is_owners
from controller.rollouts.keeping import plan_of
from controller.rollouts.leaving_out import left_out
from controller.rollouts.naming import place_taken, strangers
from controller.rollouts.plan import STARTING, Mark, Plan, RolloutState, Verdict
from controller.rollouts.pointing import Pointer, earlier_version, stopped_pointers
from controller.rollouts.proving import Proof, proof
from controller.rollouts.short_ids import short_id
from controller.rollouts.tables import announcements, rollout_devices, rollouts
from controller.rollouts.takers import count_besides, read_takers
from controller.rollouts.tally import Tally
from controller.rollouts.views import Failure, Rollout, RolloutDevice, Takers
from controller.rollouts.waves import RolloutPlan
from schemas.errors import OperatorError, one_line
from schemas.messages import Phase, RolloutPolicy, Targets, Verb

_word = rollout_devices.c

MAX_PAGE = 1000
"""Rows that one answer may have."""

ID_LENGTH: Final = 36
SHOWN: Final = 3
"""Ids that are named where it is not clear which one is meant."""

MOST_HELD: Final = 50
"""So many devices that may be held are looked at for the line that says what a wave waits for; lists have them all."""

_PART_OF_ID: Final = re.compile("[0-9a-fA-F][0-9a-fA-F-]*")


class RolloutReader:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def rollouts(
        self,
        *,
        channel: str | None = None,
        package: str | None = None,
        state: RolloutState | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Rollout]:
        """Rollouts, the newest first.

        Args:
            channel: only of this one; `package` and `state` likewise.
            before: only those older than the rollout with this id, for the next page.
            limit: at most this many.
        """
        found = select(rollouts.c.id).order_by(rollouts.c.id.desc()).limit(min(max(limit, 1), MAX_PAGE))
        if channel is not None:
            found = found.where(rollouts.c.channel == channel)
        if package is not None:
            found = found.where(rollouts.c.package == package)
        if state is not None:
            found = found.where(rollouts.c.state == state.value)
        if before is not None:
            found = found.where(rollouts.c.id < before)
        with reading(self._engine) as connection:
            return _read(connection, list(connection.scalars(found)))

    def id_of(self, beginning: str) -> str:
        """The whole id of the rollout whose id is, or begins like, this.

        Raises:
            OperatorError: `rollout.unknown`, or `rollout.ambiguous` where several begin so.
        """
        if len(beginning) >= ID_LENGTH:
            return beginning
        if not _PART_OF_ID.fullmatch(beginning):
            raise unknown_rollout(beginning)
        # so few rows that no index is missed
        like = select(rollouts.c.id).where(rollouts.c.id.startswith(beginning.lower(), autoescape=True))
        with reading(self._engine) as connection:
            found: list[str] = list(connection.scalars(like.order_by(rollouts.c.id.desc()).limit(SHOWN + 1)))
        if not found:
            raise unknown_rollout(beginning)
        if len(found) > 1:
            more = " …" if len(found) > SHOWN else ""
            raise OperatorError(
                "rollout.ambiguous",
                f"{beginning} begins several rollouts: {', '.join(found[:SHOWN])}{more}; see: flotilla rollouts",
            )
        return found[0]

    def rollout(self, rollout: str) -> Rollout:
        """One rollout, with counts; raises `OperatorError` (`rollout.unknown`)."""
        with reading(self._engine) as connection:
            return read_rollout(connection, rollout)

    def devices(self, rollout: str, *, after: str = "", limit: int = 100) -> list[RolloutDevice]:
        """The devices that a rollout concerns or leaves out by name, by id, from the one after `after` on."""
        most = min(max(limit, 1), MAX_PAGE)
        found = _words().where(_word.rollout == rollout, _word.device > after).order_by(_word.device).limit(most)
        with reading(self._engine) as connection:
            rows = connection.execute(found).mappings().all()
            asked = _asked(connection, rollout, {row["device"] for row in rows})
            not_begun = [row["device"] for row in rows if row["verdict"] == Verdict.ENDED.value]
            newer = in_newer(connection, rollout, not_begun)
            out = left_out_by_name(connection, rollout)
        listed = [_device(row, asked.get(row["device"]), newer.get(row["device"])) for row in rows]
        listed += [_left_out(device, online=online) for device, online in out.items() if device > after]
        return sorted(listed, key=lambda one: one.device)[:most]

    def unanswered(self, rollout: str) -> int:
        """How many devices have been asked to stop or to try again, and have not answered."""
        with reading(self._engine) as connection:
            return len(_asked(connection, rollout, None))

    def strangers(self, targets: Targets, plan: RolloutPlan | None) -> list[str]:
        """The devices that a release names and that were never heard of; raises as `controller.rollouts.naming`."""
        with reading(self._engine) as connection:
            return strangers(connection, targets, plan)

    def place_taken(self, rollout: Rollout) -> str | None:
        """Says that a rollout that was just made ended another one; see `controller.rollouts.naming`."""
        if rollout.instead_of is None:
            return None
        with reading(self._engine) as connection:
            return place_taken(connection, rollout.instead_of, version=rollout.version)

    def counts_as_failure(self, device: str, package: str | None) -> str | None:
        """One line where a device that goes back by hand fails a rollout that is under way by that; else None."""
        of = rollouts.c
        found = (
            select(of.id)
            .join(announcements, announcements.c.rollout == of.id)
            .join(rollout_devices, _word.rollout == of.id)
            .where(of.package == package, of.state.in_([state.value for state in STARTING]))
            .where(announcements.c.payload.is_not(None), _word.device == device, _word.phase.in_(_SWITCHED))
        )
        with reading(self._engine) as connection:
            rollout = connection.scalar(found)
        if rollout is None:
            return None
        return (
            f"going back, {device} counts as rolled back in rollout {rollout}, which may stop it; told --pin"
            f" {package}=VERSION beside all else that it is told, it goes to that version, and the others go on"
        )

    def left_out(self, rollout: Rollout, targets: Targets, *, waves: bool) -> str | None:
        """See `controller.rollouts.leaving_out`; `targets` are those that the rollout was wanted with."""
        where = {"package": rollout.package, "channel": rollout.channel}
        with reading(self._engine) as connection:
            return left_out(connection, **where, targets=targets, rollout=rollout.id, waves=waves)

    def stopped_pointers(self, packages: Collection[str]) -> dict[Pointer, RolloutState]:
        """The channels that point at a version of these packages which nobody new gets there, and why."""
        with reading(self._engine) as connection:
            return stopped_pointers(connection, packages)

    def failures(self, rollout: str, *, devices_shown: int = 5) -> list[Failure]:
        """What went wrong in a rollout, by error code and by what was said of it, the most frequent first."""
        with reading(self._engine) as connection:
            return read_failures(connection, rollout, devices_shown)

    def takers(self, rollout: str, *, devices_shown: int = 5) -> list[Takers]:
        """Who runs what a rollout brought, by what they had before: first those that had nothing, then the most."""
        with reading(self._engine) as connection:
            return read_takers(connection, rollout, devices_shown)

    def besides_takers(self, rollout: str) -> tuple[int, int]:
        """Whom a revert concerns besides `takers`: those that say that they took it, and those that are at it."""
        with reading(self._engine) as connection:
            return count_besides(connection, rollout)


def unknown_rollout(rollout: str) -> OperatorError:
    """To raise where there is no such rollout."""
    return OperatorError(
        "rollout.unknown", f"there is no rollout {one_line(rollout, 60)}; those that there are: flotilla rollouts"
    )


def read_rollout(connection: Connection, rollout: str) -> Rollout:
    """One rollout, with counts; raises `OperatorError` (`rollout.unknown`)."""
    found = _read(connection, [rollout])
    if not found:
        raise unknown_rollout(rollout)
    return found[0]


def _read(connection: Connection, ids: list[str]) -> list[Rollout]:
    """These rollouts, the newest first."""
    dialect = connection.dialect.name
    values = listed(dialect, ids)
    tallies = _tallies(connection, values)
    found = connection.execute(_rows(dialect), values).mappings().all()
    return [view_of(connection, row, plan_of(row), tallies.get(row["id"], Tally())) for row in found]


def _tallies(connection: Connection, values: dict[str, Any]) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for rollout, wave, name, phase, forgiven, number in connection.execute(_counts(connection.dialect.name), values):
        said = None if phase is None else Phase(phase)
        mark = Mark(Verdict(name), wave, phase=said, forgiven=forgiven)
        tallies.setdefault(rollout, Tally()).add(mark, number)
    return tallies


@cache
def _rows(dialect: str) -> Select[Any]:
    return select(rollouts).where(among(dialect, rollouts.c.id)).order_by(rollouts.c.id.desc())


@cache
def _counts(dialect: str) -> Select[Any]:
    # A word that came in a moment ago has no verdict yet: the device is busy, or nearly done.
    verdict = func.coalesce(_word.verdict, Verdict.UPDATING.value)
    alike = (_word.rollout, _word.wave, verdict, _word.phase, _word.forgiven)
    return select(*alike, func.count()).where(among(dialect, _word.rollout)).group_by(*alike)


def view_of(connection: Connection, row: Any, plan: Plan, tally: Tally) -> Rollout:
    """A rollout for people and programs, out of its row and its devices' counts."""
    earlier = earlier_version(connection, row) if plan.state is RolloutState.REVERTED else None
    named = short_id(connection, row["id"]) if plan.state in STOPPED else row["id"]
    held = _held(connection, row, plan, tally)
    return Rollout(
        id=row["id"],
        package=row["package"],
        version=row["version"],
        channel=row["channel"],
        state=plan.state,
        revision=row["revision"],
        targets=plan.targets,
        policy=msgspec.json.decode(row["policy"], type=RolloutPolicy),
        repository=msgspec.json.decode(row["repository"], type=list[str]),
        created_at=from_db(row["created_at"]),
        changed_at=from_db(row["changed_at"]),
        cancel_asked_at=None if row["cancel_asked_at"] is None else from_db(row["cancel_asked_at"]),
        changed_by=row["changed_by"],
        because=because(plan, tally, by=row["changed_by"], held=held),
        before=stopped_before(plan.state, plan.stopped),
        advice=advice(plan, tally, rollout=named, package=row["package"], channel=row["channel"], earlier=earlier),
        plan=plan.plan,
        wave=plan.begun,
        waves=wave_views(plan, tally, held),
        verdicts=tally.verdicts(),
        left_out=len(left_out_of(connection, row["id"], row)),
        phases=tally.phases(),
    )


def _held(connection: Connection, row: Any, plan: Plan, tally: Tally) -> list[Held]:
    """The devices that a rollout may wait for and that are held; nobody where they would be too many to look at.

    Whom an operator holds is passed over but by the first wave, and whom an owner holds has said so.
    """
    if plan.state is not RolloutState.ACTIVE:
        return []
    counted = tally.verdicts()
    first = plan.begun == 0 or proof(plan, tally, 0) is Proof.OPEN
    wanted = [Verdict.DEFERRED, *([Verdict.HELD] if first else [])]
    if not 0 < sum(counted.get(one, 0) for one in wanted) <= MOST_HELD:
        return []
    dialect = connection.dialect.name
    about = {"rollout": row["id"], **listed(dialect, [one.value for one in wanted])}
    return [
        one
        for found in connection.execute(_perhaps_held(dialect), about).mappings()
        if (one := _as_held(found)) is not None
    ]


@cache
def _perhaps_held(dialect: str) -> Select[Any]:
    """Of `rollout`, with the verdicts that are listed. Made once, as every look at a rollout may ask it."""
    which = (_word.rollout == bindparam("rollout"), among(dialect, _word.verdict))
    return _words().where(*which).order_by(_word.device).limit(MOST_HELD)


def _as_held(row: Any) -> Held | None:
    apart, wave = apart_of(row["told"]), row["wave"]
    if row["verdict"] == Verdict.HELD.value:
        pinned, hold = apart.pinned(row["package"]), bool(apart.hold)
        return Held(row["device"], wave, pinned, hold) if hold or pinned is not None else None
    waits = deferral_of(kept_event(row["payload"])) if row["payload"] and not row["told_since"] else None
    return Held(row["device"], wave) if is_owners(Verdict(row["verdict"]), waits) else None


_SWITCHED: Final = [Phase.SWITCHED.value, Phase.PROBATION.value, Phase.SUCCEEDED.value]
"""Words of a device that runs what the rollout brought."""

_OF_ROLLOUT: Final = (rollouts.c.package, rollouts.c.state)


def _words() -> Select[Any]:
    """Rows of `rollout_devices`, each with its latest event, what the device was told, and whether it is there."""
    latest = and_(events.c.device == _word.device, events.c.life == _word.life, events.c.seq == _word.seq)
    told = (desired.c.payload.label("told"), told_since())
    return (
        select(rollout_devices, devices.c.online, events.c.payload, *told, *_OF_ROLLOUT)
        .join(devices, devices.c.id == _word.device)
        .join(rollouts, rollouts.c.id == _word.rollout)
        .outerjoin(desired, desired.c.device == _word.device)
        .outerjoin(events, latest)
    )


def told_since() -> ColumnElement[bool]:
    """As `told_since`: whether a device was told something since it was heard of last; NULL for one that never was.

    What it said of a hold then may have been its operator's, who has let it go since.
    """
    return (desired.c.changed_at > devices.c.last_seen).label("told_since")


class Standing(NamedTuple):
    """How a device stands in another rollout: `verdict` as a row has it, and its last word there."""

    rollout: str
    verdict: Verdict
    phase: Phase | None


def in_newer(connection: Connection, rollout: str, some: Collection[str]) -> dict[str, Standing]:
    """How devices stand in the rollout that took this one's place; nobody where it is announced, or nothing is.

    Args:
        connection: to read from.
        rollout: the id of the older one.
        some: ids of devices, at most a page of them.
    """
    if not some:
        return {}
    topic = and_(announcements.c.channel == rollouts.c.channel, announcements.c.package == rollouts.c.package)
    told = and_(announcements.c.payload.is_not(None), announcements.c.rollout != rollouts.c.id)
    found = (
        select(_word.device, _word.rollout, _word.verdict, _word.phase)
        .select_from(rollouts)
        .join(announcements, and_(topic, told))
        .join(rollout_devices, _word.rollout == announcements.c.rollout)
        .where(rollouts.c.id == rollout, _word.device.in_(sorted(some)))
    )
    return {
        device: Standing(newer, Verdict(verdict or Verdict.UPDATING), None if phase is None else Phase(phase))
        for device, newer, verdict, phase in connection.execute(found)
    }


def _asked(connection: Connection, rollout: str, some: Collection[str] | None) -> dict[str, Asked]:
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().first()
    return asked_of(connection, row, some) if row is not None else {}


def _device(row: Any, asked: Asked | None = None, newer: Standing | None = None) -> RolloutDevice:
    event = kept_event(row["payload"]) if row["payload"] else None
    verdict, apart = Verdict(row["verdict"]) if row["verdict"] else Verdict.UPDATING, apart_of(row["told"])
    if verdict is Verdict.SUCCEEDED and row["phase"] is None:
        event = None  # it has the release by another way: its word of an earlier try says nothing of that
    update = update_view(event, row) if event else None
    return RolloutDevice(
        device=row["device"],
        wave=None if row["wave"] is None else row["wave"] + 1,
        verdict=verdict,
        online=row["online"],
        update=update,
        asked=asked.verb if asked else None,
        asked_at=asked.at if asked else None,
        reason=reason(
            verdict,
            RolloutState(row["state"]),
            pinned=apart.pinned(row["package"]),
            hold=bool(apart.hold),
            leaves=asked is not None and asked.verb is Verb.CANCEL,
            online=row["online"],
            waits=update.waits if update and not row["told_since"] else None,
        ),
        newer=newer.verdict if newer else None,
    )


def _left_out(device: str, *, online: bool) -> RolloutDevice:
    return RolloutDevice(
        device=device, wave=None, verdict=Verdict.NOT_MEANT, online=online, update=None, reason=WHY_LEFT_OUT
    )
