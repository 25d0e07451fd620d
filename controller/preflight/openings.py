"""When devices may start: from a moment on, and in a window. Pure but for `own_zone`."""

import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from schemas.messages import Window
from schemas.windows import next_opening

_LOCALTIME: Final = Path("/etc/localtime")
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Calendars end; what is to begin later than this is counted as if it were to begin then."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Openings:
    """The times in which devices may start, counted in one zone.

    Each device goes by its own zone, which it does not report; so the controller's stands for all of them.

    Attributes:
        opens_at: when they may start first.
        fit: whether all that was asked for with `next_s` so far lies in the first opening.
    """

    def __init__(self, window: Window | None, not_before: datetime | None, *, now: datetime, zone: tzinfo) -> None:
        """Args:
        window: when devices may start; None for always.
        not_before: none of them does before this.
        now: the controller's time, with a zone.
        zone: the one to count in.
        """
        self._window = window
        self._zone = zone
        self._now = now
        self._from = max(now, min(not_before, _LATEST)) if not_before else now
        self._opening = self._find(self._from)
        self.opens_at = self._opening[0]
        self._first_closes = self._end_of_first()
        self.fit = True

    @property
    def later(self) -> datetime | None:
        """When they may start first; None where that is now."""
        return self.opens_at if self.opens_at > self._now else None

    @property
    def lead_s(self) -> float:
        """Seconds until a device that hears of it now begins to count: until `not_before`, whatever the window."""
        return (self._from - self._now).total_seconds()

    def next_s(self, from_s: float, device_s: float) -> float:
        """The first second from `from_s` on, counted from the end of `lead_s`, at which a device may start.

        Args:
            device_s: how long it takes from then on; a window that closes meanwhile holds it up before it switches.
        """
        if self._window is None:
            return from_s
        try:
            moment = self._from + timedelta(seconds=from_s)
            opens, closes = self._opening
            if not opens <= moment < closes:
                opens, closes = self._opening = self._find(moment)
            begins = max(moment, opens)
            self.fit &= begins + timedelta(seconds=device_s) <= self._first_closes
            return (begins - self._from).total_seconds()
        except OverflowError:
            return from_s

    def told(self) -> str:
        """What they wait for, or that the window is open, in one line; empty where they may start at any time."""
        if self._window is None:
            return "nobody starts before that" if self.later else ""
        window = window_text(self._window)
        if self.later is None:
            return f"the window is open, {window}; a device that does not make it waits for the next one"
        return f"the window opens, {window}"

    def _end_of_first(self) -> datetime:
        """When the first opening closes: one that is open all day goes on in the next day's, or never ends."""
        closes = self._opening[1]
        if self._window is None:
            return closes
        for _ in _DAYS:
            again, then = self._find(closes)
            if again > closes:
                return closes
            closes = then
        return _NEVER

    def _find(self, moment: datetime) -> tuple[datetime, datetime]:
        if self._window is None:
            return moment, _NEVER
        return next_opening(self._window, moment, self._zone)


def window_text(window: Window) -> str:
    """A window for people, and by whose clock: `22:00 to 04:30 on Fri, Sat in each device's own time zone`."""
    days = f" on {', '.join(_DAYS[day] for day in sorted(set(window.days)))}" if window.days else ""
    zone = "in each device's own time zone, counted here in the controller's"
    return f"{window.start} to {window.end}{days} {zone}"


def own_zone(environment_zone: str | None = None, file: Path = _LOCALTIME) -> tzinfo:
    """The controller's own time zone, by the rules that a device finds its by; UTC where none is set.

    Args:
        environment_zone: instead of the variable TZ.
        file: what the system's zone is.
    """
    named = environment_zone or os.environ.get("TZ")
    try:
        if named:
            return ZoneInfo(named.removeprefix(":"))
        with file.open("rb") as stream:
            return ZoneInfo.from_file(stream, key="localtime")
    except (OSError, ValueError, KeyError):
        return UTC
