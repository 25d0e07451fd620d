"""Writes systemd units as text. Whatever a value holds, it stays one argument or one variable.

The rules are those of systemd.syntax(7), systemd.service(5) "COMMAND LINES" and systemd.unit(5)
"SPECIFIERS".
"""

from collections.abc import Mapping
from typing import Final

from device_agent.services.launch import Launch, full_name

ROOT_KEY: Final = "X-FlotillaRoot="
"""systemd ignores keys and sections that begin with X-; this one says which agent a unit belongs to."""

_RESTART: Final = {"always": "always", "on-failure": "on-failure", "never": "no"}
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def unit_name(package: str, service: str) -> str:
    """The unit of a package's service, e.g. `flotilla-tacho.web.service`."""
    return f"flotilla-{full_name(package, service)}.service"


def quoted(text: str) -> str:
    """`text` as one quoted word: C-style escapes, and specifiers (`%`) turned off."""
    escaped = (_ESCAPES.get(c) or (c if ord(c) >= 32 and ord(c) != 127 else f"\\x{ord(c):02x}") for c in text)
    return '"' + "".join(escaped).replace("%", "%%") + '"'


def unit_text(launch: Launch, environment: Mapping[str, str], root: str) -> str:
    """The whole unit.

    Args:
        environment: the variables to set; systemd's own come besides.
        root: the agent's root folder, for `ROOT_KEY`.

    Raises:
        ValueError: a folder's name cannot be written into a unit.
    """
    folder = str(launch.folder)
    for path in (folder, root):
        # These two settings take the rest of the line as it is, so there is no way to escape.
        if not path.isprintable() or path != path.strip() or path.endswith("\\"):
            raise ValueError(f"the folder {path!r} cannot be written into a unit")
    program, *arguments = launch.command
    # `:` turns off the replacement of variables, so that `$` needs no escaping (systemd 244 or later).
    command = " ".join([quoted(":" + program), *map(quoted, arguments)])
    lines = [
        "# Written by flotilla-agent; changes are lost at the next update.",
        "[Unit]",
        f"Description=Service {launch.service} of package {launch.package} (Flotilla)",
        "After=network.target",
        "# Never give up: whether the release is good is for its health checks to decide.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "# The start counts as done when the program runs, so a missing one is noticed.",
        "Type=exec",
        "WorkingDirectory=" + folder.replace("%", "%%"),
        "ExecStart=" + command,
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in sorted(environment.items())),
        *([f"User={launch.user}"] if launch.user else []),
        f"Restart={_RESTART[launch.restart]}",
        "RestartSec=1",
        f"TimeoutStopSec={launch.stop_timeout_s:g}",
        f"SyslogIdentifier=flotilla-{full_name(launch.package, launch.service)}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
        "[X-Flotilla]",
        ROOT_KEY + root,
        "",
    ]
    return "\n".join(lines)
