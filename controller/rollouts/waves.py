"""A rollout's plan as people write it: waves, and what each of them has to prove before the next one begins.

The same structs are a plan file (TOML), a part of the API's wish (JSON), and what is kept with the rollout.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from schemas.errors import OperatorError, one_line
from schemas.messages import BUCKETS, Seconds, TagValue, Time, Window
from schemas.names import DeviceId, Key

MAX_WAVES: Final = 20
MAX_IDS: Final = 3000
"""Ids that one announcement can list; the wire contract's limit on `targets.devices`."""

_LONGEST: Final = timedelta(days=366)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

DURATION_PATTERN: Final = r"^([0-9]{1,8}[smhd])+(?!\n)$"
Duration = Annotated[str, msgspec.Meta(pattern=DURATION_PATTERN, max_length=32, examples=["10m", "1h30m"])]
"""`90s`, `10m`, `2h`, `1h30m`, `7d`."""

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Where = Annotated[
    dict[Key, TagValue | Annotated[list[TagValue], msgspec.Meta(min_length=1, max_length=256)]],
    msgspec.Meta(min_length=1, max_length=16),
]


class OnFailure(StrEnum):
    """What becomes of a rollout when a wave fails."""

    PAUSE = "pause"
    HALT = "halt"
    REVERT = "revert"


