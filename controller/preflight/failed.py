"""On which devices a release has failed: by their agents' own rule they do not try exactly that one again."""

from sqlalchemy import Connection, select

from controller.rollouts.tables import rollout_devices, rollouts
from schemas.failing import is_its_fault
from schemas.messages import Phase


def failed_on(connection: Connection, package: str, version: str) -> dict[str, str]:
    """The devices on which a release failed the last time that it was tried there, each with the error code."""
    word = rollout_devices.c
    found = (
        select(word.device, word.phase, word.error_code)
        .join(rollouts, rollouts.c.id == word.rollout)
        .where(rollouts.c.package == package, rollouts.c.version == version)
        .where(word.phase.in_([Phase.SUCCEEDED.value, Phase.FAILED.value, Phase.ROLLED_BACK.value]))
        .order_by(word.rollout)
    )
    last = {device: (Phase(phase), code or "") for device, phase, code in connection.execute(found)}
    return {device: code for device, (phase, code) in last.items() if is_its_fault(phase, code, switch_begun=False)}
