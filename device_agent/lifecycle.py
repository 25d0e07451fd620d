"""The life of an update as data: which phase follows which, and where to go on after a restart.

A phase is written to the journal before anything is done about it, so it says which step is to be done,
or done again, next. Steps are idempotent. The tables are the only place that knows the order;
`docs/lifecycle.md` holds the diagram that `render_diagram` draws from them.
"""

from enum import StrEnum
from typing import Final

from schemas.messages import LAST_WORDS, Phase


class Outcome(StrEnum):
    """What came of a step, or what somebody asked for."""

    ACCEPT = "accept"
    DEFER = "defer"
    DUE = "due"
    GO_ON = "go on"
    REJECT = "reject"
    START = "start"
    DONE = "done"
    FAIL = "fail"
    GO_BACK = "go back"
    CANCEL = "cancel"


class Step(StrEnum):
    """What there is to do in a phase; the modules in `device_agent/steps` have the same names."""

    WAIT = "wait"
    CHECK = "check"
    FETCH = "fetch"
    SWITCH = "switch"
    HEALTH = "health"
    PROBATION = "probation"
    ROLLBACK = "rollback"
    NOTHING = "nothing"


class IllegalMoveError(Exception):
    """A step's outcome that the table does not know: a defect. Nothing was changed."""


ENTRIES: Final[dict[Outcome, Phase]] = {
    Outcome.ACCEPT: Phase.ACCEPTED,
    Outcome.DEFER: Phase.DEFERRED,
    Outcome.REJECT: Phase.REJECTED,
    Outcome.CANCEL: Phase.CANCELLED,
}
"""How an update begins. With CANCEL: somebody took the release back before it was begun, and wants to hear of it."""

TRANSITIONS: Final[dict[tuple[Phase, Outcome], Phase]] = {
    (Phase.DEFERRED, Outcome.DUE): Phase.ACCEPTED,
    (Phase.DEFERRED, Outcome.GO_ON): Phase.STAGED,
    (Phase.DEFERRED, Outcome.DEFER): Phase.DEFERRED,
    (Phase.DEFERRED, Outcome.REJECT): Phase.REJECTED,
    (Phase.DEFERRED, Outcome.FAIL): Phase.FAILED,
    (Phase.DEFERRED, Outcome.CANCEL): Phase.CANCELLED,
    (Phase.ACCEPTED, Outcome.START): Phase.FETCHING,
    (Phase.ACCEPTED, Outcome.DEFER): Phase.DEFERRED,
    (Phase.ACCEPTED, Outcome.REJECT): Phase.REJECTED,
    (Phase.ACCEPTED, Outcome.DONE): Phase.SUCCEEDED,
    (Phase.ACCEPTED, Outcome.FAIL): Phase.FAILED,
    (Phase.ACCEPTED, Outcome.GO_BACK): Phase.ROLLING_BACK,
    (Phase.ACCEPTED, Outcome.CANCEL): Phase.CANCELLED,
    (Phase.FETCHING, Outcome.DONE): Phase.STAGED,
    (Phase.FETCHING, Outcome.DEFER): Phase.DEFERRED,
    (Phase.FETCHING, Outcome.REJECT): Phase.REJECTED,
    (Phase.FETCHING, Outcome.FAIL): Phase.FAILED,
    (Phase.FETCHING, Outcome.CANCEL): Phase.CANCELLED,
    (Phase.STAGED, Outcome.DONE): Phase.SWITCHED,
    (Phase.STAGED, Outcome.DEFER): Phase.DEFERRED,
    (Phase.STAGED, Outcome.REJECT): Phase.REJECTED,
    (Phase.STAGED, Outcome.FAIL): Phase.FAILED,
    (Phase.STAGED, Outcome.GO_BACK): Phase.ROLLING_BACK,
    (Phase.STAGED, Outcome.CANCEL): Phase.CANCELLED,
    (Phase.SWITCHED, Outcome.DONE): Phase.PROBATION,
    (Phase.SWITCHED, Outcome.GO_BACK): Phase.ROLLING_BACK,
    (Phase.PROBATION, Outcome.DONE): Phase.SUCCEEDED,
    (Phase.PROBATION, Outcome.GO_BACK): Phase.ROLLING_BACK,
    (Phase.ROLLING_BACK, Outcome.DONE): Phase.ROLLED_BACK,
    (Phase.ROLLING_BACK, Outcome.FAIL): Phase.FAILED,
}
"""`(phase, outcome) → phase`. A key that is missing is an error and changes nothing.

ACCEPTED with DONE: the device already runs exactly this release. ACCEPTED with GO_BACK: somebody asked
for the previous release. FETCHING or ACCEPTED with DEFER: a failure that may pass is tried again later.
STAGED with DEFER, and DEFERRED with GO_ON: nothing but the right moment for the switch is waited for.
"""

