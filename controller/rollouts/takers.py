"""Whom a revert concerns: the devices that run what a rollout brought, and those that are about to."""

from typing import Final

from sqlalchemy import Connection, and_, func, select

from controller.fleet.tables import device_packages
from controller.rollouts.plan import UNDER_WAY, Verdict
from controller.rollouts.tables import rollout_devices, rollouts
from controller.rollouts.views import Takers
from schemas.messages import Phase

MOST_VERSIONS: Final = 20
"""So many that devices go back to are told apart; a device can report any."""

_word = rollout_devices.c


def read_takers(connection: Connection, rollout: str, shown: int) -> list[Takers]:
    """Who runs what a rollout brought, by what they had before: first those that had nothing, then the most.

    Args:
        connection: to read from.
        rollout: its id.
        shown: so many devices at most are named for each version.
    """
    row = device_packages.c
    # the package and the version are what there is an index for
    brought = and_(rollouts.c.id == row.rollout, rollouts.c.package == row.package)
    theirs = and_(brought, rollouts.c.version == row.version, rollouts.c.id == rollout)
    counted = select(row.previous, func.count()).join(rollouts, theirs).group_by(row.previous)
    some = select(row.device).join(rollouts, theirs).order_by(row.device).limit(shown)
    in_order = (row.previous.is_not(None), func.count().desc(), row.previous)
    return [
        Takers(
            previous=previous,
            count=count,
            devices=list(connection.scalars(some.where(row.previous.is_not_distinct_from(previous)))),
        )
        for previous, count in connection.execute(counted.order_by(*in_order).limit(MOST_VERSIONS)).all()
    ]


def count_besides(connection: Connection, rollout: str) -> tuple[int, int]:
    """How many say that they took it and have not reported so yet, and how many are at it.

    In its probation a device says that it is at it, and may report already that it runs what came.
    """
    row = device_packages.c
    runs = and_(row.device == _word.device, row.package == rollouts.c.package, row.rollout == _word.rollout)
    runs_it = and_(runs, row.version == rollouts.c.version)
    # of who left it again the last word is the same
    has_it = func.coalesce(_word.verdict, "").in_(["", Verdict.SOAKING.value, Verdict.SUCCEEDED.value])
    took = and_(_word.phase == Phase.SUCCEEDED.value, has_it)
    at_it = _word.phase.in_([phase.value for phase in UNDER_WAY])
    counted = (
        select(func.count().filter(took), func.count().filter(at_it))
        .select_from(rollout_devices)
        .join(rollouts, rollouts.c.id == _word.rollout)
        .outerjoin(device_packages, runs_it)
        .where(_word.rollout == rollout, row.device.is_(None))
    )
    saying, under_way = connection.execute(counted).one()
    return saying, under_way
