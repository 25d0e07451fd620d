"""Devices that a wave waits for and that are held, in words for people: which, by whom, and what lets them go. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from controller.fleet.views import Deferral
from controller.rollouts.plan import BUSY, Plan, Verdict
from controller.rollouts.tally import Tally

HOLD: Final = "hold"
"""Why a device waits that its owner has told to start nothing, in its own words."""

BY_OWNER: Final = "held by its owner"
_NAMED: Final = 3
"""Devices that are named in a line; all of them are in lists."""


class Held(NamedTuple):
    """A device that starts nothing of a rollout until somebody lets it.

    `wave` from 0, None for none; `pinned` and `hold` as its operator told it; without either it is its owner who does.
    """

    device: str
    wave: int | None
    pinned: str | None = None
    hold: bool = False

    @property
    def by_owner(self) -> bool:
        """Whether the controller has told it nothing of the sort."""
        return not self.hold and self.pinned is None


def is_owners(verdict: Verdict | None, waits: Deferral | None) -> bool:
    """Whether a device waits as its owner told it to: what its operator holds has another verdict."""
    return verdict is Verdict.DEFERRED and waits is not None and waits.reason == HOLD


def held_up(plan: Plan, tally: Tally, wave: int, held: Sequence[Held]) -> tuple[str, str]:
    """Who is held of those that a wave waits for.

    Args:
        plan: the rollout.
        tally: counts of its devices.
        wave: its number; it has begun, or is the next one.
        held: every device of the rollout that is known to be held.

    Returns:
        Whom it waits for, where they are all that it waits for, as in `waits for …`, else nothing; and what is to be
        said of them behind the rest of the line.
    """
    begun = plan.progress[wave].started_at is not None
    busy = tally.number(wave, BUSY) if begun else 0
    # whom its operator holds is passed over, unless there is nobody else to begin with
    some = [one for one in held if one.by_owner and one.wave == wave] if busy else []
    if not busy and wave == 0:
        some = [one for one in held if not one.by_owner and (one.wave == wave or not begun)]
    if not some:
        return "", ""
    groups: dict[str, list[Held]] = {}
    for one in some:
        groups.setdefault(_why(one), []).append(one)
    without = _without(plan, tally, wave, some, len(held)) if busy else ""
    all_of_them = len(some) == busy if busy else begun or len(some) == sum(tally.verdicts().values())
    if not all_of_them:
        told = (f"{_names(of)} {_are(of, why)}: {_way(of)}" for why, of in groups.items())
        return "", f"{'; '.join(told)}{without}"
    whom = ", and ".join(f"{_names(of)}, which {_are(of, why)}" for why, of in groups.items())
    return whom, f"{'; '.join(map(_way, groups.values()))}{without}"


def _why(one: Held) -> str:
    if one.by_owner:
        return BY_OWNER
    pin = [f"pinned at {one.pinned}"] if one.pinned is not None else []
    return " and ".join([*(["held by an operator"] if one.hold else []), *pin])


def _are(some: Sequence[Held], why: str) -> str:
    if len(some) == 1:
        return f"is {why}"
    return "are held by their owners" if why == BY_OWNER else f"are {why}"


def first_of(devices: Sequence[str]) -> str:
    """Some of the names, and how many there are besides."""
    more = f" and {len(devices) - _NAMED} more" if len(devices) > _NAMED else ""
    return f"{', '.join(devices[:_NAMED])}{more}"


def _names(some: Sequence[Held]) -> str:
    return first_of([one.device for one in some])


def _way(some: Sequence[Held]) -> str:
    """What lets them go."""
    lets = "lets it go on" if len(some) == 1 else "lets each go on"
    if some[0].by_owner:
        return f"flotilla-agent hold off on {'it' if len(some) == 1 else 'them'} {lets}"
    options = [*(["--hold"] if some[0].hold else []), *(["--pin"] if some[0].pinned is not None else [])]
    return f"flotilla tell {some[0].device if len(some) == 1 else 'DEVICE'} without {' and '.join(options)} {lets}"


def _without(plan: Plan, tally: Tally, wave: int, some: Sequence[Held], held: int) -> str:
    """How to go on without them, where there is anybody else; `held`: how many are, whoever holds them."""
    one = some[0].device if len(some) == 1 else "DEVICE"
    if wave or tally.number(wave, {Verdict.SUCCEEDED}):
        return f"; flotilla cancel {plan.rollout} --device {one} goes on without it"
    # a first wave that has proven nothing waits for somebody
    if sum(tally.verdicts().values()) <= held:
        return ""
    how = "others in that wave" if isinstance(plan.waves[wave].devices, list) else f"--exclude {one}"
    return f"; released anew with {how} it goes on without {'it' if len(some) == 1 else 'them'}"
