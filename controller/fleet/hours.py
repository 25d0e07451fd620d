"""When a device usually is there: one bit for each hour of the week, for each of the last weeks. Pure.

The hours are UTC, by the controller's clock. A history is text like `2930:0ff0…`: the number of its newest week, then
one hexadecimal bitmap a week, the newest first.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

WEEKS: Final = 4
"""Weeks that are kept, the running one included."""

ENOUGH: Final = 2
"""Whole weeks on record before anything can be called usual."""

_HOURS: Final = 168
_DIGITS: Final = _HOURS // 4
_HOUR_US: Final = 3_600_000_000
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)


def hour_number(moment: int) -> int:
    """The hour of a moment in microseconds since 1970, counted from then."""
    return moment // _HOUR_US


def marked(history: str | None, hour: int) -> str:
    """The history with the hour (see `hour_number`) as one in which the device was there."""
    week, place = _place(hour)
    weeks = _weeks(history, week)
    weeks[0] |= 1 << place
    return f"{week}:" + "".join(f"{one:0{_DIGITS}x}" for one in weeks)


def usually_away(history: str | None, now: datetime) -> bool:
    """Whether the device is away at this hour of the week as a rule.

    It is where there are at least two whole weeks in which it was there at all, and it was there at this hour in none
    of them.
    """
    if history is None:
        return False
    hours = int((now - _MONDAY) // timedelta(hours=1))
    week, place = divmod(hours, _HOURS)
    before = [one for one in _weeks(history, week)[1:] if one]
    return len(before) >= ENOUGH and not any(one >> place & 1 for one in before)


def next_hour(now: datetime) -> datetime:
    """When the answer of `usually_away` may become another."""
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def _place(hour: int) -> tuple[int, int]:
    """Week and hour of the week, from Monday on."""
    return divmod(hour - 96, _HOURS)  # 1970 began on a Thursday


def _weeks(history: str | None, newest: int) -> list[int]:
    """The bitmaps from week `newest` backwards."""
    weeks = [0] * WEEKS
    if history is None:
        return weeks
    text, _, maps = history.partition(":")
    behind = newest - int(text)
    for number in range(len(maps) // _DIGITS):
        if 0 <= number + behind < WEEKS:
            weeks[number + behind] = int(maps[number * _DIGITS : (number + 1) * _DIGITS], 16)
    return weeks
