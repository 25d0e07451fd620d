"""What to do about an announcement. Pure: values in, a decision out; time and zone are passed in.

The order of the questions is the rule: is it news, is it ours, may it start at all, may it start now.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from schemas.errors import PublisherError
from schemas.messages import Announcement, Desired, FactValue, Phase, ReleaseState, Window
from schemas.targeting import is_meant
from schemas.versions import compare, parse

BEFORE_SWITCH: Final = frozenset({Phase.DEFERRED, Phase.ACCEPTED, Phase.FETCHING, Phase.STAGED})
"""Phases in which nothing that runs was touched yet: stopping costs nothing."""

HALTED_CODE: Final = "conflict.halted"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """The device as rollouts see it; what `Desired` says instead of the configuration is already in it.

    Attributes:
        packages: those that are named in the configuration.
        every_package: any package of the channel is taken.
        zone: the device's own time zone; windows are meant in it.
    """

    id: str
    channel: str
    packages: frozenset[str] = frozenset()
    every_package: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, FactValue] = field(default_factory=dict)
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """An update of the package that has not had its last word. `rollout` is None for a pin or a file."""

    version: str
    rollout: str | None
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last word of an update, and its error's code where it had one."""

    phase: Phase
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageView:
    """What the journal says about a package.

    Attributes:
        installed: the version that runs, or None.
        installed_by: rollout that brought it.
        underway: the update that is going on.
        ended: how this announcement's rollout (or this pin) ended here, since it was last reopened.
    """

    installed: str | None = None
    installed_by: str | None = None
    underway: Underway | None = None
    ended: Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The announcement of the topic that this device took in before. Durable.

    Attributes:
        heard_at: when `rollout` was first heard of; jitter counts from here, so that a restart starts no new wait.
    """

    rollout: str
    revision: int
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class Accept:
    """Install it now."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Not yet. `until` is None where nobody knows when."""

    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do. `reason` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """It is meant for this device, and will never be installed as it is."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop the update that is under way: it has not switched yet."""

    reason: str


@dataclass(frozen=True, slots=True)
class Revert:
    """Go back to the previous release."""

    reason: str


Decision = Accept | Defer | Ignore | Reject | Halt | Revert


def decide(
    announcement: Announcement,
    *,
    device: DeviceView,
    desired: Desired | None,
    package: PackageView,
    known: Known | None,
    now: datetime,
) -> Decision:
    """What to do about an announcement.

    Args:
        known: what was taken in from the same topic so far; may be this very announcement.
        now: the later of the clock and the last time seen.
    """
    if is_older(announcement, known):
        return Ignore("older than what is known")
    if announcement.channel != device.channel:
        return Ignore(f"this device follows {device.channel}")
    if not _is_taken(announcement.package, device, desired, package):
        return Ignore("not among this device's packages")
    if announcement.state in (ReleaseState.HALTED, ReleaseState.REVERTED):
        return _stop(announcement, package)
    return _may_start(announcement, device, desired, package) or _when(
        announcement, device, desired, heard_at=known.heard_at if known and _same(announcement, known) else now, now=now
    )


def decide_pin(
    version: str, *, announced: Announcement | None, desired: Desired, package: PackageView, now: datetime
) -> Decision:
    """What to do about a package that `desired` pins to `version`, whatever its channel says.

    Args:
        announced: the channel's announcement, whose window and repositories are used where there is one.
    """
    del announced, now  # a pin is meant for this one device: no jitter, no window
    problem = _version_problem(version)
    if problem:
        return Ignore(problem)
    if package.installed == version and (package.underway is None or package.underway.phase is Phase.DEFERRED):
        return Ignore("already installed")
    if package.underway and package.underway.version == version and package.underway.phase is not Phase.DEFERRED:
        return Ignore(f"under way: {package.underway.phase}")
    if package.ended:
        return Ignore(f"tried before: {package.ended.phase}; `retry` starts it again")
    if desired.hold:
        return Defer(None, "on hold")
    return Accept()


def is_older(announcement: Announcement, known: Known | None) -> bool:
    """Whether the announcement is one from before `known`.

    Within a rollout the revision decides. Rollout ids are UUIDv7 and so sort by time: another rollout is
    older when both its id and its revision say so. Either alone may mislead: a controller that was set up
    anew counts revisions from 1 again, and one without a clock battery may give ids from the past.
    """
    if known is None:
        return False
    if _same(announcement, known):
        return announcement.revision < known.revision
    return announcement.rollout < known.rollout and announcement.revision <= known.revision


