"""The flags that stand for the keys of agent.toml, and the configuration they make with the file."""

import argparse
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.config import DEFAULT_FILE, AgentConfig
from device_agent.config_file import Flag, is_there, load_config, path_from
from schemas.errors import OperatorError, one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One flag: the dotted key it stands for, how it is written and explained."""

    key: str
    flag: str
    metavar: str
    help: str
    kind: str = "text"


_OPTIONS = (
    _Option(key="id", flag="--id", metavar="ID", help="the device's name (default: from the host name)"),
    _Option(key="root", flag="--root", metavar="DIR", help="folder for all that the agent keeps", kind="path"),
    _Option(key="broker", flag="--broker", metavar="URL", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"),
    _Option(key="channel", flag="--channel", metavar="NAME", help="which releases to follow (default: stable)"),
    _Option(
        key="packages", flag="--package", metavar="NAME", help="take this package only; may be repeated", kind="list"
    ),
    _Option(
        key="repositories",
        flag="--repository",
        metavar="URL",
        help="try this repository first; repeatable",
        kind="list",
    ),
    _Option(
        key="trusted_root", flag="--trusted-root", metavar="FILE", help="whom to trust, at the first start", kind="path"
    ),
    _Option(key="topic_root", flag="--topic-root", metavar="TOPIC", help="first levels of all topics"),
    _Option(key="broker_auth.username", flag="--username", metavar="NAME", help="how the broker knows the device"),
    _Option(
        key="broker_auth.password_file", flag="--password-file", metavar="FILE", help="holds its password", kind="path"
    ),
    _Option(key="broker_auth.ca", flag="--ca", metavar="FILE", help="authorities to trust for mqtts://", kind="path"),
    _Option(key="broker_auth.cert", flag="--cert", metavar="FILE", help="the device's certificate", kind="path"),
    _Option(key="broker_auth.key", flag="--key", metavar="FILE", help="the certificate's key", kind="path"),
    _Option(key="log_format", flag="--log-format", metavar="FORMAT", help="log lines as text or json (default: text)"),
    _Option(key="tags", flag="--tag", metavar="KEY=VALUE", help="what rollouts may ask for; repeatable", kind="pairs"),
    _Option(key="facts", flag="--fact", metavar="KEY=VALUE", help="add a fact; repeatable", kind="pairs"),
    _Option(
        key="settings",
        flag="--setting",
        metavar="PACKAGE.KEY=VALUE",
        help="a package's setting; repeatable",
        kind="settings",
    ),
    _Option(
        key="policy.local_changes",
        flag="--local-changes",
        metavar="WORD",
        help="abort, overwrite or keep-copy where installed files were changed",
    ),
    _Option(
        key="policy.link_install_path",
        flag="--link-install-path",
        metavar="",
        help="link packages' install paths (default: yes)",
        kind="switch",
    ),
    _Option(
        key="policy.install_paths",
        flag="--install-path",
        metavar="PACKAGE=DIR",
        help="another install path for a package; repeatable",
        kind="pairs",
    ),
    _Option(
        key="policy.services",
        flag="--services",
        metavar="WORD",
        help="auto, systemd or supervisor: who keeps services running",
    ),
    _Option(
        key="policy.max_bytes",
        flag="--max-bytes",
        metavar="NUMBER",
        help="the most that one update may fetch",
        kind="number",
    ),
    _Option(
        key="policy.keep_bytes",
        flag="--keep-bytes",
        metavar="NUMBER",
        help="the most that releases may take which are kept to go back further",
        kind="number",
    ),
    _Option(
        key="policy.max_bytes_per_s",
        flag="--max-bytes-per-s",
        metavar="NUMBER",
        help="the most that fetching may take of the line",
        kind="number",
    ),
    _Option(
        key="policy.windows",
        flag="--window",
        metavar="WHEN",
        help="when updates may start and switch, e.g. 22:00-05:00 or 'sat,sun 01:00-06:00'; repeatable",
        kind="list",
    ),
    _Option(
        key="policy.fetch_outside_windows",
        flag="--fetch-outside-windows",
        metavar="",
        help="fetch at any time, only the switch waits for a window (default: no)",
        kind="switch",
    ),
    _Option(
        key="policy.longest_postponement_s",
        flag="--longest-postponement-s",
        metavar="SECONDS",
        help="how long an application may say 'not now', instead of what releases say",
        kind="number",
    ),
    _Option(
        key="policy.reach_broker_s",
        flag="--reach-broker-s",
        metavar="SECONDS",
        help="leave a release with which the broker is out of reach for so long (default: 300; 0: never)",
        kind="number",
    ),
    _Option(
        key="gate",
        flag="--gate",
        metavar="KEY=VALUE",
        help="a limit for the device's own health, e.g. temperature_c=80; repeatable",
        kind="limits",
    ),
    _Option(
        key="policy.agent_package",
        flag="--agent-package",
        metavar="NAME",
        help="the package that holds the agent itself (default: flotilla-agent)",
    ),
    _Option(
        key="policy.agent_start_s",
        flag="--agent-start-s",
        metavar="SECONDS",
        help="how long a new release of the agent may take to be well (default: 180)",
        kind="number",
    ),
)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for each key."""
    group = parser.add_argument_group("configuration (flags go before the file)")
    group.add_argument(
        "--config", metavar="FILE", type=Path, help=f"agent.toml (default: {DEFAULT_FILE}, where it exists)"
    )
    for option in _OPTIONS:
        if option.kind == "switch":
            group.add_argument(
                option.flag, dest=option.key, action=argparse.BooleanOptionalAction, default=None, help=option.help
            )
        else:
            many = option.kind in ("list", "pairs", "settings", "limits")
            group.add_argument(
                option.flag,
                dest=option.key,
                metavar=option.metavar,
                action="append" if many else "store",
                help=option.help,
            )


