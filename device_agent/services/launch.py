"""A manifest's service made ready to run on this device: what both service managers share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_agent.processes import resolve_command
from device_agent.seams import ReleaseContext
from schemas.errors import DeviceError, one_line
from schemas.manifest import Service
from schemas.templates import fill

STEADY_S: Final = 30.0
"""A service that has been up this long has started well; shorter runs in a row count as 'keeps ending'."""

SHORT_RUNS: Final = 3
"""So many short runs in a row are one too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that decides how a service runs. Two that are equal need no restart in between.

    Attributes:
        command: full path first.
        folder: where it runs: the `current` link.
        release: what `folder` leads to now.
    """

    package: str
    service: str
    version: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    release: Path
    user: str | None
    restart: str
    stop_timeout_s: float


def full_name(package: str, service: str) -> str:
    """A name for files and units. The dot can be in neither part, so no two services share one."""
    return f"{package}.{service}"


def prepare(service: Service, context: ReleaseContext, environment: Mapping[str, str], *, code: str) -> Launch:
    """Fill in the placeholders and find the program.

    Args:
        environment: what the service gets besides the release's and its own variables.
        code: the code of errors, `service.start` or `service.unit`.

    Raises:
        DeviceError: `code`, or `requires.setting` where the device lacks a value.
    """
    where = f"service {service.name} of {context.package} {context.version}"
    if service.command is None:
        raise DeviceError(code, f"{where} has no command")
    own = {name: fill(value, context.values, where) for name, value in service.environment.items()}
    for name in own:
        if not name.replace("_", "a").isalnum():
            raise DeviceError(
                code, f"{where}: variable {one_line(name)!r} has characters other than letters, digits and _"
            )
    variables = {**environment, **context.environment, **own}
    command = resolve_command(
        [fill(argument, context.values, where) for argument in service.command],
        folder=context.folder,
        state_folder=context.state_folder,
        path=variables.get("PATH", ""),
        code=code,
        where=where,
    )
    if any("\0" in text for text in (*command, *variables.values())):
        raise DeviceError(code, f"{where}: an argument or variable holds a NUL character")
    return Launch(
        package=context.package,
        service=service.name,
        version=context.version,
        command=tuple(command),
        environment=variables,
        folder=context.folder,
        release=context.folder.resolve(),
        user=service.user,
        restart=service.restart,
        stop_timeout_s=service.stop_timeout_s,
    )


def joined_output(parts: Mapping[str, str], limit: int) -> str:
    """Several services' output under titles, one's as it is; at most `limit` characters."""
    shown = {name: text for name, text in parts.items() if text}
    if len(shown) == 1:
        return next(iter(shown.values()))[-limit:]
    share = limit // max(1, len(shown))
    pieces = []
    for name, text in shown.items():
        title = f"== {name} ==\n"
        room = max(0, share - len(title) - 1)
        kept = text[-room:] if room else ""
        pieces.append(title + kept + ("" if kept.endswith("\n") else "\n"))
    return "".join(pieces)[:limit]
