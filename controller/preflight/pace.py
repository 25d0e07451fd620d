"""How long devices took in the last rollouts, and when a new one would end at that pace."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, func, select

from controller.fleet.tables import events
from controller.preflight.openings import Openings
from controller.preflight.views import Estimate
from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollout_devices, rollouts
from schemas.messages import Phase

ROLLOUTS: Final = 5
"""So many of the last rollouts are gone by."""
DEVICES: Final = 200
"""So many devices of each."""
EVENTS: Final = 64
"""An update that took more events than these counts from a later one on: nobody needs it exactly."""
_SHARE: Final = 0.9
_MANY: Final = 10
"""Of fewer devices nine of ten are all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds that each of some devices took from its first word to its success, by the controller's clock, rising.

    Attributes:
        of: which rollouts these were, for people.
        rollouts: how many.
    """

    seconds: Sequence[float]
    of: str
    rollouts: int

    @property
    def most(self) -> float:
        """Nine of ten took no longer."""
        return self.seconds[math.ceil(_SHARE * len(self.seconds)) - 1]

    def told(self) -> str:
        """What there is to go by, for people."""
        number = len(self.seconds)
        devices = "1 device" if number == 1 else f"{number} devices"
        devices = f"of {devices}, 9 in 10" if number >= _MANY else devices
        last = "the last rollout" if self.rollouts == 1 else f"the last {self.rollouts} rollouts"
        return f"{devices} took at most {self.most:.0f} s in {last} of {self.of}"


def pace_of(connection: Connection, channel: str, package: str) -> Pace | None:
    """The pace of the last rollouts: of the package on the channel, else of any package there; None without any."""
    here = rollouts.c.channel == channel
    for which, of in (
        (and_(here, rollouts.c.package == package), f"{package} on channel {channel}"),
        (here, f"other packages on channel {channel}"),
    ):
        took, count = _took(connection, which)
        if took:
            return Pace(seconds=took, of=of, rollouts=count)
    return None


def estimate(
    pace: Pace | None,
    *,
    ready: int,
    channel: str,
    now: datetime,
    openings: Openings,
    whole: Callable[[float], float],
    approvals: int,
) -> Estimate:
    """When the devices that would start now would be done.

    Args:
        pace: of the last rollouts.
        ready: how many devices would start.
        channel: for the text.
        now: the controller's time, with a zone.
        openings: when devices may start.
        whole: gives the seconds until the whole rollout is done where one device takes so many; asks `openings`.
        approvals: waves that wait for a person.
    """
    if not ready:
        return Estimate(basis="no device would start now")
    if pace is None:
        return Estimate(
            basis=f"no rollout on channel {channel} has brought a device to its end yet: no history to go by"
        )
    seconds = whole(pace.most)
    waits_s = seconds - pace.most - (openings.opens_at - now).total_seconds()
    what = "waves, soaks and jitter" if openings.fit else "waves, soaks, jitter and the windows after the first"
    waits = f", and {what} take up to {waits_s:.0f} s more" if waits_s >= 1 else ""
    counted = ", counted from when they may start" if openings.later else ""
    counted += "" if openings.fit else "; it does not fit into one window, so it may be later"
    begins = "wave begins" if approvals == 1 else "waves begin"
    asks = f"; {approvals} {begins} when a person says go" if approvals else ""
    basis = f"{pace.told()}{waits}{counted}; devices that are offline end after they come back{asks}"
    return Estimate(ends_at=now + timedelta(seconds=seconds), seconds=seconds, basis=basis)


def _took(connection: Connection, which: ColumnElement[bool]) -> tuple[list[float], int]:
    word, said = rollout_devices.c, events.c
    took: list[float] = []
    count = 0
    newest = select(rollouts.c.id).where(which, rollouts.c.state != RolloutState.WITHDRAWN.value)
    for rollout in connection.scalars(newest.order_by(rollouts.c.id.desc()).limit(4 * ROLLOUTS)).all():
        some = (
            select(word.device, word.life, word.seq, word.update_id)
            .where(word.rollout == rollout, word.phase == Phase.SUCCEEDED.value)
            .limit(DEVICES)
            .subquery()
        )
        # an update's steps lie together in a device's journal, which is indexed by number
        steps = and_(
            said.device == some.c.device,
            said.life == some.c.life,
            said.seq <= some.c.seq,
            said.seq > some.c.seq - EVENTS,
            said.update_id == some.c.update_id,
        )
        span = select(func.max(said.received_at) - func.min(said.received_at)).select_from(some.join(events, steps))
        found = [micro / 1e6 for micro in connection.scalars(span.group_by(some.c.device))]
        if found:
            took += found
            count += 1
        if count == ROLLOUTS:
            break
    return sorted(took), count
