"""On which devices a release has failed: by their agents' own rule they do not try exactly that one again."""

from typing import Final

from sqlalchemy import Connection, and_, or_, select

from controller.rollouts.tables import rollout_devices, rollouts
from schemas.failing import is_its_fault
from schemas.messages import Phase

_ENDS: Final = [Phase.SUCCEEDED.value, Phase.FAILED.value, Phase.ROLLED_BACK.value]


def failed_on(connection: Connection, package: str, version: str) -> dict[str, str]:
    """The devices on which a release failed the last time that it was tried there, each with the error code."""
    word = rollout_devices.c
    found = (
        select(word.device, word.phase, word.error_code)
        .join(rollouts, rollouts.c.id == word.rollout)
        .where(rollouts.c.package == package, rollouts.c.version == version)
        .where(or_(word.phase.in_(_ENDS), and_(word.phase.is_(None), word.seq > 0)))  # or a retry took its word back
        .order_by(word.rollout)
    )
    last = {device: (Phase(phase) if phase else None, code) for device, phase, code in connection.execute(found)}
    # without an error it went back because somebody wanted that
    return {
        device: code for device, (phase, code) in last.items() if code and is_its_fault(phase, code, switch_begun=False)
    }