class Wave(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some of the devices, and what is wanted of them before the next wave. Exactly one of the first three is given.

    Attributes:
        upto: percent of all devices that are meant, those of the waves before included; at least one more device.
        devices: how many, chosen by the engine from those that are online; or their ids.
        where: tags and facts that must all hold; a list means any of its values.
        soak: how long a device has to stay well after its probation before it counts as a success.
        success: percent of the devices reached that must have succeeded.
        max_failures: more failures than this end it; None for no limit.
        max_failures_percent: a larger share of failures among the results ends it; None for no limit.
        min_results: results that there must be before a percentage says anything.
        deadline: after this time from its beginning nobody is waited for; None for no limit.
        concurrency: at most so many devices at a time; None for all at once.
        concurrency_per: a tag (or fact): `concurrency` counts for each of its values.
        approval: a person must say go before it begins.
    """

    upto: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    devices: (
        Annotated[int, msgspec.Meta(ge=1, le=MAX_IDS)]
        | Annotated[list[DeviceId], msgspec.Meta(min_length=1, max_length=MAX_IDS)]
        | None
    ) = None
    where: Where | None = None
    soak: Duration = "0s"
    success: Percent = 100
    max_failures: Count | None = None
    max_failures_percent: Percent | None = None
    min_results: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    deadline: Duration | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    concurrency_per: Key | None = None
    approval: bool = False

    @property
    def share(self) -> str:
        """Whom it means, in a few words."""
        if self.upto is not None:
            return "everybody" if self.upto == 100 else f"up to {self.upto:g} %"
        if self.where is not None:
            return " and ".join(
                f"{key}={value if isinstance(value, str) else '|'.join(value)}" for key, value in self.where.items()
            )
        number = self.devices if isinstance(self.devices, int) else len(self.devices or [])
        return f"{number} device{'' if number == 1 else 's'}"

    @property
    def picks(self) -> int:
        """How many devices are picked when it begins; 0 for a wave that means them in another way."""
        return self.devices if isinstance(self.devices, int) else 0

    @property
    def buckets(self) -> int:
        """`upto` as a share of the buckets, rounded up; 0 for a wave that is not a share."""
        return 0 if self.upto is None else -int(-self.upto * BUCKETS // 100)


class RolloutPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a release gets to its devices.

    Attributes:
        name: what people call it.
        waves: one after the other; written `[[wave]]` in a plan file, and `wave` in JSON.
        on_failure: what happens when a wave fails.
        window: when devices may start; see `schemas.messages.Window`.
        not_before: nobody starts before this.
        jitter: each device waits a random time up to this.
    """

    name: Annotated[str, msgspec.Meta(max_length=64)] = "own"
    waves: Annotated[list[Wave], msgspec.Meta(min_length=1, max_length=MAX_WAVES)] = msgspec.field(name="wave")
    on_failure: OnFailure = OnFailure.HALT
    window: Window | None = None
    not_before: Time | None = None
    jitter: Duration | None = None

    @property
    def jitter_s(self) -> Seconds:
        """Seconds."""
        return seconds(self.jitter) if self.jitter else 0


ALL_AT_ONCE: Final = RolloutPlan(name="all-at-once", waves=[Wave(upto=100, success=0)], on_failure=OnFailure.PAUSE)
"""What a rollout is without a plan. Everything that was released before there were plans had this one."""


def seconds(duration: str) -> float:
    """What a `Duration` says."""
    return float(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", duration)))


def check_plan(plan: RolloutPlan, where: str = "") -> None:
    """Refuse what its types allow and makes no sense.

    Args:
        where: what the error calls the plan, instead of its name.

    Raises:
        OperatorError: `input.bad`, in one line that names the wave.
    """
    highest = 0.0
    where = where or f"plan {one_line(plan.name, 64)!r}"
    for number, wave in enumerate(plan.waves, start=1):
        if problem := _problem(wave, highest):
            raise OperatorError("input.bad", f"{where}, wave {number}: {problem}")
        highest = wave.upto or highest
    if plan.jitter_s > _LONGEST.total_seconds():
        raise OperatorError("input.bad", f"{where}: jitter is longer than a year")


def empty_waves(plan: RolloutPlan, numbers: Sequence[int]) -> list[str]:
    """What there is to say of waves with a condition for which no device is left; one line for each.

    Args:
        plan: the plan.
        numbers: how many devices each of its waves has.
    """
    said = []
    for number, wave in enumerate(plan.waves):
        if wave.where is None or numbers[number]:
            continue
        if number:
            why = f"none that is meant has {wave.share}, or the waves before it have them all"
            said.append(f"no device is left for wave {number + 1}: {why}; it is passed over as long as that is so")
        else:
            said.append(f"no device that is meant has {wave.share}: wave 1 waits until one has")
    return said


def never_text(plan: RolloutPlan) -> str | None:
    """What there is to say of a plan that counts by percent and ends before everybody; None for any other."""
    highest = max(wave.upto or 0 for wave in plan.waves)
    if not 0 < highest < 100:
        return None
    named = "" if all(wave.upto for wave in plan.waves) else ", but those that a wave names"
    return (
        f"{100 - highest:g} % of the devices never get it{named}: the plan {plan.name} ends at upto = {highest:g}; with"
        " a last wave of upto = 100 all do"
    )


def _problem(wave: Wave, highest: float) -> str:
    """What is wrong with a wave, or an empty string."""
    given = [name for name in ("upto", "devices", "where") if getattr(wave, name) is not None]
    soak, deadline = seconds(wave.soak), seconds(wave.deadline) if wave.deadline else None
    longest = _LONGEST.total_seconds()
    problems = {
        f"it takes exactly one of upto, devices and where, and has {' and '.join(given) or 'none'}": len(given) != 1,
        f"upto = {wave.upto or 0:g} is not more than the {highest:g} of a wave before": (wave.upto or 101) <= highest,
        "a device is listed twice": isinstance(wave.devices, list) and len(set(wave.devices)) < len(wave.devices),
        "a time is longer than a year": max(soak, deadline or 0) > longest,
        f"its deadline, {wave.deadline}, is over before its soak of {wave.soak} can be": (
            deadline is not None and deadline <= soak
        ),
        "concurrency_per says for which tag, concurrency how many; it has only the first": (
            wave.concurrency_per is not None and wave.concurrency is None
        ),
    }
    return next((text for text, holds in problems.items() if holds), "")
