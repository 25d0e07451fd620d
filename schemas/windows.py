"""When updates may start: windows in the device's own time zone, across changes of the clocks. Pure.

A time of day that the clocks skip stands for the moment at which they skip it; one that comes twice stands for
its first coming. So a window keeps its hours on the day the clocks change, is an hour longer or shorter where the
change lies in it, and does not open at all where all of it is skipped.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

from schemas.messages import Window

_DAYS_AHEAD: Final = 15
"""A weekly window that opens on a day of which all is skipped opens a week later."""
_SEARCH: Final = timedelta(days=15)
"""Windows repeat every week: sets that are not open together within this never are."""


def next_in_window(window: Window, moment: datetime, zone: tzinfo) -> datetime:
    """The first moment from `moment` on that lies in the window; see `next_opening`."""
    return next_opening(window, moment, zone)[0]


def next_opening(window: Window, moment: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The first moment from `moment` on that lies in the window, and when it closes after that.

    Windows are meant in the device's zone. One that ends before it starts goes past midnight and belongs to the day on
    which it starts; one that ends when it starts lasts all day.
    """
    today = moment.astimezone(zone).date()
    start, end = _minutes(window.start), _minutes(window.end)
    length = (end - start) % (24 * 60) or 24 * 60
    for days in range(-1, _DAYS_AHEAD):
        day = today + timedelta(days=days)
        if window.days and day.weekday() not in window.days:
            continue
        opens, closes = _instant(day, start, zone), _instant(day, start + length, zone)
        if opens < closes and moment < closes:
            return max(moment, opens), closes
    raise ValueError("a window with a day has a next opening within two weeks")


def next_in_any(windows: Sequence[Window], moment: datetime, zone: tzinfo) -> datetime:
    """The first moment from `moment` on that lies in one of the windows; none at all means always."""
    return min((next_in_window(window, moment, zone) for window in windows), default=moment)


def next_in_all(sets: Sequence[Sequence[Window]], moment: datetime, zone: tzinfo) -> datetime:
    """The first moment from `moment` on at which every set has an open window.

    Where there never is one (a rollout for Mondays, an owner who allows Sundays), some later opening of one of
    them: asked again then, the answer is later still.
    """
    found = moment.astimezone(UTC)
    if not any(sets):
        return found
    while found < moment + _SEARCH:
        following = max((next_in_any(windows, found, zone) for windows in sets), default=found)
        if following == found:
            return found
        found = following
    return found


def _instant(day: date, minutes: int, zone: tzinfo) -> datetime:
    """The moment, UTC, at which the clocks show so many minutes after the midnight on which `day` begins."""
    # wall-clock arithmetic on purpose: 02:00 means 02:00 on the day the clocks change too
    shown = datetime.combine(day, time()) + timedelta(minutes=minutes)
    late = shown.replace(tzinfo=zone).astimezone(UTC)
    if late.astimezone(zone).replace(tzinfo=None) == shown:
        return late
    # skipped: the change lies between the moments that the offsets after and before it give
    early = shown.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).replace(tzinfo=None) < shown:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
