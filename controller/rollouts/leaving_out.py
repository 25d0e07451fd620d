"""Devices that the rollout before meant and a release does not: nobody offers them the package any more."""

from typing import Final

from sqlalchemy import Connection, select

from controller.fleet.sql import map_of
from controller.fleet.tables import devices
from controller.rollouts.explaining import stopped_before
from controller.rollouts.keeping import plan_of
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollouts
from schemas.messages import BUCKETS, Targets
from schemas.targeting import bucket, is_meant, where_holds

_OFFERING: Final = frozenset({RolloutState.ACTIVE, RolloutState.PAUSED, RolloutState.COMPLETE})


def left_out(
    connection: Connection,
    *,
    package: str,
    channel: str,
    targets: Targets,
    rollout: str | None = None,
    waves: bool = True,
) -> str | None:
    """One line where a release means fewer devices of a channel than the rollout whose place it takes; else None.

    Who is excluded by name is not counted: that was meant. Devices are only read where not everybody is meant.

    Args:
        targets: of the release.
        rollout: the release's own, where it was announced; without it a share of the devices is yet to be drawn.
        waves: whether it could have some.
    """
    if targets.upto == BUCKETS and not targets.where:
        return None
    of_channel = select(rollouts).where(rollouts.c.channel == channel, rollouts.c.package == package)
    earlier = of_channel if rollout is None else of_channel.where(rollouts.c.id < rollout)
    row = connection.execute(earlier.order_by(rollouts.c.id.desc()).limit(1)).mappings().one_or_none()
    if row is None:
        return None
    before = plan_of(row)
    replaced = rollout is not None and before.state is RolloutState.SUPERSEDED
    # what was halted or reverted offered nobody anything any more
    offering = stopped_before(before.state, before.stopped) is None if replaced else before.state in _OFFERING
    if not offering:
        return None
    number = undrawn = 0
    of_devices = select(devices.c.id, devices.c.tags, devices.c.facts).where(devices.c.channel == channel)
    for device, tags_text, facts_text in connection.execute(of_devices):
        tags, facts = map_of(tags_text), map_of(facts_text)
        was = is_meant(before.base, rollout=before.rollout, device=device, tags=tags, facts=facts)
        if not was or device in targets.exclude:
            continue
        if not where_holds(targets.where, tags=tags, facts=facts):
            number += 1
        elif device not in targets.devices:
            undrawn += rollout is None
            number += rollout is not None and bucket(rollout, device) >= targets.upto
    drawn_out = round(undrawn * (BUCKETS - targets.upto) / BUCKETS)
    number += drawn_out
    if not number:
        return None
    about = "about " if drawn_out and targets.upto else ""
    how = "; to begin with some and go on to all: --wave" if waves else ""
    who, are = (f"{number} devices", "are") if number > 1 else ("1 device", "is")
    return (
        f"{about}{who} of channel {channel} {are} not meant by this release"
        f" and {are} offered no {package} from now on{how}"
    )
