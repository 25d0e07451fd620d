"""What can be asked for on the page: the words on the button, what is asked before, and what is said after."""

from typing import Final, Literal

import msgspec

from controller.http import deeds
from controller.rollouts.plan import MOVES, RolloutState
from schemas.messages import Verb

Tone = Literal["go", "plain", "danger"]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One button.

    Attributes:
        name: in addresses; see `controller.http.deeds`.
        label: on the button.
        question: what is asked before it is done.
        explained: what comes of it.
        done: what is said afterwards.
    """

    name: str
    label: str
    question: str
    explained: str
    done: str
    tone: Tone = "plain"


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """Something to fill in before an action: with `choices` one of them, else text that may be one of `suggested`."""

    name: str
    label: str
    value: str = ""
    choices: list[str] = []
    suggested: list[str] = []
    required: bool = True
    hint: str = ""


class Move(Action, frozen=True, kw_only=True):
    """An action that brings a rollout to a state."""

    state: RolloutState


MOVE_ACTIONS: Final = (
    Move(
        name=deeds.PAUSE,
        label="Pause",
        question="Pause this rollout?",
        explained="Nobody new starts. Devices that have begun go on.",
        done="Paused: nobody new starts.",
        state=RolloutState.PAUSED,
    ),
    Move(
        name=deeds.RESUME,
        label="Resume",
        question="Let this rollout go on?",
        explained="Devices that are meant start again. Where what went wrong on devices had stopped it, that is "
        "accepted: the next devices start. A retry after that tries the failed ones again. To take the version back, "
        "revert it instead.",
        done="Resumed: devices may start.",
        tone="go",
        state=RolloutState.ACTIVE,
    ),
    Move(
        name=deeds.HALT,
        label="Halt",
        question="Halt this rollout?",
        explained="Nobody new starts, and whoever has not switched yet stops. Whoever has switched keeps the version.",
        done="Halted: nobody starts, and whoever had not switched stops.",
        tone="danger",
        state=RolloutState.HALTED,
    ),
    Move(
        name=deeds.REVERT,
        label="Revert",
        question="Revert this rollout?",
        explained="Every device that took the version goes back to the release it had before. This is for good: to try "
        "the version again, release it anew.",
        done="Reverted: devices go back to the release they had before.",
        tone="danger",
        state=RolloutState.REVERTED,
    ),
)


APPROVE: Final = Action(
    name=deeds.APPROVE,
    label="Approve the next wave",
    question="Say go to the next wave?",
    explained="Its devices may start.",
    done="Approved: the next wave begins.",
    tone="go",
)


RETRY: Final = Action(
    name=deeds.RETRY_FAILED,
    label="Retry what failed",
    question="Have what ended badly tried again?",
    explained="Devices on which this rollout failed, went back or was refused are asked to try it again.",
    done="Asked to try again; each device counts once it says so.",
)

CANCEL: Final = Action(
    name=deeds.CANCEL_ALL,
    label="Cancel",
    question="Ask all devices to stop?",
    explained="Nobody new starts, and updates that have not switched yet are dropped. A device counts as cancelled "
    "once it says so; until then it is asked for.",
    done="Asked to cancel; each device counts once it says so.",
    tone="danger",
)

ON_ROLLOUT: Final = (APPROVE, RETRY, CANCEL)
"""What can be asked of a rollout besides moving it to another state."""


def moves_from(state: RolloutState) -> list[Move]:
    """What can be asked of a rollout in this state."""
    return [move for move in MOVE_ACTIONS if move.state in MOVES[state]]


def move_named(name: str) -> Move | None:
    """The move with this name."""
    return next((move for move in MOVE_ACTIONS if move.name == name), None)


TELL: Final = (
    Action(
        name=deeds.PIN,
        label="Pin",
        question="Pin a package on this device?",
        explained="The device stays at this version: it takes no other from its channel until the pin is taken off.",
        done="Pinned: the device is told at once, or when it is back.",
    ),
    Action(
        name=deeds.UNPIN,
        label="Take the pin off",
        question="Take the pin off?",
        explained="The device follows its channel again.",
        done="The pin is off: the device follows its channel again.",
    ),
    Action(
        name=deeds.HOLD,
        label="Hold",
        question="Hold this device?",
        explained="It starts no update at all until it is let go.",
        done="Held: the device starts no update.",
    ),
    Action(
        name=deeds.UNHOLD,
        label="Let go",
        question="Let this device go?",
        explained="It takes updates again.",
        done="Let go: the device takes updates again.",
        tone="go",
    ),
)

ASK: Final[dict[Verb, Action]] = {
    Verb.REPORT: Action(
        name=deeds.ASKS[Verb.REPORT],
        label="Report",
        question="Ask for a report?",
        explained="The device says anew what is true on it.",
        done="Asked for a report.",
    ),
    Verb.CHECK: Action(
        name=deeds.ASKS[Verb.CHECK],
        label="Check",
        question="Ask for a check?",
        explained="The device looks at its configuration, broker, repository, disk and clock, and reports.",
        done="Asked for a check.",
    ),
    Verb.RETRY: Action(
        name=deeds.ASKS[Verb.RETRY],
        label="Retry",
        question="Ask to try again?",
        explained="The device tries a release again that failed there.",
        done="Asked to try again.",
    ),
    Verb.CANCEL: Action(
        name=deeds.ASKS[Verb.CANCEL],
        label="Cancel",
        question="Ask to cancel the update?",
        explained="An update that has not switched yet is dropped; what runs stays as it is.",
        done="Asked to cancel; it counts once the device says so.",
        tone="danger",
    ),
    Verb.ROLLBACK: Action(
        name=deeds.ASKS[Verb.ROLLBACK],
        label="Roll back",
        question="Ask to go back?",
        explained="The device goes back to the release that it had before.",
        done="Asked to go back.",
        tone="danger",
    ),
}


FORGET: Final = Action(
    name=deeds.FORGET,
    label="Forget",
    question="Forget this device?",
    explained="For a device that is gone for good: all that it said and was told is removed, its history and its part "
    "in rollouts too. Should it speak again, it is a new device.",
    done="Forgotten: the device and its history are removed.",
    tone="danger",
)

ON_DEVICE: Final = (*TELL, *ASK.values(), FORGET)
"""What can be asked for on a device's page."""


OF_VERSION: Final = (
    Action(
        name=deeds.RELEASE,
        label="Release",
        question="Release this version?",
        explained="The devices of the channel take it, by the plan's waves.",
        done="Released.",
        tone="go",
    ),
    Action(
        name=deeds.YANK,
        label="Yank",
        question="Yank this version?",
        explained="Nobody new gets it: searches leave it out and no channel can be pointed at it. "
        "Devices that have it or fetch it go on.",
        done="Yanked: nobody new gets it.",
        tone="danger",
    ),
    Action(
        name=deeds.UNYANK,
        label="Take the yank back",
        question="Let this version be chosen again?",
        explained="Searches find it and channels can be pointed at it again.",
        done="It can be chosen again.",
    ),
)


def named(actions: tuple[Action, ...], name: str) -> Action | None:
    """The action with this name."""
    return next((action for action in actions if action.name == name), None)


def notice(did: str | None) -> str | None:
    """What is said after an action; an address can hold nothing else than the name of one."""
    everything = (*MOVE_ACTIONS, *ON_ROLLOUT, *ON_DEVICE, *OF_VERSION)
    found = named(everything, did) if did else None
    return found.done if found else None