RESUME: Final[dict[Phase, Step]] = {
    Phase.DEFERRED: Step.WAIT,
    Phase.ACCEPTED: Step.CHECK,
    Phase.FETCHING: Step.FETCH,
    Phase.STAGED: Step.SWITCH,
    Phase.SWITCHED: Step.HEALTH,
    Phase.PROBATION: Step.PROBATION,
    Phase.ROLLING_BACK: Step.ROLLBACK,
    Phase.REJECTED: Step.NOTHING,
    Phase.SUCCEEDED: Step.NOTHING,
    Phase.ROLLED_BACK: Step.NOTHING,
    Phase.FAILED: Step.NOTHING,
    Phase.CANCELLED: Step.NOTHING,
}
"""The step of each journaled phase: the same in normal running and after a restart."""

WATCHED_PHASES: Final = frozenset({Phase.STAGED, Phase.SWITCHED, Phase.PROBATION})
"""Where a restart counts, because the new release may be what causes it."""

MAX_RESTARTS: Final = 5
"""More restarts than this in `WATCHED_PHASES`, and the update is rolled back; in the rollback, and that is given up."""

MAX_FETCH_RESTARTS: Final = 20
"""More restarts than this while one release is fetched, and the update fails. It is more, because what is fetched
changes nothing that runs, and a device that is switched off every evening may need many days for a large release."""

COUNTED_PHASES: Final = WATCHED_PHASES | {Phase.FETCHING, Phase.ROLLING_BACK}
"""Where restarts are counted at all: elsewhere nothing is done that could cause them."""


def begin(outcome: Outcome) -> Phase:
    """The first phase of an update; raises `IllegalMoveError` for an outcome that begins nothing."""
    if outcome not in ENTRIES:
        raise IllegalMoveError(f"no update begins with '{outcome}'")
    return ENTRIES[outcome]


def advance(phase: Phase | None, outcome: Outcome) -> Phase:
    """The phase that follows; raises `IllegalMoveError` where the table has none.

    From a phase that this agent does not know (None) the only way is back.
    """
    if phase is None:
        if outcome is not Outcome.GO_BACK:
            raise IllegalMoveError(f"an unknown phase has no outcome '{outcome}'")
        return Phase.ROLLING_BACK
    try:
        return TRANSITIONS[phase, outcome]
    except KeyError:
        raise IllegalMoveError(f"phase '{phase}' has no outcome '{outcome}'") from None


def allows(phase: Phase | None, outcome: Outcome) -> bool:
    """Whether the table has a move for it."""
    return (phase, outcome) in TRANSITIONS or (phase is None and outcome is Outcome.GO_BACK)


def read_phase(text: str) -> Phase | None:
    """The phase that a journal holds; None where this agent does not know it (a newer one wrote it)."""
    return Phase(text) if text in Phase.__members__.values() else None


def step_for(phase: Phase | None, restarts: int = 0) -> Step:
    """What to do next for a journaled phase. An unknown one, or one restarted too often, is rolled back."""
    if phase is None or break_off(phase, restarts) is Outcome.GO_BACK:
        return Step.ROLLBACK
    return RESUME[phase]


def break_off(phase: Phase | None, restarts: int) -> Outcome | None:
    """How an update goes on that was restarted too often, or whose phase is unknown; None while all is in order."""
    if phase is None or (phase in WATCHED_PHASES and restarts > MAX_RESTARTS):
        return Outcome.GO_BACK
    if phase is Phase.FETCHING and restarts > MAX_FETCH_RESTARTS:
        return Outcome.FAIL
    if phase is Phase.ROLLING_BACK and restarts > MAX_RESTARTS:
        return Outcome.FAIL
    return None


def render_diagram() -> str:
    """The tables as a Mermaid state diagram, one line a move, in the tables' order."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {phase}: {outcome}" for outcome, phase in ENTRIES.items()]
    lines += [f"    {phase} --> {follows}: {outcome}" for (phase, outcome), follows in TRANSITIONS.items()]
    lines += [f"    {phase} --> [*]" for phase in Phase if phase in LAST_WORDS]
    return "\n".join(lines) + "\n"


def render_resume_table() -> str:
    """Where each journaled phase goes on, as a Markdown table."""
    lines = ["| journaled phase | step |", "| --- | --- |"]
    lines += [f"| `{phase}` | {step} |" for phase, step in RESUME.items()]
    lines += ["| anything else | rollback |"]
    return "\n".join(lines) + "\n"


def refresh_document(text: str) -> str:
    """A document with what it has places for drawn anew, `<!-- diagram -->` or `<!-- resume -->` to `<!-- end -->`.

    Raises:
        ValueError: there is no place for either, or a place does not end.
    """
    if not any(f"<!-- {name} -->\n" in text for name in ("diagram", "resume")):
        raise ValueError("the document has no place for the diagram or the table")
    for name, drawn in (("diagram", f"```mermaid\n{render_diagram()}```\n"), ("resume", render_resume_table())):
        before, begins, rest = text.partition(f"<!-- {name} -->\n")
        if not begins:
            continue
        _, ends, after = rest.partition("<!-- end -->\n")
        if not ends:
            raise ValueError(f"the place for the {name} has no end")
        text = f"{before}{begins}\n{drawn}\n{ends}{after}"
    return text