def config_from(arguments: argparse.Namespace) -> AgentConfig:
    """The configuration that file and flags make.

    Raises:
        OperatorError: one line.
    """
    return load_config(config_file(arguments), flags_from(vars(arguments)), host_name=socket.gethostname())


def config_file(arguments: argparse.Namespace) -> Path | None:
    """The file that counts: the one given, else the default one where it exists."""
    given: Path | None = arguments.config
    if given is None and is_there(DEFAULT_FILE):
        return DEFAULT_FILE
    return given


def flags_from(arguments: Mapping[str, Any]) -> dict[str, Flag]:
    """The flags that were given, by dotted key."""
    found = {}
    for option in _OPTIONS:
        value = arguments.get(option.key)
        if value is not None:
            found[option.key] = Flag(option.flag, _value(option, value))
    return found


def written_path(name: str, text: str) -> Path:
    """The absolute path that somebody wrote on the command line as `name`; `OperatorError` for what is none."""
    try:
        return path_from(text).absolute()
    except ValueError as error:
        raise OperatorError("input.bad", f"{name}: {one_line(error)}") from error


def _value(option: _Option, value: Any) -> Any:
    match option.kind:
        case "path":
            return str(written_path(option.flag, value))
        case "number":
            return _number(option.flag, value)
        case "limits":
            return {key: _limit(option.flag, text) for key, text in (_pair(option.flag, t, "KEY=VALUE") for t in value)}
        case "pairs":
            return dict(_pair(option.flag, text, option.metavar) for text in value)
        case "settings":
            packages: dict[str, dict[str, str]] = {}
            for text in value:
                name, setting = _pair(option.flag, text, option.metavar)
                package, dot, key = name.partition(".")
                if not dot or not key:
                    raise OperatorError("input.bad", f"{option.flag} {text}: write {option.metavar}")
                packages.setdefault(package, {})[key] = setting
            return packages
        case _:
            return value


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise OperatorError("input.bad", f"{flag} {one_line(text)}: write a number") from error


def _limit(flag: str, text: str) -> float | bool:
    if text in ("true", "false"):
        return text == "true"
    return _number(flag, text)


def _pair(flag: str, text: str, form: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise OperatorError("input.bad", f"{flag} {text}: write {form}")
    return key, value
