"""The topics of the wire contract: built here and parsed here, nowhere else."""

from dataclasses import dataclass
from typing import Final

from schemas.errors import ContractError, one_line
from schemas.names import CHANNEL_PATTERN, DEVICE_PATTERN, PACKAGE_PATTERN, RESERVED_DEVICES, matches

DEFAULT_ROOT: Final = "flotilla/v1"

DEVICE_TOPICS: Final = ("desired", "reported", "status", "events", "commands")


@dataclass(frozen=True, slots=True)
class ReleaseTopic:
    """`release/{channel}/{package}`, retained: an Announcement."""

    channel: str
    package: str


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """`devices/{device}/{kind}`; `kind` is one of `DEVICE_TOPICS`."""

    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class ControllerTopic:
    """`controller/status`, retained: the controller's Presence."""


Topic = ReleaseTopic | DeviceTopic | ControllerTopic


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds and parses topics under one root.

    Raises `ContractError` (`message.topic`) on names that the contract does not allow, so that no
    wildcard or extra level can ever get into a topic.
    """

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        levels = self.root.split("/")
        if not all(level and level.isprintable() and not set("+#$. ") & set(level) for level in levels):
            raise ContractError(
                "message.topic",
                f"topic root {one_line(self.root)!r} is empty somewhere or has one of + # $ . or a space",
            )

    def release(self, channel: str, package: str) -> str:
        """The retained topic of a channel's announcement of `package`."""
        _require(CHANNEL_PATTERN, channel, "channel")
        _require(PACKAGE_PATTERN, package, "package")
        return f"{self.root}/release/{channel}/{package}"

    def releases_of(self, channel: str) -> str:
        """A subscription to every package of a channel."""
        _require(CHANNEL_PATTERN, channel, "channel")
        return f"{self.root}/release/{channel}/+"

    def every_release(self) -> str:
        """A subscription to every package of every channel, for the controller: what it announced itself."""
        return f"{self.root}/release/+/+"

    def device(self, device: str, kind: str) -> str:
        """One of a device's own topics."""
        _require(DEVICE_PATTERN, device, "device id")
        if device in RESERVED_DEVICES:
            raise ContractError("message.topic", f"device id {device!r} is reserved; choose another one")
        if kind not in DEVICE_TOPICS:
            raise ContractError("message.topic", f"a device has no topic {one_line(kind)!r}")
        return f"{self.root}/devices/{device}/{kind}"

    def every_device(self, kind: str) -> str:
        """A subscription to one kind of topic of all devices, for the controller."""
        if kind not in DEVICE_TOPICS:
            raise ContractError("message.topic", f"a device has no topic {one_line(kind)!r}")
        return f"{self.root}/devices/+/{kind}"

    def controller_status(self) -> str:
        """The controller's retained presence."""
        return f"{self.root}/controller/status"

    def everything(self) -> str:
        """A subscription to the whole contract, for people who watch."""
        return f"{self.root}/#"

    def parse(self, topic: str) -> Topic:
        """What `topic` is about; raises `ContractError` where it is not one of the contract."""
        prefix = self.root + "/"
        levels = topic[len(prefix) :].split("/") if topic.startswith(prefix) else []
        match levels:
            case ["release", channel, package] if matches(CHANNEL_PATTERN, channel) and matches(
                PACKAGE_PATTERN, package
            ):
                return ReleaseTopic(channel=channel, package=package)
            case ["devices", device, kind] if (
                matches(DEVICE_PATTERN, device) and device not in RESERVED_DEVICES and kind in DEVICE_TOPICS
            ):
                return DeviceTopic(device=device, kind=kind)
            case ["controller", "status"]:
                return ControllerTopic()
        raise ContractError(
            "message.topic", f"topic {one_line(topic)!r} is not one of the contract under {self.root!r}"
        )


def _require(pattern: str, text: str, what: str) -> None:
    if not matches(pattern, text):
        readable = pattern.replace(r"(?!\n)", "")
        raise ContractError("message.topic", f"{what} {one_line(text)!r} does not match {readable}")
