"""A runnable copy of one of the configurations, for a given port and given folders.

Only addresses and paths change: what tests and the demo run is what an operator installs.
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from broker_config.errors import BrokerSettings

__all__ = ["ACL_ROOT", "acl", "render"]

# The root of all topics as the ACL file has it.
ACL_ROOT: Final = "flotilla/v1"

_NAMES: Final = ("development.conf", "production.conf")
# Directives whose value is a path of the installed layout, and the argument that replaces it.
_PATHS: Final = {
    "acl_file": "acl_file",
    "password_file": "password_file",
    "cafile": "ca_file",
    "certfile": "cert_file",
    "keyfile": "key_file",
}


def render(
    name: str,
    *,
    port: int,
    host: str = "127.0.0.1",
    data_dir: Path | None = None,
    acl_file: Path | None = None,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    certificate_port: int | None = None,
    user: str | None = None,
    save_every_s: int | None = None,
) -> str:
    """The text of `development.conf` or `production.conf` with these addresses and paths.

    Args:
        name: one of the two file names.
        port: of the first listener.
        host: address that all listeners bind to.
        data_dir: an existing folder for retained messages and sessions; without it nothing is kept.
        acl_file: needed where the configuration names one, as are the next four.
        password_file: as made by `mosquitto_passwd`.
        ca_file: PEM file of the authorities that sign clients' certificates.
        cert_file: the broker's certificate, PEM.
        key_file: its private key.
        certificate_port: of the listener for client certificates; without it that listener is left out.
        save_every_s: save everything every so many seconds instead of after each change, as the README says for
            fleets of thousands; what a killed broker forgets heals.
        user: the system user to become when Mosquitto is started by root; its own choice is `mosquitto`.

    Raises:
        BrokerSettings: no such configuration, a path is missing, or a value can't stand in such a file.
    """
    if name not in _NAMES:
        raise BrokerSettings(f"broker configuration {name!r}: there are {' and '.join(_NAMES)}")
    paths = {
        "acl_file": acl_file,
        "password_file": password_file,
        "ca_file": ca_file,
        "cert_file": cert_file,
        "key_file": key_file,
    }
    ports = [port, certificate_port]
    lines = [] if user is None else [f"user {_plain(user)}"]
    for index, section in enumerate(_sections(_text(name))):
        # Section 0 holds what is common to all listeners.
        listener_port = ports[index - 1] if index > 0 else port
        if listener_port is None:
            continue
        lines.extend(
            replaced
            for line in section
            if (replaced := _replaced(line, name, paths, data_dir, f"{listener_port} {_plain(host)}")) is not None
        )
    if save_every_s is not None:
        saves = {"autosave_on_changes": "false", "autosave_interval": str(save_every_s)}
        names = [line.partition(" ")[0] for line in lines]
        lines = [f"{name} {saves[name]}" if name in saves else line for name, line in zip(names, lines, strict=True)]
    return "\n".join(lines) + "\n"


def acl(root: str = ACL_ROOT) -> str:
    """The ACL file's text for topics under `root`.

    Raises:
        BrokerSettings: the root holds a wildcard, a space or an empty level.
    """
    if not root or any(not level or level in {"+", "#"} for level in root.split("/")) or root.split() != [root]:
        raise BrokerSettings(f"topic root {root!r}: levels without wildcards and spaces, such as {ACL_ROOT}")
    return _text("acl").replace(f" {ACL_ROOT}/", f" {root}/")


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(text: str) -> Iterator[list[str]]:
    """What comes before the first listener, then each listener with the options that follow it."""
    section: list[str] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("listener "):
            yield section
            section = []
        section.append(line)
    yield section


def _replaced(
    line: str, name: str, paths: Mapping[str, Path | None], data_dir: Path | None, listener: str
) -> str | None:
    directive = line.partition(" ")[0]
    if directive == "listener":
        return f"listener {listener}"
    if directive == "persistence" and data_dir is None:
        return "persistence false"
    if directive == "persistence_location":
        return None if data_dir is None else f"persistence_location {_plain(data_dir)}/"
    argument = _PATHS.get(directive)
    if argument is None:
        return line
    path = paths[argument]
    if path is None:
        raise BrokerSettings(f"broker configuration {name}: {argument} is missing")
    return f"{directive} {_plain(path)}"


def _plain(value: object) -> str:
    text = str(value)
    if not text or text != text.strip() or not text.isprintable():
        raise BrokerSettings(f"broker configuration: {text!r} can't stand in a configuration file")
    return text
