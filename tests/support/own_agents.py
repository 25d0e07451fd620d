"""Releases of the agent's own package for tests: small trees that start the agent under test, healthy or broken."""

from collections.abc import Mapping
from typing import Any, Final

from controller.repository.package_repository import PackageRepository
from device_agent.agent_package import JOURNAL_TAG, PROGRAM
from schemas.manifest import Health
from tests.support.repository import add_release

NAME: Final = "flotilla-agent"
QUICK: Final = Health(start_period_s=2, interval_s=0.1, probation_s=0.3)
HEALTHY: Final = ""
RAISES: Final = "raise ImportError('no module named what-this-release-forgot')"
DEAF: Final = "sys.argv += ['--broker', 'mqtt://127.0.0.1:1']"
"""It starts and works, but cannot reach the broker."""
OLD_SCHEMA: Final = "import device_agent.agent_db; device_agent.agent_db.SCHEMA_VERSION = 0"
"""It cannot read the journal."""
DIES: Final = "import os, threading; threading.Timer(0.2, os._exit, [3]).start()"

_START: Final = """\
import sys
import device_agent.version
device_agent.version.VERSION = {version!r}
{trouble}
from device_agent.cli.main import main
sys.exit(main())
"""
_PROGRAM: Final = """\
#!/bin/sh
here=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
exec "$FLOTILLA_PYTHON" -P -B "$here/start.py" "$@"
"""


def agent_files(version: str, trouble: str = HEALTHY) -> dict[str, str]:
    """Path to content of a release that says it is `version`, and does `trouble` before anything else."""
    return {PROGRAM: _PROGRAM, "start.py": _START.format(version=version, trouble=trouble)}


def add_agent(
    repository: PackageRepository, version: str, trouble: str = HEALTHY, *, health: Health = QUICK, **manifest: Any
) -> None:
    """Add such a release to a repository."""
    fields: Mapping[str, Any] = {"tags": [JOURNAL_TAG], "modes": {PROGRAM: 0o755}, **manifest}
    add_release(repository, NAME, version, agent_files(version, trouble), health=health, **fields)
