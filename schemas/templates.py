"""Placeholders `${name}` in configuration templates, commands and addresses, filled in on the device.

Names are dotted: `device.id`, `package.version`, `path.current`, `path.state`, `facts.NAME`,
`tags.NAME`, `settings.NAME`. `$$` is a dollar sign. Nothing is evaluated, so a value can add text
but never code.
"""

import string
from collections.abc import Mapping

from schemas.errors import DeviceError, PublisherError, one_line

SCOPES = ("device", "package", "path", "facts", "tags", "settings")


class _Dotted(string.Template):
    idpattern = r"(?a:[a-z]+\.[A-Za-z_][A-Za-z0-9_.-]*)"
    flags = 0  # type: ignore[assignment]  # typeshed wants a RegexFlag; 0 turns IGNORECASE off


def placeholders(text: str, where: str) -> list[str]:
    """The names that `text` uses; raises `PublisherError` (`manifest.bad`) where one is malformed."""
    template = _Dotted(text)
    if not template.is_valid():
        raise PublisherError(
            "manifest.bad",
            f"{where}: a '$' starts no placeholder of the form ${{settings.name}} (write '$$' for a dollar)",
        )
    names = template.get_identifiers()
    for name in names:
        if name.split(".")[0] not in SCOPES:
            raise PublisherError(
                "manifest.bad",
                f"{where}: unknown placeholder ${{{one_line(name)}}}; it begins with one of {', '.join(SCOPES)}",
            )
    return names


def fill(text: str, values: Mapping[str, str], where: str) -> str:
    """`text` with every placeholder replaced; raises `DeviceError` (`requires.setting`) where a value is missing."""
    try:
        return _Dotted(text).substitute(values)
    except KeyError as error:
        name = one_line(error.args[0])
        raise DeviceError(
            "requires.setting", f"{where}: this device has no value for ${{{name}}}; set it in agent.toml"
        ) from error
    except ValueError as error:
        raise PublisherError("manifest.bad", f"{where}: {one_line(error)}") from error
