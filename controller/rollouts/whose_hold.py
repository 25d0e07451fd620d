"""Whose hold it is that a device waits for: devices say no more than that they are on hold."""

from typing import Final

import msgspec

from controller.fleet.views import Deferral
from controller.rollouts.holding import BY_OWNER, HOLD

BY_OPERATOR: Final = "held by an operator"


def with_whose_hold(waits: Deferral, *, told: bool) -> Deferral:
    """Why a device waits at present, and whose hold it is.

    Args:
        waits: by its last word; what it said earlier may have been somebody else's hold.
        told: whether an operator has told it to start nothing. Where none has, it is its owner who does.
    """
    if waits.reason != HOLD:
        return waits
    return msgspec.structs.replace(waits, reason=BY_OPERATOR if told else BY_OWNER)
