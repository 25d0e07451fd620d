"""How a device's place in a rollout is shown: one letter, one shape and one word for each, never colour alone."""

from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from sqlalchemy import ColumnElement, and_, case, literal, or_

from controller.rollouts.plan import RolloutState
from controller.rollouts.tables import rollout_devices
from schemas.messages import Phase

Kind = Literal["waiting", "working", "good", "bad", "back", "aside"]
"""What a colour stands for."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How one place is shown. `code` is its letter in a string of cells, and the name of its shape."""

    code: str
    label: str
    kind: Kind


UNKNOWN: Final = Look(code="u", label="unknown", kind="aside")
LEFT_OUT: Final = Look(code="u", label="left out", kind="aside")
"""Of a device that the release leaves out by name: it is listed, and has no cell."""

PHASES: Final[dict[Phase, Look]] = {
    Phase.ACCEPTED: Look(code="a", label="accepted", kind="working"),
    Phase.DEFERRED: Look(code="d", label="deferred", kind="waiting"),
    Phase.REJECTED: Look(code="j", label="rejected", kind="bad"),
    Phase.FETCHING: Look(code="f", label="fetching", kind="working"),
    Phase.STAGED: Look(code="g", label="staged", kind="working"),
    Phase.SWITCHED: Look(code="w", label="switched", kind="working"),
    Phase.PROBATION: Look(code="b", label="probation", kind="working"),
    Phase.SUCCEEDED: Look(code="s", label="succeeded", kind="good"),
    Phase.ROLLING_BACK: Look(code="r", label="rolling back", kind="back"),
    Phase.ROLLED_BACK: Look(code="k", label="rolled back", kind="bad"),
    Phase.FAILED: Look(code="x", label="failed", kind="bad"),
    Phase.CANCELLED: Look(code="c", label="cancelled", kind="aside"),
}
"""What a device said of itself last."""

VERDICTS: Final[dict[str, Look]] = {
    "waiting": Look(code="i", label="waits for its wave", kind="waiting"),
    "pending": Look(code="p", label="may start", kind="waiting"),
    "held": Look(code="h", label="held", kind="aside"),
    "ended": Look(code="v", label="not begun", kind="aside"),
    "missed": Look(code="m", label="missed it", kind="aside"),
    "unreached": Look(code="n", label="not reached", kind="aside"),
    "asleep": Look(code="z", label="asleep as usual", kind="aside"),
    "late": Look(code="l", label="late", kind="bad"),
    "silent": Look(code="q", label="silent", kind="bad"),
    "soaking": Look(code="o", label="soaking", kind="working"),
    "left": Look(code="e", label="left it again", kind="bad"),
    "deferred": PHASES[Phase.DEFERRED],
    "rejected": PHASES[Phase.REJECTED],
    "succeeded": PHASES[Phase.SUCCEEDED],
    "rolled_back": PHASES[Phase.ROLLED_BACK],
    "failed": PHASES[Phase.FAILED],
    "cancelled": PHASES[Phase.CANCELLED],
}
"""What the engine says of a device; where it only says that it is updating, the device's own word counts."""

LOOKS: Final[dict[str, Look]] = {look.code: look for look in (*PHASES.values(), *VERDICTS.values(), UNKNOWN)}
"""By letter, in the order in which a legend lists them."""

LEGEND: Final = "sobwgfarpidhvnzkxejqlmcu"
"""Done first, then what goes on, what waits, and what went wrong."""

STATES: Final[dict[RolloutState, Kind]] = {
    RolloutState.ACTIVE: "working",
    RolloutState.PAUSED: "waiting",
    RolloutState.HALTED: "bad",
    RolloutState.REVERTED: "back",
    RolloutState.COMPLETE: "good",
    RolloutState.SUPERSEDED: "aside",
    RolloutState.WITHDRAWN: "aside",
}


def look_of(verdict: str | None, phase: str | None) -> Look:
    """How a device with this verdict, and this last word of its own, is shown; the same as `code_column`."""
    if verdict in VERDICTS:
        return VERDICTS[verdict]
    return PHASES.get(Phase(phase), UNKNOWN) if phase in set(Phase) else UNKNOWN


def code_column() -> ColumnElement[str]:
    """The letter of each row of `rollout_devices`, worked out by the database."""
    word = rollout_devices.c
    judged = [(word.verdict == name, literal(look.code)) for name, look in VERDICTS.items()]
    said = [(word.phase == phase.value, literal(look.code)) for phase, look in PHASES.items()]
    return case(*judged, *said, else_=literal(UNKNOWN.code))


def with_code(code: str) -> ColumnElement[bool]:
    """Which rows of `rollout_devices` have this letter; by verdict where that suffices, so that the index serves."""
    word = rollout_devices.c
    verdicts = [name for name, look in VERDICTS.items() if look.code == code]
    phases = [phase.value for phase, look in PHASES.items() if look.code == code]
    busy = or_(word.verdict.is_(None), word.verdict.not_in(list(VERDICTS)))
    if verdicts:
        return word.verdict.in_(verdicts)
    return and_(busy, word.phase.in_(phases))


def letters_of(cells: str) -> dict[str, int]:
    """How many cells have each letter; counted letter by letter, as a tenth of the time goes by than cell by cell."""
    return {code: number for code in LOOKS if (number := cells.count(code))}


def shares(letters: Mapping[str, int]) -> list[tuple[Look, int]]:
    """How many cells have each letter, in the order of the legend."""
    return [(LOOKS[code], letters[code]) for code in LEGEND if letters.get(code)]


def kinds(letters: Mapping[str, int]) -> dict[Kind, int]:
    """How many cells are of each kind, by how many have each letter."""
    counted: dict[Kind, int] = dict.fromkeys(("good", "working", "back", "waiting", "bad", "aside"), 0)
    for code, number in letters.items():
        counted[LOOKS.get(code, UNKNOWN).kind] += number
    return counted


def verdict_codes(verdicts: Mapping[str, int]) -> dict[str, int]:
    """Counts by verdict as counts by letter; whoever updates counts as on its way."""
    counted: Counter[str] = Counter()
    for verdict, number in verdicts.items():
        look = VERDICTS.get(verdict, PHASES[Phase.ACCEPTED])
        counted[look.code] += number
    return dict(counted)
