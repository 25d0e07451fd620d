"""Whether an update may start, and whether it may switch: hold, windows, the device's health, the application's word.

Pure: what was found out comes in, what to wait for goes out. The order of the questions is the order in which they
are cheap to answer; the application is asked last, when nothing else stands in the way.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Final

import msgspec

from device_agent.gate import Limits, Trouble
from device_agent.updates import Origin, Update, Waiting
from schemas.errors import DeviceError
from schemas.manifest import ReadyHook
from schemas.messages import Window
from schemas.windows import next_in_all

HOLD: Final = "hold"
WINDOW: Final = "window"
NOT_READY: Final = "not ready"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of the device says about it; the default is that everything is allowed.

    Attributes:
        windows: when updates may start and switch; none means always.
        fetch_outside_windows: whether a release may be fetched and staged at any time, to be switched to in a window.
        longest_postponement_s: instead of what releases say themselves.
        limits: for the device's own health.
        reach_broker_s: how long after a switch the broker may be out of reach; 0: not asked.
    """

    windows: tuple[Window, ...] = ()
    fetch_outside_windows: bool = False
    longest_postponement_s: float | None = None
    limits: Limits = Limits()
    reach_broker_s: float = 0

    @property
    def windows_to_start(self) -> tuple[Window, ...]:
        """Those of the owner's windows that count before anything is fetched."""
        return () if self.fetch_outside_windows else self.windows


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Not now.

    Attributes:
        reason: a word or two.
        look_at: when to look again; None where somebody will say so.
        until: when the wait ends at the latest; None where nobody knows.
        line: the reading, or what the application said last.
        began: since when the device has not been fit, or the application has said 'not now'; None for other reasons.
    """

    reason: str
    look_at: datetime | None = None
    until: datetime | None = None
    line: str = ""
    began: datetime | None = None

    def noted(self, before: Waiting | None, now: datetime) -> Waiting:
        """For the journal; what lasts since before began then."""
        same = before is not None and before.reason == self.reason
        asks = self.reason == NOT_READY
        return Waiting(
            reason=self.reason,
            since=min(before.since, now) if before and same else now,
            until=self.until,
            line=self.line,
            unfit_since=None if asks else self.began,
            asked_since=self.began if asks else (before.asked_since if before else None),
        )

    def is_news(self, before: Waiting | None) -> bool:
        """Whether an event is to tell of it; that a reading has changed a little is none."""
        return before is None or (before.reason, before.until) != (self.reason, self.until)


def wait_for_hold(*, held: bool) -> Wait | None:
    """An operator or the owner wants nothing to start."""
    return Wait(reason=HOLD) if held else None


def wait_for_window(update: Update, ours: Sequence[Window], now: datetime, zone: tzinfo) -> Wait | None:
    """A window of the owner's and the rollout's must both be open.

    What somebody installs by hand, in front of the device, waits for no window.
    """
    if update.request.origin is Origin.FILE:
        return None
    theirs = [update.request.window] if update.request.window else []
    opens = next_in_all([theirs, ours], now, zone)
    return Wait(reason=WINDOW, look_at=opens, until=opens) if opens > now else None


def wait_for_device(trouble: Trouble | None, update: Update, limits: Limits, now: datetime) -> Wait | None:
    """The device itself must be fit.

    Raises:
        DeviceError: `health.device`; it was not for longer than the owner allows.
    """
    if trouble is None:
        return None
    noted = update.waiting.unfit_since if update.waiting else None
    since = min(noted, now) if noted else now
    until = since + timedelta(seconds=limits.longest_s)
    if now >= until:
        raise DeviceError(
            "health.device",
            f"{update.package} {update.version} waited {limits.longest_s:g} s for the device: {trouble.reading}",
        )
    look_at = min(until, now + timedelta(seconds=limits.interval_s))
    return Wait(reason=trouble.reason, look_at=look_at, until=until, line=trouble.reading, began=since)


def wait_for_application(
    hook: ReadyHook, line: str, update: Update, longest_s: float | None, now: datetime
) -> Wait | None:
    """The application has said 'not now'; None where it has said so for too long.

    Args:
        line: the last that it said.
        longest_s: the owner's own limit.
    """
    longest = hook.longest_postponement_s if longest_s is None else longest_s
    noted = update.waiting.asked_since if update.waiting else None
    since = min(noted, now) if noted else now
    until = since + timedelta(seconds=longest)
    if now >= until:
        return None
    look_at = min(until, now + timedelta(seconds=hook.interval_s))
    return Wait(reason=NOT_READY, look_at=look_at, until=until, line=line, began=since)


def postponed_s(update: Update, now: datetime) -> float:
    """For how long the application has been saying 'not now'."""
    since = update.waiting.asked_since if update.waiting else None
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
