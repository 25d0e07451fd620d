"""From a topic and its payload to a typed value, or one line that says why not. The edge: no I/O."""

from typing import Annotated, ClassVar, Final

import msgspec

from schemas.codec import decode
from schemas.errors import ContractError, one_line
from schemas.messages import FactValue, InstalledPackage, Presence, Reported, TagValue, UpdateEvent
from schemas.names import RESERVED_DEVICES, UUID7_PATTERN, matches
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


MOST_KNOWN: Final = 20_000
"""Names that were found to be in order, of each kind, are kept up to this many: some 2 MiB."""

Incoming = EventIn | ReportedIn | PresenceIn | ClearedIn


class _Unchecked(UpdateEvent, frozen=True, kw_only=True):
    """An event whose names nobody has compared with their patterns: that is three quarters of its decoding."""

    device: str
    update: str
    rollout: str | None
    package: str


class _UncheckedPackage(InstalledPackage, frozen=True, kw_only=True):
    manifest: str
    rollout: str | None


class _UncheckedReport(Reported, frozen=True, kw_only=True):
    """As `_Unchecked`: a report has some twenty names, and most of them are those of the report before."""

    device: str
    channel: str
    tags: Annotated[dict[str, TagValue], msgspec.Meta(max_length=64)]
    facts: Annotated[dict[str, FactValue], msgspec.Meta(max_length=128)]
    packages: Annotated[dict[str, _UncheckedPackage], msgspec.Meta(max_length=256)]  # type: ignore[assignment]  # frozen


class Reader:
    """Reads what devices publish, under one topic root. For one thread."""

    def __init__(self, topics: Topics) -> None:
        self._parse = topics.parse
        self._devices = f"{topics.root}/devices/"
        self._known_devices: set[str] = set()
        self._packages: set[str] = set()
        self._ids: set[str | None] = {None}
        self._channels: set[str] = set()
        self._keys: set[str] = set()
        self._manifests: set[str] = set()

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
        incoming: Incoming
        if kind == "events":
            incoming = self._event(payload)
            said_by = incoming.event.device  # not by its property: nearly all messages are events
        else:
            live = not retained
            incoming = ReportedIn(self._report(payload), live) if kind == "reported" else _presence(payload, live=live)
            said_by = incoming.device
        return incoming if said_by == device else None

    def _event(self, payload: bytes) -> EventIn:
        """As `decode`, which is asked the first time that a name comes, but for the ids of updates.

        Devices say the same few names again and again.
        """
        try:
            event = decode(payload, _Unchecked)
        except ContractError:
            return EventIn(decode(payload, UpdateEvent), payload)  # which says so in its words
        devices, packages, ids = self._known_devices, self._packages, self._ids
        if event.device in devices and event.package in packages and event.rollout in ids:
            if event.update in ids:
                return EventIn(event, payload)
            # the first word of an update, of which nothing else is new
            if matches(UUID7_PATTERN, event.update):
                self._bound()
                ids.add(event.update)
                return EventIn(event, payload)
        checked = decode(payload, UpdateEvent)
        self._bound()
        devices.add(checked.device)
        packages.add(checked.package)
        ids.update((None, checked.update, checked.rollout))
        return EventIn(checked, payload)

    def _report(self, payload: bytes) -> Reported:
        """As `decode`, which is asked where there is a name that has not come before."""
        try:
            report = decode(payload, _UncheckedReport)
        except ContractError:
            return decode(payload, Reported)  # which says so in its words
        keys, packages = self._keys, report.packages
        if (
            report.device in self._known_devices
            and report.channel in self._channels
            and report.facts.keys() <= keys
            and report.tags.keys() <= keys
            and packages.keys() <= self._packages
        ):
            manifests, ids = self._manifests, self._ids
            if all(one.manifest in manifests and one.rollout in ids for one in packages.values()):
                return report
        checked = decode(payload, Reported)
        self._bound()
        self._known_devices.add(checked.device)
        self._channels.add(checked.channel)
        keys.update(checked.facts, checked.tags)
        self._packages.update(checked.packages)
        self._manifests.update(one.manifest for one in checked.packages.values())
        self._ids.update(one.rollout for one in checked.packages.values())
        return checked

    def _bound(self) -> None:
        names = (self._known_devices, self._packages, self._channels, self._keys, self._manifests)
        for known in (*names, self._ids):
            if len(known) > MOST_KNOWN:
                known.clear()

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
    return _presence(payload, live=live)


def _presence(payload: bytes, *, live: bool) -> PresenceIn:
    return PresenceIn(decode(payload, Presence), live)
