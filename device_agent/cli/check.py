"""`flotilla-agent check`: what is wrong, one line each."""

import argparse
import asyncio
import sys

from device_agent.cli.options import config_file, config_from
from device_agent.cli.status import print_json
from device_agent.config import AgentConfig
from device_agent.config_file import others_can_read
from device_agent.diagnosis import Finding, examine
from device_agent.heard import Heard
from device_agent.journal import Journal
from schemas.errors import FlotillaError, one_line


def check(arguments: argparse.Namespace) -> int:
    """Print the findings; the exit status is 1 where one is bad."""
    findings = asyncio.run(_findings(arguments))
    if arguments.as_json:
        print_json({"ok": all(one.ok for one in findings), "findings": findings})
    else:
        for one in findings:
            sys.stdout.write(f"{'ok ' if one.ok else 'BAD'} {one.name}: {one_line(one.text, 500)}\n")
    return 0 if all(one.ok for one in findings) else 1


async def _findings(arguments: argparse.Namespace) -> list[Finding]:
    try:
        config = config_from(arguments)
    except FlotillaError as error:
        # nothing else can be looked at without one
        return [Finding(name="configuration", ok=False, text=str(error))]
    file = config_file(arguments)
    text = f"device {config.id}, {file or 'no agent.toml, defaults'}"
    hint = others_can_read(file) if file is not None and config.settings else ""
    good = Finding(name="configuration", ok=True, text=text + hint)
    return [good, *await examine(config, announced=_announced(config), root_check=_root_problem)]


def _announced(config: AgentConfig) -> list[str]:
    """Repositories that announcements have named; none where no agent has run yet."""
    try:
        with Journal(config.root, read_only=True) as journal:
            return Heard(journal).repositories()
    except FlotillaError:
        return []


def _root_problem(content: bytes) -> str:
    from device_agent.trust import check_root  # noqa: PLC0415 - slow to import, and the last thing that is needed

    try:
        check_root(content)
    except FlotillaError as error:
        return str(error)
    return ""
