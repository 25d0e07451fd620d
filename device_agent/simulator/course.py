"""Who is who in a simulated fleet, and how updates go on each device. Pure, and the same for the same seed."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from schemas.messages import ErrorReport, FactValue, Phase

MIB: Final = 1024 * 1024
SLOW_FACTOR: Final = 10.0
"""A slow device takes so many times as long for each step."""


class Kind(StrEnum):
    """What is special about a device."""

    HEALTHY = "healthy"
    FAILING = "failing"
    SLOW = "slow"
    SILENT = "silent"
    """Takes a release, and is not heard of again from the middle of it on."""
    FLAPPING = "flapping"
    """Loses its connection again and again."""
    DUPLICATED = "duplicated"
    """Another device has the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """In which phase an update fails, and why."""

    phase: Phase
    error: ErrorReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one update goes.

    Attributes:
        size: bytes that are fetched.
        fetch_s: how long that takes; likewise `switch_s` and `probation_s`.
        failure: where and why it fails, if it does.
        silent: whether the device is not heard of again once it fetches.
    """

    size: int
    fetch_s: float = 0.0
    switch_s: float = 0.0
    probation_s: float = 0.0
    failure: Failure | None = None
    silent: bool = False


FAILURES: Final = (
    Failure(
        phase=Phase.PROBATION,
        error=ErrorReport(
            code="health.http",
            message="simulated: http://127.0.0.1:8080/health answered 500 instead of 200",
            log_tail="starting\nlistening on 8080\nERROR cannot open /dev/ttyAMA0: no such device",
        ),
    ),
    Failure(
        phase=Phase.PROBATION,
        error=ErrorReport(
            code="service.crashed",
            message="simulated: the service ended 3 times within 10 s, last with status 1",
            log_tail="Traceback (most recent call last):\n  ...\nImportError: libatlas.so.3: cannot open shared object",
        ),
    ),
    Failure(
        phase=Phase.FETCHING,
        error=ErrorReport(code="disk.full", message="simulated: 12 MiB are free, the release needs 40 MiB"),
    ),
    Failure(
        phase=Phase.ACCEPTED,
        error=ErrorReport(
            code="requires.hardware", message="simulated: the release is for Raspberry Pi 5, this is another model"
        ),
    ),
)
"""One of these is chosen for each update of a failing device."""

_MODELS: Final = ("Raspberry Pi 3 Model B Plus Rev 1.3", "Raspberry Pi 4 Model B Rev 1.4", "Raspberry Pi 5 Model B")
_SITE: Final = 50
"""Devices at one site."""


def kinds_of(count: int, rates: Mapping[Kind, float], seed: int) -> list[Kind]:
    """The kind of each device, in the order of the fleet: exactly the shares asked for, spread by the seed.

    Args:
        rates: share of each kind, 0 to 1; who is left is healthy. A share above 0 means at least one device.
    """
    kinds: list[Kind] = []
    for kind, rate in rates.items():
        kinds += [kind] * (max(1, round(rate * count)) if rate > 0 else 0)
    kinds = kinds[:count] + [Kind.HEALTHY] * (count - len(kinds))
    random.Random(f"{seed}:kinds").shuffle(kinds)  # noqa: S311  # guards nothing
    return kinds


def course_of(device: str, kind: Kind, *, package: str, version: str, bad: bool, pace_s: float, seed: int) -> Course:
    """How a release's update goes on a device: the same for the same arguments, whenever and however often.

    Args:
        bad: whether the release itself does not work anywhere.
        pace_s: how long an update of a healthy device takes on average, seconds; half of it is probation.
    """
    chance = _digest(f"{seed}:{device}:{package}:{version}")  # a generator of numbers costs ten times as much
    spread = 0.5 + int.from_bytes(chance[:4], "big") / 2**32
    pace_s *= spread * (SLOW_FACTOR if kind is Kind.SLOW else 1.0)
    chosen = FAILURES[chance[4] % len(FAILURES)]
    failure = FAILURES[0] if bad else chosen if kind is Kind.FAILING else None
    return Course(
        size=release_size(package, version),
        fetch_s=0.4 * pace_s,
        switch_s=0.1 * pace_s,
        probation_s=0.5 * pace_s,
        failure=failure,
        silent=kind is Kind.SILENT,
    )


@cache
def release_size(package: str, version: str) -> int:
    """Bytes of a release: 1 to 20 MiB, the same on every device."""
    return MIB + int.from_bytes(_digest(f"{package} {version}")[:4], "big") % (19 * MIB)


@cache
def manifest_of(package: str, version: str) -> str:
    """What stands for the sha256 of the release's manifest: nothing is fetched, so nothing is known of the real one."""
    return _digest(f"simulated {package} {version}").hex()


def tags_of(number: int) -> dict[str, str]:
    """Tags of the device with this number: sites of 50 devices, and one of ten in the ring `early`."""
    return {"site": f"site-{number // _SITE + 1:03}", "ring": "early" if number % 10 == 0 else "broad"}


def facts_of(device: str, number: int, *, agent_version: str, boot_id: str) -> dict[str, FactValue]:
    """Facts as an agent on a Raspberry Pi reports them."""
    serial = _digest(device)[:8].hex()
    return {
        "model": _MODELS[number % len(_MODELS)],
        "serial": serial,
        "platform": "linux-aarch64",
        "os": "Debian GNU/Linux 12 (bookworm)",
        "python": "3.11.2",
        "agent_version": agent_version,
        "disk_free": (4 + number % 24) * 1024 * MIB,
        "memory": (1, 4, 8)[number % len(_MODELS)] * 1024 * MIB,
        "boot_id": boot_id,
        "simulated": True,
    }


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
