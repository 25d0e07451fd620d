"""From a topic and its payload to a typed value, or one line that says why not. The edge: no I/O."""

from typing import ClassVar

import msgspec

from schemas.codec import decode
from schemas.errors import ContractError, one_line
from schemas.messages import Presence, Reported, UpdateEvent
from schemas.names import RESERVED_DEVICES
from schemas.topics import DeviceTopic, Topics

INTAKE_KINDS = ("events", "reported", "status")
"""The topics of a device that it writes itself."""


class EventIn(msgspec.Struct, frozen=True):
    """An event, and the bytes it came as."""

    event: UpdateEvent
    payload: bytes
    live: ClassVar[bool] = True
    """Events are never retained."""

    @property
    def device(self) -> str:
        """Who says so."""
        return self.event.device


class ReportedIn(msgspec.Struct, frozen=True):
    """A device's report of what is true. `live` tells it from one that the broker had kept."""

    reported: Reported
    live: bool

    @property
    def device(self) -> str:
        """Who says so."""
        return self.reported.device


class PresenceIn(msgspec.Struct, frozen=True):
    """A device's presence. `live` tells it from one that the broker had kept."""

    presence: Presence
    live: bool

    @property
    def device(self) -> str:
        """Who says so."""
        return self.presence.device


class ClearedIn(msgspec.Struct, frozen=True):
    """A retained topic was cleared: the device is taken out of service. `kind` is `reported` or `status`."""

    device: str
    kind: str
    live: ClassVar[bool] = False
    """It is no sign of life: whoever takes a device out of service clears it."""


Incoming = EventIn | ReportedIn | PresenceIn | ClearedIn


class Reader:
    """Reads what devices publish, under one topic root."""

    def __init__(self, topics: Topics) -> None:
        self._parse = topics.parse
        self._devices = f"{topics.root}/devices/"

    def quickly(self, topic: str, payload: bytes, *, retained: bool = False) -> Incoming | None:
        """As `read`, for what nearly all messages are; None for what has to be looked at more closely.

        Taking a topic apart costs as much as decoding a small message, and most messages name the device themselves.

        Raises:
            ContractError: it breaks the contract.
        """
        if not payload or not topic.startswith(self._devices):
            return None
        device, _, kind = topic[len(self._devices) :].partition("/")
        if kind not in INTAKE_KINDS or device in RESERVED_DEVICES:
            return None
        incoming = _decoded(kind, payload, live=not retained)
        return incoming if incoming.device == device else None

    def read(self, topic: str, payload: bytes, *, retained: bool = False) -> Incoming:
        """The value in a message.

        Raises:
            ContractError: it breaks the contract; the message is one line, and asking again is no use.
        """
        place = self._parse(topic)
        if not isinstance(place, DeviceTopic) or place.kind not in INTAKE_KINDS:
            raise ContractError("message.topic", f"nothing is taken in from {one_line(topic)}")
        if not payload and place.kind != "events":
            return ClearedIn(place.device, place.kind)
        incoming = _decoded(place.kind, payload, live=not retained)
        if incoming.device != place.device:
            raise ContractError("message.topic", f"a message of device {incoming.device} came on {one_line(topic)}")
        return incoming


def _decoded(kind: str, payload: bytes, *, live: bool) -> Incoming:
    if kind == "events":
        return EventIn(decode(payload, UpdateEvent), payload)
    if kind == "reported":
        return ReportedIn(decode(payload, Reported), live)
    return PresenceIn(decode(payload, Presence), live)
