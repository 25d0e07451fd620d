"""What templates are given where a stored value does not say it plainly enough."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from controller.rollouts.board import Board
from controller.rollouts.pace import Tally
from controller.rollouts.phases import Kind, Look, kinds, shares, verdict_codes
from controller.rollouts.plan import RolloutState
from controller.rollouts.views import WaveState, WaveView
from controller.web.fleet_reading import RolloutLine, VersionCount
from schemas.messages import FactValue, Phase

WIDTH: Final = 1000
"""Bars and charts are drawn this wide, and scaled."""
HEIGHT: Final = 200
VERSIONS_SHOWN: Final = 6
READINGS: Final = (
    "temperature_c",
    "throttled",
    "under_voltage",
    "disk_free",
    "memory_free",
    "clock_behind_s",
    "services",
)
"""Facts that change by themselves, as agents name them: how the device feels rather than what it is."""
WAVES: Final[dict[WaveState, Kind]] = {
    WaveState.WAITING: "aside",
    WaveState.AWAITING_APPROVAL: "back",
    WaveState.RUNNING: "working",
    WaveState.SOAKING: "working",
    WaveState.PROVEN: "good",
    WaveState.ACCEPTED: "back",
    WaveState.FAILED: "bad",
    WaveState.STOPPED: "waiting",
    WaveState.ENDED: "aside",
}


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a bar: from `x`, so wide, of this kind."""

    x: float
    width: float
    kind: Kind


class RolloutCard(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout in one line: a bar, and the numbers behind it."""

    id: str
    package: str
    version: str
    channel: str
    state: RolloutState
    before: RolloutState | None
    awaits_approval: bool
    created_at: datetime
    meant: int
    done: int
    segments: list[Segment]
    counts: dict[Kind, int]


class VersionBar(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices run a version, as a share of all with the package; `unproven` are not done with it."""

    version: str
    devices: int
    width: float
    unproven: int


class Cells(msgspec.Struct, frozen=True, kw_only=True):
    """What the grid's script is given.

    Attributes:
        order: changes when the devices do.
        cells: one letter a device.
        waves: a line for each stretch of cells, and how many they are; none where there is but one.
    """

    order: str
    cells: str
    waves: list[tuple[str, int]]


class WaveCard(msgspec.Struct, frozen=True, kw_only=True):
    """A wave, and how its devices are."""

    wave: WaveView
    counts: dict[Kind, int]
    segments: list[Segment]
    kind: Kind


class Legend(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a legend."""

    look: Look
    number: int
    share: float


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A time line: points of lines that grow from left to right, and how many the highest is."""

    good: str
    bad: str
    area: str
    top: int
    any_bad: bool


def rollout_card(line: RolloutLine) -> RolloutCard:
    """A line of a list."""
    counted = kinds(verdict_codes(line.verdicts))
    return RolloutCard(
        id=line.id,
        package=line.package,
        version=line.version,
        channel=line.channel,
        state=line.state,
        before=line.before,
        awaits_approval=line.awaits_approval,
        created_at=line.created_at,
        meant=line.meant,
        done=counted["good"] + counted["bad"] + counted["aside"],
        segments=segments(counted),
        counts=counted,
    )


def segments(counted: dict[Kind, int], width: float = WIDTH) -> list[Segment]:
    """The parts of a bar, in the order good, working, going back, waiting, aside, bad."""
    whole = sum(counted.values())
    found, x = [], 0.0
    for kind in ("good", "working", "back", "waiting", "aside", "bad"):
        part = counted[kind] / whole * width if whole else 0.0
        if part:
            found.append(Segment(x=round(x, 2), width=round(part, 2), kind=kind))
        x += part
    return found


def version_bars(counts: Sequence[VersionCount]) -> list[VersionBar]:
    """The versions that most devices run, and one line for all others."""
    whole = sum(one.devices for one in counts)
    first, rest = counts[:VERSIONS_SHOWN], counts[VERSIONS_SHOWN:]
    bars = [
        VersionBar(
            version=one.version,
            devices=one.devices,
            width=one.devices / whole * WIDTH,
            unproven=one.devices - one.phases.get(Phase.SUCCEEDED, 0),
        )
        for one in first
    ]
    if rest:
        others = sum(one.devices for one in rest)
        bars.append(VersionBar(version="", devices=others, width=others / whole * WIDTH, unproven=0))
    return bars


def legend(letters: Mapping[str, int]) -> list[Legend]:
    """How many cells are shown in which way."""
    whole = sum(letters.values())
    return [Legend(look=look, number=number, share=number / whole) for look, number in shares(letters)]


def chart(tallies: Sequence[Tally], meant: int) -> Chart:
    """Devices that were done by then, one line for those that succeeded and one for the others."""
    good, bad, line, bad_line = 0, 0, [(0.0, 0)], [(0.0, 0)]
    step = WIDTH / max(len(tallies), 1)
    for number, tally in enumerate(tallies, 1):
        good, bad = good + tally.good, bad + tally.bad
        line.append((number * step, good))
        bad_line.append((number * step, bad))
    top = max(meant, good, bad, 1)
    points = _points(line, top)
    return Chart(
        good=points,
        bad=_points(bad_line, top),
        area=f"0,{HEIGHT} {points} {WIDTH},{HEIGHT}",
        top=top,
        any_bad=bad > 0,
    )


def _points(line: Sequence[tuple[float, int]], top: int) -> str:
    return " ".join(f"{x:.1f},{HEIGHT - y / top * HEIGHT:.1f}" for x, y in line)


def readings(facts: dict[str, FactValue]) -> dict[str, FactValue]:
    """Facts that tell how the device feels."""
    return {name: facts[name] for name in READINGS if name in facts}


def lasting(facts: dict[str, FactValue]) -> dict[str, FactValue]:
    """Facts that tell what the device is."""
    return {name: value for name, value in sorted(facts.items()) if name not in READINGS}


def cells_of(board: Board, waves: Sequence[WaveView]) -> Cells:
    """The grid, by waves where there are several."""
    lines: list[tuple[str, int]] = []
    if len(waves) > 1:
        shares = {number: f"Wave {number + 1}: {wave.share}" for number, wave in enumerate(waves)}
        lines = [(shares.get(number, "In no wave yet"), count) for number, count in board.waves]
    return Cells(order=board.order, cells=board.cells, waves=lines)


def wave_card(wave: WaveView) -> WaveCard:
    """A wave with its bar."""
    counted = kinds(verdict_codes({str(name): number for name, number in wave.verdicts.items()}))
    return WaveCard(wave=wave, counts=counted, segments=segments(counted), kind=WAVES[wave.state])
