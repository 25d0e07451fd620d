"""Whether the device itself is fit for an update: what was read, held against the owner's limits. Pure.

What a device cannot tell (None) never stands in an update's way.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from schemas.messages import FactValue

MIB: Final = 1024 * 1024
_CLOCK: Final = "clock"


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What the device says of itself now; None is unknown.

    Attributes:
        disk_free: bytes where the agent keeps its things.
        memory_free: bytes that programs could still get.
        temperature_c: the hottest of the processor's sensors.
        under_voltage: whether the supply is too weak at this moment.
        throttled: whether the processor is slowed down at this moment, for heat or a weak supply.
        clock_behind_s: by how much the clock is behind what is proven, seconds.
    """

    disk_free: int | None = None
    memory_free: int | None = None
    temperature_c: float | None = None
    under_voltage: bool | None = None
    throttled: bool | None = None
    clock_behind_s: float | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner asks of the device; a limit of 0 (or False) is not asked about.

    Attributes:
        disk_free_mib: at least so much; besides, each update needs room for itself.
        memory_free_mib: at least so much.
        temperature_c: at most that.
        under_voltage: whether a weak supply counts.
        throttled: whether a slowed processor counts.
        clock_behind_s: at most so much.
        interval_s: time between two looks while something is over its limit.
        longest_s: when it was over its limit for so long, the update fails.
    """

    disk_free_mib: float = 0
    memory_free_mib: float = 0
    temperature_c: float = 0
    under_voltage: bool = False
    throttled: bool = False
    clock_behind_s: float = 0
    interval_s: float = 60
    longest_s: float = 86_400


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that is not kept: one word for it, and a line with the reading."""

    reason: str
    reading: str


def trouble_with(now: Readings, limits: Limits, *, before: bool) -> Trouble | None:
    """The first limit that is not kept.

    Args:
        before: whether an update is to begin or to switch. Afterwards the clock says nothing about the release: a board
            without a clock battery that has just restarted does not know the time yet.
    """
    return next((found for found in _troubles(now, limits) if before or found.reason != _CLOCK), None)


def _troubles(now: Readings, limits: Limits) -> Iterator[Trouble]:
    if _is_over(now.clock_behind_s, limits.clock_behind_s):
        behind = f"the clock is {now.clock_behind_s:.0f} s behind what is proven, over {limits.clock_behind_s:g} s"
        yield Trouble(reason=_CLOCK, reading=behind)
    if limits.under_voltage and now.under_voltage:
        yield Trouble(reason="under-voltage", reading="the power supply is too weak at this moment")
    if _is_over(now.temperature_c, limits.temperature_c):
        yield Trouble(reason="temperature", reading=f"{now.temperature_c:.1f} °C, over {limits.temperature_c:g} °C")
    if limits.throttled and now.throttled:
        yield Trouble(reason="throttled", reading="the processor is slowed down at this moment")
    if now.memory_free is not None and now.memory_free < limits.memory_free_mib * MIB:
        memory = f"{now.memory_free // MIB} MiB of memory are free, under {limits.memory_free_mib:g}"
        yield Trouble(reason="memory", reading=memory)
    if now.disk_free is not None and now.disk_free < limits.disk_free_mib * MIB:
        disk = f"{now.disk_free // MIB} MiB of the disk are free, under {limits.disk_free_mib:g}"
        yield Trouble(reason="disk", reading=disk)


def facts_of(now: Readings) -> dict[str, FactValue]:
    """The readings that are known as facts, coarse: a fact is for people and for targets, not a chart."""
    found: dict[str, FactValue] = {
        "memory_free": now.memory_free // MIB * MIB if now.memory_free is not None else None,
        "temperature_c": round(now.temperature_c) if now.temperature_c is not None else None,
        "under_voltage": now.under_voltage,
        "throttled": now.throttled,
        "clock_behind_s": round(now.clock_behind_s) if now.clock_behind_s else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_over(reading: float | None, limit: float) -> bool:
    return reading is not None and limit > 0 and reading > limit
