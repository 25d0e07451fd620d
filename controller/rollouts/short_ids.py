"""The beginning of a rollout's id that names it, for people: short, and clear as long as no clock goes back."""

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, bindparam, select

from controller.rollouts.tables import rollouts

TIME_PART: Final = len("0198a1b2-c3d4")
"""The milliseconds of a UUIDv7 (RFC 9562, section 5.7): only rollouts of the same one, as of a set, share them."""

_AFTER_ALL: Final = "g"
"""Sorts behind every digit of an id, and behind `-`."""
_OF_THE_SAME_TIME: Final = select(rollouts.c.id).where(
    rollouts.c.id >= bindparam("beginning"), rollouts.c.id < bindparam("end")
)


def short_id(connection: Connection, rollout: str) -> str:
    """The beginning of this rollout's id by which `RolloutReader.id_of` finds it, at least its time."""
    beginning = rollout[:TIME_PART]
    values = {"beginning": beginning, "end": beginning + _AFTER_ALL}
    return shortest(rollout, connection.scalars(_OF_THE_SAME_TIME, values))


def shortest(rollout: str, others: Iterable[str]) -> str:
    """The shortest beginning of an id, from its time on, with which no other one begins. Pure.

    Args:
        rollout: the id.
        others: the ids that begin with the same time; it may be among them.
    """
    rivals = [other for other in others if other != rollout]
    for length in range(TIME_PART, len(rollout)):
        beginning = rollout[:length]
        if not beginning.endswith("-") and not any(rival.startswith(beginning) for rival in rivals):
            return beginning
    return rollout
