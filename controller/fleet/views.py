"""What the stores give back about devices: values for the API, the command line and watchers."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from schemas.errors import OperatorError, one_line
from schemas.messages import ErrorReport, FactValue, InstalledPackage, Phase, Progress, UpdateEvent, Verb

_MAX_BIGINT: Final = 2**63 - 1
_MAX_WORDS: Final = 500
"""Characters of what a device says in one line."""


class Deferral(msgspec.Struct, frozen=True, kw_only=True):
    """Why an update waits on its device.

    Attributes:
        reason: a word or two: `window`, `jitter`, `not ready`.
        because: the reading, or the application's last line; empty for none.
        until: when the wait ends, or is looked at again; None where the device did not say.
    """

    reason: str
    because: str = ""
    until: datetime | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """How far one device is with one update: its latest event, and what earlier ones said of the bytes.

    Attributes:
        at: when it said so, by its own clock.
        progress: of content, as it said while fetching.
        wire_bytes: what it received, metadata included, once it has said so.
        waits: for what, where it is `deferred`; None for any other phase.
    """

    update: str
    rollout: str | None
    package: str
    version: str
    from_version: str | None
    phase: Phase
    at: datetime
    attempt: int
    progress: Progress | None
    error: ErrorReport | None
    wire_bytes: int | None
    waits: Deferral | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device as it was heard of.

    Attributes:
        first_seen: by the controller's clock, as `last_seen`.
        reported_at: by the device's clock; None as long as it has reported nothing, like channel and packages.
        life: grows when its journal began again at 1, as after its disk was replaced.
        seq: the number up to which all its events are here.
        missing: how many events it has beyond that which are not.
        update: what it does, or did last.
        pins: what it was told to stay at, by package; `hold`, whether it was told to start nothing.
        told_channel: the channel that it was told to follow instead of its configured one; None for none.
        told_tags: the tags that it was told to have instead of its configured ones; None where it was told none.
    """

    id: str
    online: bool
    session: int
    first_seen: datetime
    last_seen: datetime
    agent_version: str | None
    boot_id: str | None
    reported_at: datetime | None
    channel: str | None
    tags: dict[str, str]
    facts: dict[str, FactValue]
    packages: dict[str, InstalledPackage]
    life: int
    seq: int
    missing: int
    update: Update | None
    pins: dict[str, str] = {}
    hold: bool = False
    told_channel: str | None = None
    told_tags: dict[str, str] | None = None


class TakenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the order of intake. `id` grows, and is what `after` of the next question is."""

    id: int
    life: int
    received_at: datetime
    event: UpdateEvent


class SentCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command, and when the broker took it; None as long as it waits for the connection or has expired."""

    id: str
    device: str
    verb: Verb
    args: dict[str, Any]
    created_at: datetime
    expires_at: datetime
    sent_at: datetime | None


class FleetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers about the fleet. `installed` maps package to version to the number of devices that run it."""

    devices: int
    online: int
    events: int
    channels: dict[str, int]
    installed: dict[str, dict[str, int]]


class KeptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a view needs of an event out of the database: it was checked when it came in, which is most of decoding."""

    device: str
    update: str
    rollout: str | None
    attempt: int
    package: str
    version: str
    from_version: str | None
    phase: Phase
    at: datetime
    progress: Progress | None = None
    error: ErrorReport | None = None
    detail: dict[str, Any] | None = None


_kept: Final = msgspec.json.Decoder(KeptEvent)


def kept_event(payload: str) -> KeptEvent:
    """An event as the database has it."""
    return _kept.decode(payload)


def update_view(event: UpdateEvent | KeptEvent, word: Mapping[str, Any] | None = None) -> Update:
    """The update that `event` is the latest word of.

    Args:
        event: as the device sent it.
        word: the row of `rollout_devices` for the event's rollout and device, if there is one.
    """
    progress, received = event.progress, wire_bytes(event)
    if word is not None and word["update_id"] == event.update:
        received = word["wire_bytes"] if received is None else received
        if progress is None and word["bytes_done"] is not None:
            progress = Progress(bytes_done=word["bytes_done"], bytes_total=word["bytes_total"])
    return Update(
        update=event.update,
        rollout=event.rollout,
        package=event.package,
        version=event.version,
        from_version=event.from_version,
        phase=event.phase,
        at=event.at,
        attempt=event.attempt,
        progress=progress,
        error=event.error,
        wire_bytes=received,
        waits=deferral_of(event),
    )


def deferral_of(event: UpdateEvent | KeptEvent) -> Deferral | None:
    """Why the device waits, by an event that says so; None for any other."""
    detail = event.detail or {}
    if event.phase is not Phase.DEFERRED or not detail.get("reason"):
        return None
    return Deferral(
        reason=one_line(detail["reason"], _MAX_WORDS),
        because=one_line(detail.get("because") or "", _MAX_WORDS),
        until=_moment(detail.get("until") or detail.get("not_before")),
    )


def _moment(said: object) -> datetime | None:
    """A moment that a device told of; None for what is none, or has none in some zone."""
    try:
        moment = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None and 1 < moment.year < 9999 else None


def wire_bytes(event: UpdateEvent | KeptEvent) -> int | None:
    """What the device received for its update, metadata included, where the event says so in its detail."""
    value = (event.detail or {}).get("wire_bytes")
    return min(value, _MAX_BIGINT) if isinstance(value, int) and value >= 0 else None


def unknown_device(device: str) -> OperatorError:
    """To raise where there is no such device."""
    return OperatorError("device.unknown", f"no device {one_line(device)} has been heard of")
