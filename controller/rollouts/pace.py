"""How fast a rollout goes, and when it would be done if it went on like this."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

WINDOW_S: Final = 600
"""Pace is what was finished within the last ten minutes."""
MOST_POINTS: Final = 60
SHORTEST_BUCKET_S: Final = 5
FARTHEST: Final = timedelta(days=365)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices finished in one stretch of time; `bad` went back, failed or refused."""

    good: int = 0
    bad: int = 0


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast it goes.

    Attributes:
        per_minute: devices that finish, good or bad; None where none did lately.
        ends: when the rest will be done at this pace; None where it cannot be said.
    """

    per_minute: float | None = None
    ends: datetime | None = None


def bucket_s(begun: datetime, until: datetime) -> int:
    """Seconds that one point of the time line stands for, so that there are few enough."""
    span = max((until - begun).total_seconds(), 0.0)
    return max(SHORTEST_BUCKET_S, int(span / MOST_POINTS) + 1)


def pace(tallies: Sequence[Tally], width_s: int, *, rest: int | None, now: datetime) -> Pace:
    """The pace by the last stretches of time.

    Args:
        tallies: one for each stretch, the last of them ending now.
        width_s: seconds that each is long.
        rest: devices that are still to finish; None where they do not go by pace: they wait for a wave's soak, for a
            person's word, or for their time of day.
        now: the controller's time.
    """
    counted = max(1, WINDOW_S // width_s)
    last = tallies[-counted:]
    finished = sum(one.good + one.bad for one in last)
    if not finished:
        return Pace()
    per_minute = finished * 60 / (len(last) * width_s)
    left = timedelta(minutes=(rest or 0) / per_minute)
    return Pace(per_minute=per_minute, ends=now + left if rest and left < FARTHEST else None)
