"""Makes the agent a service of the machine, where systemd is init."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from device_agent.config import AgentConfig, DevicePolicy
from device_agent.config_file import is_there, others_can_read
from device_agent.durability import write_file
from device_agent.faults import disk_fault
from device_agent.owner_rules import Gate
from schemas.errors import OperatorError, one_line

UNIT: Final = "flotilla-agent.service"
UNIT_FOLDER: Final = Path("/etc/systemd/system")
SYSTEMD_IS_INIT: Final = Path("/run/systemd/system")
SYSTEMCTL_S: Final = 60.0


def agent_command() -> tuple[str, ...]:
    """How this very agent is started, with absolute paths: a unit has no PATH of the user's."""
    beside = Path(sys.executable).with_name("flotilla-agent")
    return (str(beside),) if beside.exists() else (sys.executable, "-m", "device_agent.cli.main")


def unit_text(*, command: Sequence[str], config: Path) -> str:
    """The unit's text.

    Raises:
        OperatorError: `config.bad`; a path that a unit cannot hold.
    """
    template = resources.files("device_agent").joinpath("systemd").joinpath(UNIT).read_text()
    words = " ".join(_word(part) for part in command)
    return template.replace("@COMMAND@", words).replace("@CONFIG@", _word(str(config)))


def config_text(config: AgentConfig) -> str:
    """A first agent.toml: what was given, and what else there is as comments."""

    def text(value: object) -> str:
        # JSON's strings and lists of strings are TOML's too
        return json.dumps(value)

    lines = [
        "# The agent's configuration; every key is explained in docs/guides/device-owners.md.",
        f"id = {text(config.id)}",
        f"root = {text(str(config.root))}",
        f"broker = {text(config.broker)}",
        f"channel = {text(config.channel)}",
        f"packages = {text(config.packages)}",
        f"repositories = {text(config.repositories)}",
    ]
    if config.trusted_root is not None:
        lines.append(f"trusted_root = {text(str(config.trusted_root))}")
    else:
        lines.append('# trusted_root = "/etc/flotilla/root.json"  # `flotilla root` writes it')
    lines.append(f"topic_root = {text(config.topic_root)}")
    auth = {
        "username": config.broker_auth.username,
        "password_file": config.broker_auth.password_file,
        "ca": config.broker_auth.ca,
        "cert": config.broker_auth.cert,
        "key": config.broker_auth.key,
    }
    lines += _table("broker_auth", {key: str(value) for key, value in auth.items() if value is not None})
    lines += _table("tags", dict(config.tags))
    lines += _table("facts", dict(config.facts))
    for package, settings in config.settings.items():
        lines += _table(f"settings.{package}", dict(settings))
    policy = config.policy
    words: dict[str, object] = {
        "local_changes": policy.local_changes,
        "link_install_path": policy.link_install_path,
        "services": policy.services,
        "agent_package": policy.agent_package,
        "agent_start_s": policy.agent_start_s,
    }
    usual = DevicePolicy()
    times = (
        "windows",
        "fetch_outside_windows",
        "longest_postponement_s",
        "reach_broker_s",
        "max_bytes",
        "max_bytes_per_s",
    )
    words |= {key: getattr(policy, key) for key in times if getattr(policy, key) != getattr(usual, key)}
    lines += _table("policy", words)
    lines += _table("policy.install_paths", {name: str(path) for name, path in policy.install_paths.items()})
    gate, given = msgspec.structs.asdict(Gate()), msgspec.structs.asdict(config.gate)
    lines += _table("gate", {key: value for key, value in given.items() if value != gate[key]})
    return "\n".join(lines) + "\n"


def install(
    *, unit: str, config_file: Path, config_text: str, unit_folder: Path = UNIT_FOLDER, marker: Path = SYSTEMD_IS_INIT
) -> Iterator[str]:
    """Write both files, then have systemd start the agent; one line for each thing done.

    An agent.toml that exists is left as it is.

    Raises:
        DeviceError: `disk.*`.
        OperatorError: `config.bad`; systemd does not take the unit, or does not start the agent.
    """
    if is_there(config_file):
        yield f"kept {config_file}{others_can_read(config_file)}"
    else:
        _write(config_file, config_text, mode=0o600)  # settings may be secrets: what is rendered with them is 0640
        yield f"wrote {config_file}"
    if not unit_folder.is_dir():
        yield f"{unit_folder} is not there, so there is no systemd; start `flotilla-agent launch` some other way"
        return
    _write(unit_folder / UNIT, unit)
    yield f"wrote {unit_folder / UNIT}"
    if not marker.is_dir() or shutil.which("systemctl") is None:
        yield "systemd is not init here: enable the unit where it is, or start `flotilla-agent launch` some other way"
        return
    _systemctl("daemon-reload")
    _systemctl("enable", UNIT)
    _systemctl("restart", UNIT)
    yield f"{UNIT} is enabled and runs; `journalctl -u {UNIT}` shows what it does"


def _table(name: str, values: dict[str, object]) -> list[str]:
    if not values:
        return []
    return ["", f"[{name}]", *(f"{_key(key)} = {json.dumps(value)}" for key, value in values.items())]


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _word(text: str) -> str:
    """One word of ExecStart: `%` doubled (systemd.unit(5)); spaces and quotes are refused rather than escaped."""
    if any(c.isspace() or c in "\"'\\$" or not c.isprintable() for c in text):
        raise OperatorError("config.bad", f"{one_line(text)!r}: a unit needs a path without spaces, quotes, \\ and $")
    return text.replace("%", "%%")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode(), mode)
    except PermissionError as error:
        raise OperatorError("config.bad", f"{path}: may not be written by this account; use sudo") from error
    except OSError as error:
        raise disk_fault(error, f"write {path}") from error


def _systemctl(*arguments: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise OperatorError("config.bad", f"systemctl {arguments[0]}: {one_line(error)}") from error
    if done.returncode != 0:
        raise OperatorError("config.bad", f"systemctl {arguments[0]}: {one_line(done.stderr or done.stdout)}")
