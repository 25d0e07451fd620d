"""When to ask which device to send events again. Pure: the time is passed in, in seconds on any steady clock.

A gap is given a moment to close by itself, as events that are under way may come after a report. Then the
device is asked, and asked again ever more seldom: one that cannot answer must not be asked for ever and ever.
"""

from dataclasses import dataclass, replace
from typing import Final

from controller.fleet.progress import SeqTrack

GRACE_S: Final = 2.0
FIRST_WAIT_S: Final = 30.0
LONGEST_WAIT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Gap:
    after_seq: int
    due: float
    wait: float
    asked: bool


class ReplayPlanner:
    """Remembers the devices that have gaps, and no others."""

    def __init__(self) -> None:
        self._gaps: dict[str, _Gap] = {}
        self._demands: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many devices have gaps."""
        return len(self._gaps)

    def note(self, device: str, track: SeqTrack, now: float) -> None:
        """What is here of a device now."""
        gap = self._gaps.get(device)
        if not track.missing:
            self._gaps.pop(device, None)
        elif gap is None:
            self._gaps[device] = _Gap(track.contiguous, now + GRACE_S, FIRST_WAIT_S, asked=False)
        elif track.contiguous > gap.after_seq and gap.asked:
            # It is answering: the rest is asked for only when it stops.
            self._gaps[device] = _Gap(track.contiguous, now + FIRST_WAIT_S, FIRST_WAIT_S, asked=True)
        else:
            self._gaps[device] = replace(gap, after_seq=track.contiguous)

    def forget(self, device: str) -> None:
        """The device is gone for good."""
        self._gaps.pop(device, None)
        self._demands.pop(device, None)

    def demand(self, device: str, now: float) -> None:
        """Ask a device for everything once, although no gap is known: its journal seems to have begun again."""
        self._demands.setdefault(device, now + GRACE_S)

    def returned(self, device: str, now: float) -> None:
        """The device has connected: it can answer now, whatever it did not before."""
        gap = self._gaps.get(device)
        if gap is not None:
            self._gaps[device] = replace(gap, due=min(gap.due, now + GRACE_S), wait=FIRST_WAIT_S)

    def due(self, now: float) -> list[tuple[str, int]]:
        """Whom to ask now: `(device, after_seq)`. Takes it that they are asked."""
        asked = {device: gap.after_seq for device, gap in self._gaps.items() if gap.due <= now}
        for device in asked:
            gap = self._gaps[device]
            wait = min(gap.wait * 2, LONGEST_WAIT_S)
            self._gaps[device] = replace(gap, due=now + gap.wait, wait=wait, asked=True)
        for device in [device for device, due in self._demands.items() if due <= now]:
            del self._demands[device]
            asked[device] = 0
        return sorted(asked.items())

    def next_due(self) -> float | None:
        """When `due` will have somebody next; None for nobody."""
        return min([*(gap.due for gap in self._gaps.values()), *self._demands.values()], default=None)
