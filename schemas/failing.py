"""Which ends of an update are held against its release: the device remembers them, and does not try that one again."""

from typing import Final

from schemas.messages import Phase

_NOT_ITS_FAULT: Final = ("conflict.", "disk.", "fetch.", "trust.", "requires.", "interrupted.journal", "internal.")
"""Ends that tell of the device, of the way to it, or of somebody's wish. What ends the agent again and again
(`interrupted.restarts`) is held against the release."""


def is_its_fault(phase: Phase | None, code: str, *, switch_begun: bool) -> bool:
    """Whether an update's end with this error code says that the release does not work there.

    Before the switch only what the release did itself counts: its hook, or an end of the agent while it was fetched.
    """
    if code.startswith(_NOT_ITS_FAULT):
        return False
    if phase is Phase.ROLLED_BACK or (phase is Phase.FAILED and switch_begun):
        return True
    return phase is Phase.FAILED and code.startswith(("hook.", "interrupted.restarts"))
