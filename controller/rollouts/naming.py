"""Devices that a release names by id: whether anything was ever heard of them."""

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import Connection, select

from controller.fleet.apart import apart_of
from controller.fleet.sql import chunks, map_of
from controller.fleet.tables import desired, devices
from controller.rollouts.announcing import current_rollout
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollouts
from controller.rollouts.waves import RolloutPlan
from schemas.errors import OperatorError, one_line
from schemas.messages import Targets
from schemas.targeting import value_of, where_holds

_REPORTED: Final = select(devices.c.tags, devices.c.facts).where(devices.c.channel.is_not(None))
SHOWN = 5
"""Ids that a line names."""


def strangers(connection: Connection, targets: Targets, plan: RolloutPlan | None) -> list[str]:
    """The devices that targets or waves name, to mean them or to leave them out, and that were never heard of; by id.

    Raises:
        OperatorError: `device.unknown` where the targets, or one of the waves, mean nobody else; or where the targets
            want a tag or fact that no device has: it is misspelled, or comes before its time. `input.bad` where the
            first wave means only devices that the targets leave out: nobody could ever prove it.
    """
    _check_where(connection, targets.where)
    waves = [(number, wave) for number, wave in enumerate(plan.waves if plan else [], start=1)]
    lists = [(number, wave, wave.devices) for number, wave in waves if isinstance(wave.devices, list)]
    named = {*targets.devices, *targets.exclude, *(device for *_, ids in lists for device in ids)}
    known: set[str] = set()
    for some in chunks(sorted(named)):
        known.update(connection.scalars(select(devices.c.id).where(devices.c.id.in_(some))))
    if targets.upto == 0 and targets.devices and known.isdisjoint(targets.devices):
        raise OperatorError("device.unknown", f"it would be for nobody: {never_heard_of(targets.devices)}")
    for number, wave, ids in lists:
        if number == 1 and targets.exclude and {*ids} <= {*targets.exclude}:
            raise OperatorError(
                "input.bad",
                f"wave 1 ({wave.share}) would wait for ever: the release leaves out {_first_of(ids)}; name others in"
                " the first wave of the plan",
            )
        if known.isdisjoint(ids):
            raise OperatorError(
                "device.unknown", f"wave {number} ({wave.share}) would wait for ever: {never_heard_of(ids)}"
            )
    return sorted(named - known)


def _check_where(connection: Connection, where: Mapping[str, str | list[str]]) -> None:
    """Where no device at all has reported, nothing is known to be wrong."""
    if not where:
        return
    there: dict[str, set[str]] = {key: set() for key in where}
    unmet, somebody = dict(where), False
    for row in connection.execute(_REPORTED):
        somebody = True
        tags, facts = map_of(row.tags), map_of(row.facts)
        for key, wanted in tuple(unmet.items()):
            value = value_of(key, tags=tags, facts=facts)
            if value is not None:
                there[key].add(value)
            if where_holds({key: wanted}, tags=tags, facts=facts):
                del unmet[key]
        if not unmet:
            return
    if unmet and somebody:
        # what a device was told a moment ago it has not reported yet
        for payload in connection.scalars(select(desired.c.payload)):
            tags = apart_of(payload).tags or {}
            for key in [key for key in unmet if where_holds({key: unmet[key]}, tags=tags, facts={})]:
                del unmet[key]
    for key, wanted in unmet.items() if somebody else ():
        values = " or ".join(wanted) if isinstance(wanted, list) else wanted
        found = sorted(there[key])
        known = f"there is {key}={', '.join(found[:SHOWN])}{' …' if len(found) > SHOWN else ''}"
        told = known if found else "nor any other value of it"
        raise OperatorError("device.unknown", one_line(f"it would be for nobody: no device has {key}={values}; {told}"))


def never_heard_of(ids: Iterable[str]) -> str:
    """Names devices that were never heard of, or the first few of them."""
    names = sorted(ids)
    return f"{_first_of(names)} {'was' if len(names) == 1 else 'were'} never heard of"


def _first_of(ids: Iterable[str]) -> str:
    names = sorted(ids)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{one_line(', '.join(names[:SHOWN]), 400)}{more}"


def under_way(connection: Connection, package: str, channel: str) -> str | None:
    """The rollout of a package that a channel announces and that is not over, by id; None for none."""
    announced = current_rollout(connection, channel, package)
    found = select(rollouts.c.id).where(rollouts.c.id == announced, rollouts.c.state == RolloutState.ACTIVE.value)
    return None if announced is None else connection.scalar(found)


def place_taken(connection: Connection, rollout: str | None, *, version: str) -> str | None:
    """Says that the release of a version ends the rollout that is under way; None where it does not."""
    found = select(rollouts.c.package, rollouts.c.version).where(rollouts.c.id == rollout)
    row = None if rollout is None else connection.execute(found).first()
    if row is None:
        return None
    if row.version == version:
        return f"it begins anew, in the place of the rollout of this version that is still under way ({rollout})"
    return f"it takes the place of {row.package} {row.version}, which is still under way (rollout {rollout})"


def nobody_is_meant(channel: str) -> str:
    """Says that conditions, or what a release leaves out, leave nobody of a channel that somebody follows."""
    return f"no device that was heard of on channel {channel} is meant"
