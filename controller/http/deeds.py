"""What can be asked of rollouts, devices and versions, by name.

The names stand in the page's addresses, and behind what they are done to in the audit log: `rollout.pause`.
"""

from collections.abc import Mapping
from typing import Final

from controller.rollouts.plan import RolloutState
from schemas.messages import Verb

PAUSE: Final = "pause"
RESUME: Final = "resume"
HALT: Final = "halt"
REVERT: Final = "revert"

TO_STATE: Final[Mapping[RolloutState, str]] = {
    RolloutState.PAUSED: PAUSE,
    RolloutState.ACTIVE: RESUME,
    RolloutState.HALTED: HALT,
    RolloutState.REVERTED: REVERT,
}
"""By the state that a rollout is brought to."""

APPROVE: Final = "approve"
RETRY_FAILED: Final = "retry-failed"
CANCEL_ALL: Final = "cancel-all"

PIN: Final = "pin"
UNPIN: Final = "unpin"
HOLD: Final = "hold"
UNHOLD: Final = "unhold"
FORGET: Final = "forget"

ASKS: Final[Mapping[Verb, str]] = {verb: verb.value for verb in Verb if verb is not Verb.REPLAY}
"""What a device can be asked for; `replay` is the controller's own business."""

ON_DEVICE: Final = (PIN, UNPIN, HOLD, UNHOLD, *ASKS.values(), FORGET)

RELEASE: Final = "release"
YANK: Final = "yank"
UNYANK: Final = "unyank"
OF_VERSION: Final = (RELEASE, YANK, UNYANK)
