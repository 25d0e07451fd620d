"""The part of `agent.toml` that says when updates may start and switch, and when a release may stay."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec

from device_agent.gate import Limits
from schemas.errors import one_line
from schemas.messages import Window

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_WINDOW: Final = re.compile(rf"(?:(?P<days>[a-z]{{3}}(?:[,-][a-z]{{3}})*) )?(?P<start>{_CLOCK})-(?P<end>{_CLOCK})")

Amount = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for the device's own health, before an update and while a release proves itself; 0 or false: not asked.

    Attributes:
        disk_free_mib: at least so much must be free, besides what an update itself needs.
        memory_free_mib: at least so much must be free.
        temperature_c: the processor may be as hot as that. A Raspberry Pi slows down at 80 and stops at 85.
        under_voltage: whether a power supply that is too weak at this moment counts.
        throttled: whether a processor that is slowed down at this moment counts.
        clock_behind_s: by how much the clock may be behind what signatures have proven.
        interval_s: time between two looks while something is over its limit.
        longest_s: an update fails (`health.device`) that has waited for the device for so long.
    """

    disk_free_mib: Amount = 0
    memory_free_mib: Amount = 24
    temperature_c: Amount = 85
    under_voltage: bool = True
    throttled: bool = True
    clock_behind_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)] = 7 * 86_400
    interval_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60
    longest_s: Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)] = 86_400

    def limits(self) -> Limits:
        """As the engine asks for them."""
        return Limits(**msgspec.structs.asdict(self))


def read_window(text: str) -> Window:
    """A window as owners write it: `22:00-05:00`, `sat,sun 01:00-06:00`, `mon-fri 03:00-04:00`.

    Raises:
        ValueError: it is none; one line.
    """
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{one_line(text, 60)!r} is not a window; write e.g. '22:00-05:00' or 'sat,sun 01:00-06:00'")
    return Window(start=found["start"], end=found["end"], days=sorted(set(_days(found["days"] or ""))))


def window_problems(windows: Sequence[str]) -> Iterator[str]:
    """One line for each that is none."""
    for text in windows:
        try:
            read_window(text)
        except ValueError as error:
            yield str(error)


def _days(text: str) -> Iterator[int]:
    for part in filter(None, text.split(",")):
        names = part.split("-")
        if len(names) > 2 or not set(names) <= set(_DAYS):
            raise ValueError(f"{part!r} is not a day; there are {', '.join(_DAYS)}, and e.g. mon-fri")
        first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
        # fri-mon goes over the end of the week
        yield from ((first + step) % 7 for step in range((last - first) % 7 + 1))
