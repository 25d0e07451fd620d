"""Messages of devices, for the tests of the controller's side."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.fleet.incoming import EventIn, Incoming, PresenceIn, ReportedIn
from schemas.codec import encode
from schemas.ids import uuid7
from schemas.messages import InstalledPackage, Phase, Presence, Reported, UpdateEvent

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def an_id(number: int) -> str:
    """The same id for the same number."""
    return uuid7(1_772_366_400_000 + number, number.to_bytes(10, "big"))


ROLLOUT = an_id(1_000_001)


def event(device: str = "pi-1", seq: int = 1, phase: Phase = Phase.ACCEPTED, **changes: Any) -> UpdateEvent:
    """An event; `update` follows from the device's number unless given."""
    made = UpdateEvent(
        device=device,
        boot_id="boot-1",
        seq=seq,
        update=an_id(1),
        rollout=ROLLOUT,
        attempt=1,
        package="tacho",
        version="2.0.0",
        from_version="1.0.0",
        phase=phase,
        at=NOW,
    )
    return msgspec.structs.replace(made, **changes)


def event_in(device: str = "pi-1", seq: int = 1, phase: Phase = Phase.ACCEPTED, **changes: Any) -> EventIn:
    """The same as it comes in."""
    made = event(device, seq, phase, **changes)
    return EventIn(made, encode(made))


def installed(version: str = "1.0.0", **changes: Any) -> InstalledPackage:
    """What a report says of a package."""
    made = InstalledPackage(
        version=version,
        manifest="a" * 64,
        installed_at=NOW,
        previous=None,
        phase=Phase.SUCCEEDED,
        rollout=None,
    )
    return msgspec.structs.replace(made, **changes)


def reported(device: str = "pi-1", seq: int = 0, **changes: Any) -> Reported:
    """A report on channel `stable`."""
    made = Reported(
        device=device,
        at=NOW,
        seq=seq,
        channel="stable",
        tags={},
        facts={"model": "pi4"},
        packages={},
    )
    return msgspec.structs.replace(made, **changes)


def reported_in(device: str = "pi-1", seq: int = 0, *, live: bool = True, **changes: Any) -> ReportedIn:
    """The same as it comes in."""
    return ReportedIn(reported(device, seq, **changes), live)


def succeeded_in(device: str = "pi-1", seq: int = 1, *, version: str = "2.0.0", **changes: Any) -> list[Incoming]:
    """A device's word that it succeeded with `tacho`, and the report that bears it out."""
    runs = {"tacho": installed(version, rollout=changes.get("rollout", ROLLOUT))}
    return [event_in(device, seq, Phase.SUCCEEDED, version=version, **changes), reported_in(device, seq, packages=runs)]


def presence(device: str = "pi-1", *, online: bool = True, session: int = 1, **changes: Any) -> Presence:
    """A presence."""
    made = Presence(device=device, online=online, session=session, boot_id="boot-1", agent_version="1.2.3", at=NOW)
    return msgspec.structs.replace(made, **changes)


def presence_in(
    device: str = "pi-1", *, online: bool = True, session: int = 1, live: bool = True, **changes: Any
) -> Incoming:
    """The same as it comes in."""
    return PresenceIn(presence(device, online=online, session=session, **changes), live)
