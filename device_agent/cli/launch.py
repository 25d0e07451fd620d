"""`flotilla-agent launch`: become the launcher, which is not updated, with the flags of `run`.

The configuration is looked at for two keys only, and nothing in it is refused: a newer agent may know keys that this
installation does not.
"""

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_agent.config import DEFAULT_FILE, DEFAULT_FOLDER, DevicePolicy
from device_agent.config_file import MAX_FILE_BYTES

_LAUNCHER = Path(__file__).parents[1] / "agent_launcher.py"


def launch(arguments: Sequence[str]) -> int:
    """Become the launcher. Raises `OSError`."""
    root, package = chosen(arguments)
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(root), package, *arguments]
    os.execv(sys.executable, command)  # noqa: S606  # becoming it is what this is for


def chosen(arguments: Sequence[str]) -> tuple[Path, str]:
    """The root folder, and the name of the agent's own package."""
    file = Path(_flag(arguments, "--config") or DEFAULT_FILE).expanduser().absolute()
    table = _read(file)
    policy = table.get("policy")
    named = policy.get("agent_package") if isinstance(policy, dict) else None
    in_file = table.get("root")
    root = file.parent / Path(in_file).expanduser() if isinstance(in_file, str) and in_file else DEFAULT_FOLDER
    given = _flag(arguments, "--root")
    return (
        Path(given).expanduser().absolute() if given else root,
        _flag(arguments, "--agent-package") or (named if isinstance(named, str) else DevicePolicy().agent_package),
    )


def _flag(arguments: Sequence[str], name: str) -> str:
    """The last value of a flag, as argparse would take it."""
    found = ""
    for number, one in enumerate(arguments):
        if one == name:
            found = arguments[number + 1] if number + 1 < len(arguments) else ""
        elif one.startswith(f"{name}="):
            found = one.partition("=")[2]
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.loads(stream.read(MAX_FILE_BYTES).decode())
    except (OSError, ValueError, RecursionError):
        return {}  # the agent will say what is wrong with it
