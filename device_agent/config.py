"""What the owner of a device says, as one frozen value; `device_agent.config_file` reads and checks it."""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from device_agent.logs import LogFormat
from device_agent.owner_rules import Gate, read_window
from device_agent.readiness import Rules
from schemas.messages import FactValue, TagValue
from schemas.names import ChannelName, DeviceId, Key, PackageName
from schemas.topics import DEFAULT_ROOT
from transport.settings import LinkSettings

DEFAULT_FILE: Final = Path("/etc/flotilla/agent.toml")
DEFAULT_FOLDER: Final = Path("/var/lib/flotilla")
DEFAULT_BROKER: Final = "mqtt://127.0.0.1:1883"
EVERY_PACKAGE: Final = "*"

SettingValue = str | int | float | bool


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of the configuration."""


class BrokerAuth(Section, frozen=True, kw_only=True):
    """How the agent shows the broker who it is. A password is only ever read from a file.

    Attributes:
        username: name the broker knows the device by.
        password_file: file that holds its password in one line.
        ca: PEM file of the authorities to trust instead of the system's; `mqtts://` only, as the next two.
        cert: PEM certificate of the device.
        key: its private key.
    """

    username: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class DevicePolicy(Section, frozen=True, kw_only=True):
    """What the owner wants done in the cases where there is a choice.

    Attributes:
        local_changes: what to do where installed files were changed on the device: refuse the update
            (`abort`), lose the changes (`overwrite`), or keep a copy of them first (`keep-copy`).
        link_install_path: whether a package's install path (e.g. `/opt/tacho`) is made a link to it.
        install_paths: package to the install path to use instead of the package's own.
        services: who keeps services running: `systemd`, the agent itself (`supervisor`), or systemd exactly where
            it is init and the agent is root (`auto`). Several agents on one machine need `supervisor`.
        max_bytes: the most that one update may fetch, signed metadata included, e.g. over a metered link; none by
            default.
        keep_bytes: the most that releases may take which are neither running nor the one before, and are kept so that
            `rollback --to` can go back further; none are kept by default.
        max_bytes_per_s: the most that fetching may take of the line, on average; none by default.
        agent_package: the package that holds the agent itself.
        agent_start_s: how long a new release of the agent may take to be well, before the launcher brings the
            old one back, seconds.
        windows: when updates may start and switch, in the device's time zone, e.g. `sat,sun 01:00-06:00`; besides a
            rollout's own window. None means always.
        fetch_outside_windows: whether releases may be fetched and staged at any time, and only the switch waits.
        longest_postponement_s: how long an application may say 'not now', instead of what releases say.
        reach_broker_s: a release with which the broker is not reached within this time after the switch, though it was
            before, is left; 0: not asked.
    """

    local_changes: Literal["abort", "overwrite", "keep-copy"] = "abort"
    link_install_path: bool = True
    install_paths: dict[PackageName, Path] = {}
    services: Literal["auto", "systemd", "supervisor"] = "auto"
    max_bytes: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    agent_package: PackageName = "flotilla-agent"
    agent_start_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 180
    windows: list[str] = []
    fetch_outside_windows: bool = False
    longest_postponement_s: Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)] | None = None
    reach_broker_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 300


class AgentConfig(Section, frozen=True, kw_only=True):
    """All of it. Every key of `agent.toml` has the same name here, and a flag of the same name.

    Attributes:
        id: the device's name in topics; from the host name where it is not given.
        root: folder that holds everything the agent keeps.
        broker: `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
        channel: which releases the device follows.
        packages: which packages it takes; `["*"]` means all of the channel.
        repositories: base URLs that are tried before an announcement's.
        trusted_root: file with the trusted root; read at the first start only.
        topic_root: first levels of every topic.
        broker_auth: see there.
        tags: what rollouts may ask for, e.g. `site = "harbour"`.
        facts: added to what the agent finds out by itself.
        settings: package to the values that its templates and commands use.
        policy: see there.
        gate: limits for the device's own health.
        log_format: how log lines are written, `text` or `json`.
    """

    id: DeviceId
    root: Path = DEFAULT_FOLDER
    broker: str = DEFAULT_BROKER
    channel: ChannelName = "stable"
    packages: list[str] = msgspec.field(default_factory=lambda: [EVERY_PACKAGE])
    repositories: list[str] = []
    trusted_root: Path | None = None
    topic_root: str = DEFAULT_ROOT
    broker_auth: BrokerAuth = BrokerAuth()
    tags: dict[Key, TagValue] = {}
    facts: dict[Key, FactValue] = {}
    settings: dict[PackageName, dict[Key, SettingValue]] = {}
    policy: DevicePolicy = DevicePolicy()
    gate: Gate = Gate()
    log_format: LogFormat = LogFormat.TEXT

    @property
    def named_packages(self) -> frozenset[str]:
        """The packages that are named one by one."""
        return frozenset(self.packages) - {EVERY_PACKAGE}

    @property
    def takes_every_package(self) -> bool:
        """Whether any package of the channel is taken."""
        return EVERY_PACKAGE in self.packages

    def link_settings(self) -> LinkSettings:
        """How to reach the broker. The client id is the device's, so that two agents with one id are noticed."""
        auth = self.broker_auth
        return LinkSettings(
            url=self.broker,
            client_id=self.id,
            username=auth.username,
            password_file=auth.password_file,
            ca_file=auth.ca,
            cert_file=auth.cert,
            key_file=auth.key,
            session_expiry_s=7 * 86_400,
        )

    def rules(self) -> Rules:
        """When updates may start and switch, as the engine asks for it."""
        policy = self.policy
        return Rules(
            windows=tuple(read_window(text) for text in policy.windows),
            fetch_outside_windows=policy.fetch_outside_windows,
            longest_postponement_s=policy.longest_postponement_s,
            limits=self.gate.limits(),
            reach_broker_s=policy.reach_broker_s,
        )

    def settings_of(self, package: str) -> dict[str, str]:
        """A package's settings as text; true and false are spelt as in JSON."""
        values = self.settings.get(package, {})
        return {key: str(v).lower() if isinstance(v, bool) else str(v) for key, v in values.items()}
