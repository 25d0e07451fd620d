"""How the rollout of a release would go, put together from what was read of its fleet."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from controller.preflight.openings import Openings
from controller.preflight.pace import Pace, estimate
from controller.preflight.rules import KnownDevice
from controller.preflight.views import Estimate, ForeseenDevice, ForeseenWave, Preflight
from controller.preflight.waves import drawn_when, starting, waves_s
from controller.rollouts.naming import SHOWN, never_heard_of, nobody_is_meant
from controller.rollouts.waves import RolloutPlan, empty_waves, never_text
from schemas.messages import BUCKETS, RolloutPolicy, Targets

T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What would be announced, and to whom."""

    package: str
    version: str
    channel: str
    targets: Targets
    policy: RolloutPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What the database says about those whom a release is for.

    Attributes:
        known: devices of the channel that may be meant; `number` of those that are.
        strangers: ids that the release or a wave names, but that were never heard of.
        pace: of the last rollouts.
        nobody: that no device follows the channel.
        ended: which rollout it would take the place of.
        fewer: that the rollout before it is for more devices.
        refused: who would refuse it as older.
    """

    known: Sequence[KnownDevice]
    number: int
    strangers: Sequence[str]
    pace: Pace | None
    nobody: str | None
    ended: str | None
    fewer: str | None
    refused: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A rollout before it begins.

    Attributes:
        foreseen: what each device would do that may be meant, by id.
        waves: of the plan, as they are foreseen.
        openings: when devices may start.
    """

    release: Release
    fleet: Fleet
    plan: RolloutPlan
    foreseen: Sequence[ForeseenDevice]
    waves: list[ForeseenWave]
    openings: Openings

    def told(self, now: datetime, *, after: str, limit: int) -> Preflight:
        """All of it, with at most so many of the devices after an id."""
        ready = [one for one in self.foreseen if not one.obstacles]
        begin, later = self._starting()
        page = [one for one in self.foreseen if one.device > after][: limit + 1]
        return Preflight(
            package=self.release.package,
            version=self.release.version,
            channel=self.release.channel,
            meant=len(self.foreseen),
            ready=len(ready),
            starting=begin,
            later=later,
            starts_at=self.openings.later,
            starts_when=self.openings.told(),
            bytes=sum(one.bytes for one in ready),
            routes=_counts(one.route for one in ready if one.route is not None),
            obstacles=_counts(obstacle.code for one in self.foreseen for obstacle in one.obstacles),
            plan=self.plan.name,
            waves=self.waves,
            drawn_when=drawn_when(self.plan, [one.wave for one in self.foreseen]),
            estimate=self._estimate(len(ready), now),
            warnings=list(self._warnings()),
            devices=page[:limit],
            next=page[limit - 1].device if len(page) > limit else None,
        )

    def _starting(self) -> tuple[int, int]:
        sure, able = [one.wave for one in self.foreseen], [not one.obstacles for one in self.foreseen]
        return starting(self.plan, self.waves, sure, able)

    def _estimate(self, ready: int, now: datetime) -> Estimate:
        return estimate(
            self.fleet.pace,
            ready=ready,
            channel=self.release.channel,
            now=now,
            openings=self.openings,
            whole=self._whole_s,
            approvals=sum(wave.approval for wave in self.waves),
        )

    def _whole_s(self, device_s: float) -> float:
        """Seconds until it is done where one device takes so many."""
        jitter_s = self.release.policy.jitter_s or self.plan.jitter_s
        return self.openings.lead_s + waves_s(
            self.plan, self.waves, device_s, jitter_s, opens_s=lambda from_s: self.openings.next_s(from_s, device_s)
        )

    def _warnings(self) -> Iterator[str]:
        channel, targets, fleet = self.release.channel, self.release.targets, self.fleet
        if fleet.ended is not None:
            yield fleet.ended
        if fleet.nobody is not None:
            yield fleet.nobody
        elif not self.foreseen:
            yield nobody_is_meant(channel)
        else:
            yield from empty_waves(self.plan, [wave.devices for wave in self.waves])
        if (never := never_text(self.plan)) is not None:
            yield never
        if fleet.refused is not None:
            yield fleet.refused
        if fleet.fewer is not None:
            yield fleet.fewer
        if fleet.strangers:
            yield never_heard_of(fleet.strangers)
        known = {one.device for one in self.foreseen} | {*fleet.strangers, *targets.exclude}
        elsewhere = [device for device in targets.devices if device not in known]
        if elsewhere:
            shown = ", ".join(elsewhere[:SHOWN]) + (" …" if len(elsewhere) > SHOWN else "")
            yield f"named, but not on channel {channel} or left out by a condition: {shown}"
        if 0 < targets.upto < BUCKETS:
            yield f"a share of {targets.upto / 100:g} % of these is drawn when it is announced"


def _counts(items: Iterable[T]) -> dict[T, int]:
    return dict(Counter(items).most_common())
