"""`flotilla-agent install-service`: a unit for systemd, and an agent.toml where there is none."""

import argparse
import sys

from device_agent.cli.options import config_from, written_path
from device_agent.config import DEFAULT_FILE
from device_agent.config_file import is_there
from device_agent.install_service import agent_command, config_text, install, unit_text


def install_service(arguments: argparse.Namespace) -> int:
    """Write the unit and the configuration, enable and start the agent; or only print the unit."""
    file = written_path("--config", str(arguments.config or DEFAULT_FILE))
    unit = unit_text(command=agent_command(), config=file)
    if arguments.only_print:
        sys.stdout.write(unit)
        return 0
    if not is_there(file):
        arguments.config = None
    text = config_text(config_from(arguments))
    for line in install(unit=unit, config_file=file, config_text=text):
        sys.stdout.write(line + "\n")
    return 0