def jitter_of(rollout: str, device: str, jitter_s: float) -> timedelta:
    """The device's own wait in a rollout: evenly spread, the same whenever it is asked for."""
    digest = hashlib.sha256(f"jitter:{rollout}:{device}".encode()).digest()
    return timedelta(seconds=jitter_s * (int.from_bytes(digest[:4], "big") / 2**32))


def next_in_window(window: Window, moment: datetime, zone: tzinfo) -> datetime:
    """The first moment from `moment` on that lies in the window. Windows are meant in the device's zone.

    A window that ends before it starts goes past midnight and belongs to the day on which it starts; one
    that ends when it starts lasts all day.
    """
    local = moment.astimezone(zone)
    start, end = _minutes(window.start), _minutes(window.end)
    length = (end - start) % (24 * 60) or 24 * 60
    for days in range(-1, 9):
        day = (local + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
        if window.days and day.weekday() not in window.days:
            continue
        # wall-clock arithmetic on purpose: 02:00 means 02:00 on the day the clocks change too
        opens = day + timedelta(minutes=start)
        closes = day + timedelta(minutes=start + length)
        if moment < closes.astimezone(UTC):
            return max(moment, opens.astimezone(UTC))
    raise ValueError("a window with a day has a next opening within eight days")


def _same(announcement: Announcement, known: Known) -> bool:
    return announcement.rollout == known.rollout


def _is_taken(name: str, device: DeviceView, desired: Desired | None, package: PackageView) -> bool:
    pinned = name in (desired.pins or {}) if desired else False
    return device.every_package or name in device.packages or package.installed is not None or pinned


def _stop(announcement: Announcement, package: PackageView) -> Decision:
    word = announcement.state.value
    underway = package.underway
    if underway and underway.rollout == announcement.rollout:
        if underway.phase in BEFORE_SWITCH:
            return Halt(f"the rollout was {word}")
        if announcement.state is ReleaseState.REVERTED and underway.phase is not Phase.ROLLING_BACK:
            return Revert("the rollout was reverted")
        return Ignore(f"{word}; under way: {underway.phase}")
    took_it = package.installed == announcement.version and package.installed_by == announcement.rollout
    if announcement.state is ReleaseState.REVERTED and took_it and underway is None:
        return Revert("the rollout was reverted")
    return Ignore(word)


def _may_start(
    announcement: Announcement, device: DeviceView, desired: Desired | None, package: PackageView
) -> Decision | None:
    """Why this device does not start it, now or ever; None where only the time is left to be looked at."""
    pin = (desired.pins or {}).get(announcement.package) if desired else None
    underway, ended = package.underway, package.ended
    reason = _version_problem(announcement.version)
    if pin is not None:
        reason = f"pinned to {pin}"
    elif reason:
        pass
    elif underway and underway.rollout == announcement.rollout and underway.phase is not Phase.DEFERRED:
        reason = f"under way: {underway.phase}"
    elif not is_meant(
        announcement.targets, rollout=announcement.rollout, device=device.id, tags=device.tags, facts=device.facts
    ):
        reason = "not among the targets"
    elif announcement.state is ReleaseState.PAUSED:
        reason = "paused"
    elif package.installed == announcement.version and underway is None:
        reason = "already installed"
    elif ended and ended.code != HALTED_CODE:
        reason = f"ended before: {ended.phase}; `retry` starts it again"
    if reason:
        return Ignore(reason)
    if package.installed and not announcement.policy.allow_downgrade:
        return _downgrade(announcement.version, package.installed)
    return None


def _downgrade(version: str, installed: str) -> Reject | None:
    if compare(version, installed) >= 0:
        return None
    return Reject(
        "requires.downgrade", f"{version} is older than the installed {installed} and downgrades are not allowed"
    )


def _when(
    announcement: Announcement, device: DeviceView, desired: Desired | None, *, heard_at: datetime, now: datetime
) -> Decision:
    policy = announcement.policy
    if policy.deadline and now > policy.deadline:
        return Ignore(f"nobody starts after {policy.deadline.isoformat()}")
    if desired and desired.hold:
        return Defer(None, "on hold")
    due, reason = now, ""
    if policy.not_before and policy.not_before > due:
        due, reason = policy.not_before, "not before"
    spread = max(heard_at, policy.not_before or heard_at) + jitter_of(announcement.rollout, device.id, policy.jitter_s)
    if spread > due:
        due, reason = spread, "jitter"
    if policy.window:
        opens = next_in_window(policy.window, due, device.zone)
        if opens > due:
            due, reason = opens, "window"
    if policy.deadline and due > policy.deadline:
        return Ignore(f"could not start before {policy.deadline.isoformat()}")
    return Defer(due, reason) if due > now else Accept()


def _version_problem(version: str) -> str:
    try:
        parse(version)
    except PublisherError as error:
        return str(error)
    return ""


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)
