"""What to do about an announcement. Pure: values in, a decision out; time and zone are passed in.

The order of the questions is the rule: is it news, is it ours, may it start at all, and when. What the
journal alone can answer (is it installed, is it under way, did it fail here before) is the update
manager's to say when it is asked to install; asking twice changes nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import msgspec

from schemas.errors import PublisherError
from schemas.messages import Announcement, Desired, FactValue, ReleaseState, Window
from schemas.targeting import is_meant
from schemas.versions import parse
from schemas.windows import next_in_all

_LATEST: Final = datetime(9990, 1, 1, tzinfo=UTC)
"""What is put off for longer is put off until then: beyond the year 9999 there is no calendar to count with."""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """The device as rollouts see it; what `Desired` says instead of the configuration is already in it.

    Attributes:
        packages: those that are named in the configuration.
        every_package: any package of the channel is taken.
        installed: packages that are installed, whoever brought them.
        pins: package to the version it stays at.
        zone: the device's own time zone; windows are meant in it.
        windows: the owner's own, one of which must be open besides the rollout's; none means always.
    """

    id: str
    channel: str
    packages: frozenset[str] = frozenset()
    every_package: bool = True
    installed: frozenset[str] = frozenset()
    pins: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    facts: Mapping[str, FactValue] = {}
    zone: tzinfo = UTC
    windows: Sequence[Window] = ()

    def told(self, desired: Desired | None) -> "DeviceView":
        """The same device after `desired` took the place of its configuration."""
        if desired is None:
            return self
        return msgspec.structs.replace(
            self,
            channel=self.channel if desired.channel is None else desired.channel,
            tags=self.tags if desired.tags is None else desired.tags,
            pins=desired.pins or {},
        )

    def takes(self, package: str) -> bool:
        """Whether releases of the package are this device's business."""
        return self.every_package or package in self.packages or package in self.installed or package in self.pins

    def followed_packages(self) -> frozenset[str]:
        """The packages that must be subscribed to one by one."""
        return self.packages | self.installed | frozenset(self.pins)


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
    """Install it, now."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Install it, but not before `until`; `reason` is one word for people."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nothing to do; `reason` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Start nothing of this rollout; what has started goes on."""


@dataclass(frozen=True, slots=True)
class Halt:
    """As `Pause`, and what has not switched yet stops; `reason` is why, for whoever asks what became of it."""

    reason: str = "the rollout was halted"


@dataclass(frozen=True, slots=True)
class Revert:
    """Go back, if this rollout's release was taken."""


Decision = Accept | Defer | Ignore | Pause | Halt | Revert

_STOPS: Mapping[ReleaseState, Decision] = {
    ReleaseState.PAUSED: Pause(),
    ReleaseState.HALTED: Halt(),
    ReleaseState.REVERTED: Revert(),
}


def decide(announcement: Announcement, *, device: DeviceView, known: Known | None, now: datetime) -> Decision:
    """What to do about an announcement.

    A complete rollout is as good as an active one: a device that comes later still takes the release.
    The three states that stop something go before targets and pins, because they only ever concern what
    this very rollout began here. For a device that the targets exclude the rollout is halted.

    Args:
        known: what was taken in from the same topic so far; may be this very announcement.
        now: the time, with a zone.
    """
    stranger = _not_ours(announcement, device, known)
    if stranger:
        return Ignore(stranger)
    if announcement.state in _STOPS:
        return _STOPS[announcement.state]
    if device.id in announcement.targets.exclude:
        return Halt("the rollout leaves this device out now")
    unfit = _not_meant(announcement, device)
    if unfit:
        return Ignore(unfit)
    heard_at = known.heard_at if known and known.rollout == announcement.rollout else now
    return _when(announcement, device, heard_at=heard_at, now=now)


def _not_ours(announcement: Announcement, device: DeviceView, known: Known | None) -> str:
    if is_older(announcement, known):
        return "older than what is known"
    if announcement.channel != device.channel:
        return f"this device follows {device.channel}"
    return "" if device.takes(announcement.package) else "not among this device's packages"


def _not_meant(announcement: Announcement, device: DeviceView) -> str:
    group = announcement.policy.set
    if group is not None and group.packages.get(announcement.package) != announcement.version:
        return "its set names another version of it"
    if announcement.package in device.pins:
        return f"pinned to {device.pins[announcement.package]}"
    meant = is_meant(
        announcement.targets, rollout=announcement.rollout, device=device.id, tags=device.tags, facts=device.facts
    )
    return version_problem(announcement.version) or ("" if meant else "not among the targets")


def is_older(announcement: Announcement, known: Known | None) -> bool:
    """Whether the announcement is one from before `known`.

    Within a rollout the revision decides. Rollout ids are UUIDv7 and so sort by time: another rollout is
    older when both its id and its revision say so. Either alone may mislead: a controller that was set up
    anew counts revisions from 1 again, and one without a clock battery may give ids from the past.
    """
    if known is None:
        return False
    if announcement.rollout == known.rollout:
        return announcement.revision < known.revision
    return announcement.rollout < known.rollout and announcement.revision <= known.revision


def jitter_of(rollout: str, device: str, jitter_s: float) -> timedelta:
    """The device's own wait in a rollout: evenly spread, the same whenever it is asked for."""
    digest = hashlib.sha256(f"jitter:{rollout}:{device}".encode()).digest()
    return timedelta(seconds=jitter_s * (int.from_bytes(digest[:4], "big") / 2**32))


def version_problem(version: str) -> str:
    """One line on what is wrong with a version, or an empty string."""
    try:
        parse(version)
    except PublisherError as error:
        return str(error)
    return ""


def _when(announcement: Announcement, device: DeviceView, *, heard_at: datetime, now: datetime) -> Decision:
    policy = announcement.policy
    if policy.deadline and now > policy.deadline:
        return Ignore(f"nobody starts after {policy.deadline.isoformat()}")
    due, reason = now, ""
    not_before = min(policy.not_before, _LATEST) if policy.not_before else None
    if not_before and not_before > due:
        due, reason = not_before, "not_before"
    spread = max(heard_at, not_before or heard_at) + jitter_of(announcement.rollout, device.id, policy.jitter_s)
    if spread > due:
        due, reason = spread, "jitter"
    theirs = [policy.window] if policy.window else []
    opens = next_in_all([theirs, device.windows], due, device.zone)
    if opens > due:
        due, reason = opens, "window"
    return Defer(due, reason) if due > now else Accept()
