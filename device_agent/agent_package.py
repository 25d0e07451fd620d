"""What a release of the agent's own package has to be, so that it can be started and gone back from."""

from typing import Final

from device_agent.agent_db import SCHEMA_VERSION
from schemas.errors import DeviceError, PublisherError
from schemas.manifest import Manifest

PROGRAM: Final = "bin/flotilla-agent"
"""What the launcher starts, with the arguments of `flotilla-agent run` after the word `run`."""
JOURNAL_TAG: Final = f"agent-journal-{SCHEMA_VERSION}"
"""A release with this tag leaves the journal so that an agent of this schema can read and write it."""


def check_agent_package(manifest: Manifest, *, launched: bool) -> None:
    """Before anything of it is fetched.

    Args:
        launched: whether a launcher has started this agent, and would start the new one.

    Raises:
        DeviceError: `requires.launcher`, or `requires.agent` where this agent could not go on after the new one.
        PublisherError: `manifest.bad`: there is no program in it.
    """
    name = f"{manifest.package} {manifest.version}"
    if not launched:
        raise DeviceError(
            "requires.launcher",
            f"{name} holds the agent itself, which only `flotilla-agent launch` (see install-service) replaces",
        )
    if JOURNAL_TAG not in manifest.tags:
        raise DeviceError(
            "requires.agent",
            f"{name} does not have the tag {JOURNAL_TAG}: this agent might not read the journal after it, to go back",
        )
    program = next((entry for entry in manifest.files if entry.path == PROGRAM), None)
    if program is None or not program.mode & 0o100:
        raise PublisherError("manifest.bad", f"{name} has no program {PROGRAM}, or it is not executable")
