"""The messages of the wire contract, version 1, as frozen structs.

Unknown fields are ignored, so that later versions may add some. Times are timezone-aware and written as
RFC 3339 in UTC with `Z`. Decoding and its limits are in `schemas.codec`.
"""

from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

from schemas.errors import CODES
from schemas.names import ChannelName, DeviceId, Key, PackageName, Sha256, Uuid7, VersionText

SCHEMA: Final = 1
"""The version of the contract that this code reads and writes."""

BUCKETS: Final = 10_000
"""`targets.upto` is a share of this many buckets."""

MAX_SEQ: Final = 2**53 - 1
"""The highest sequence number: every reader of JSON knows integers up to here exactly."""

Time = Annotated[datetime, msgspec.Meta(tz=True)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)]
TagValue = Annotated[str, msgspec.Meta(max_length=256)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What all messages share. `schema` is the contract's version that the writer speaks."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA


class ReleaseState(StrEnum):
    """What an announcement asks of the devices it means."""

    ACTIVE = "active"
    PAUSED = "paused"
    HALTED = "halted"
    REVERTED = "reverted"
    COMPLETE = "complete"


class Phase(StrEnum):
    """Where an update is; also the word for the step, the module, the event and the log field."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    FETCHING = "fetching"
    STAGED = "staged"
    SWITCHED = "switched"
    PROBATION = "probation"
    SUCCEEDED = "succeeded"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


LAST_WORDS: Final = frozenset({Phase.REJECTED, Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED, Phase.CANCELLED})
"""Each update has exactly one of these, and nothing after it."""


class Verb(StrEnum):
    """What a controller may ask of a device."""

    REPLAY = "replay"
    REPORT = "report"
    RETRY = "retry"
    CANCEL = "cancel"
    ROLLBACK = "rollback"
    CHECK = "check"


OF_PACKAGE: Final = frozenset({Verb.RETRY, Verb.CANCEL, Verb.ROLLBACK})
"""Verbs that are about one package."""


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices are meant; `schemas.targeting` decides.

    Attributes:
        upto: buckets below this are in, 0 to 10000.
        where: facts and tags that must all hold; a list means any of its values.
        devices: ids that are in regardless of `upto`.
        exclude: ids that are out whatever else holds. A reader that does not know the field takes them as in.
    """

    upto: Annotated[int, msgspec.Meta(ge=0, le=BUCKETS)] = BUCKETS
    where: dict[Key, TagValue | Annotated[list[TagValue], msgspec.Meta(max_length=256)]] = {}
    devices: Annotated[list[DeviceId], msgspec.Meta(max_length=3000)] = []
    exclude: Annotated[list[DeviceId], msgspec.Meta(max_length=3000)] = []


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A daily time in which updates may start, in the device's own time zone.

    Attributes:
        start: `HH:MM`, in.
        end: `HH:MM`, out; earlier than `start` means past midnight.
        days: 0 is Monday; the day on which the window starts. Empty means every day.
    """

    start: Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](?!\n)$")]
    end: Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](?!\n)$")]
    days: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=6)]], msgspec.Meta(max_length=7)] = []


class ReleaseSet(msgspec.Struct, frozen=True, kw_only=True):
    """Releases that were announced together: a device takes all of them, in one switch, or none.

    Attributes:
        id: the same in the announcements of all of them.
        packages: name to version of every member, the announcement's own package included.
    """

    id: Uuid7
    packages: Annotated[dict[PackageName, VersionText], msgspec.Meta(min_length=2, max_length=64)]


class RolloutPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a device may go about it.

    Attributes:
        jitter_s: a device waits a random time up to this before it fetches, seconds.
        window: when updates may start.
        not_before: nobody starts before this.
        deadline: nobody starts after this.
        allow_downgrade: whether a release older than the installed one may be installed.
        retries: how often a device tries again after a failure that may pass.
        set: the releases that are to be switched together with this one; None for one by itself.
    """

    jitter_s: Seconds = 0
    window: Window | None = None
    not_before: Time | None = None
    deadline: Time | None = None
    allow_downgrade: bool = False
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    set: ReleaseSet | None = None


class Announcement(Message, frozen=True, kw_only=True):
    """`release/{channel}/{package}`: a hint that a release is to be installed. Signatures decide what it is."""

    rollout: Uuid7
    revision: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)]
    package: PackageName
    version: VersionText
    channel: ChannelName
    state: ReleaseState
    targets: Targets
    policy: RolloutPolicy
    repository: Annotated[list[Annotated[str, msgspec.Meta(max_length=2048)]], msgspec.Meta(max_length=16)]
    published_at: Time


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fetch is, in bytes of content (plain, not as packed on the wire)."""

    bytes_done: Annotated[int, msgspec.Meta(ge=0)]
    bytes_total: Annotated[int, msgspec.Meta(ge=0)]


ErrorCode = Annotated[
    str,
    msgspec.Meta(pattern=r"^[a-z]+\.[a-z_]+(?!\n)$", max_length=64, extra_json_schema={"examples": sorted(CODES)[:3]}),
]


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why an update did not go well. `code` is listed in `schemas.errors.CODES`; readers take unknown ones too."""

    code: ErrorCode
    message: Text
    log_tail: Annotated[str, msgspec.Meta(max_length=16_384)] = ""


class UpdateEvent(Message, frozen=True, kw_only=True):
    """`devices/{id}/events`: one step of one update of one device. `(device, seq)` is its key for ever."""

    device: DeviceId
    boot_id: Annotated[str, msgspec.Meta(max_length=64)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)]
    update: Uuid7
    rollout: Uuid7 | None
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    package: PackageName
    version: VersionText
    from_version: VersionText | None
    phase: Phase
    at: Time
    progress: Progress | None = None
    error: ErrorReport | None = None
    detail: Annotated[dict[str, Any], msgspec.Meta(max_length=32)] | None = None


class InstalledPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What a device runs of one package. `manifest` is the sha256 of the signed manifest."""

    version: VersionText
    manifest: Sha256
    installed_at: Time
    previous: VersionText | None
    phase: Phase
    rollout: Uuid7 | None


FactValue = str | int | float | bool | None


class Reported(Message, frozen=True, kw_only=True):
    """`devices/{id}/reported`, retained: what is true on the device. `seq` is its last event's."""

    device: DeviceId
    at: Time
    seq: Seq
    channel: ChannelName
    tags: Annotated[dict[Key, TagValue], msgspec.Meta(max_length=64)]
    facts: Annotated[dict[Key, FactValue], msgspec.Meta(max_length=128)]
    packages: Annotated[dict[PackageName, InstalledPackage], msgspec.Meta(max_length=256)]


class Presence(Message, frozen=True, kw_only=True):
    """`devices/{id}/status`, retained and last will; the controller's has the device `controller`.

    `session` grows with every connection: an `online: false` of an older session is ignored.
    """

    device: DeviceId
    online: bool
    session: Seq
    boot_id: Annotated[str, msgspec.Meta(max_length=64)]
    agent_version: Annotated[str, msgspec.Meta(max_length=256)]
    at: Time


class Desired(Message, frozen=True, kw_only=True):
    """`devices/{id}/desired`, retained: what one device is told apart from its channel.

    Attributes:
        rev: grows with each change; an older one is ignored.
        channel: instead of the configured one.
        tags: instead of the configured ones.
        pins: package to the version it stays at.
        hold: start no update at all.
    """

    rev: Seq
    channel: ChannelName | None = None
    tags: Annotated[dict[Key, TagValue], msgspec.Meta(max_length=64)] | None = None
    pins: Annotated[dict[PackageName, VersionText], msgspec.Meta(max_length=256)] | None = None
    hold: bool | None = None


class Command(Message, frozen=True, kw_only=True):
    """`devices/{id}/commands`, not retained: asks a device for something until `expires_at`.

    `args` by verb: `replay` `{after_seq}`; `retry`, `cancel` and `rollback` `{package}`; the others none. With
    `rollout` besides, `retry` and `cancel` concern the updates of that rollout only. `cancel` may have the rollout's
    `version`, so that a device that never began it can say that it will not, and `ended`, the id of an update whose
    last word is known and that was to be tried again: so that word is no answer.
    """

    id: Uuid7
    verb: Verb
    args: Annotated[dict[str, Any], msgspec.Meta(max_length=32)] = {}
    expires_at: Time


AnyMessage = Announcement | UpdateEvent | Reported | Presence | Desired | Command


class MessageKind(StrEnum):
    """Names of the message types, as in file names under `docs/contract/` and `tests/vectors/`."""

    ANNOUNCEMENT = "announcement"
    UPDATE_EVENT = "update-event"
    REPORTED = "reported"
    PRESENCE = "presence"
    DESIRED = "desired"
    COMMAND = "command"


MESSAGE_TYPES: Final[dict[MessageKind, type[Message]]] = {
    MessageKind.ANNOUNCEMENT: Announcement,
    MessageKind.UPDATE_EVENT: UpdateEvent,
    MessageKind.REPORTED: Reported,
    MessageKind.PRESENCE: Presence,
    MessageKind.DESIRED: Desired,
    MessageKind.COMMAND: Command,
}


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; a naive one is an error of the caller."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC)


def shown_in(moment: datetime, zone: tzinfo | None = UTC) -> datetime:
    """The same moment in a zone (the local one for None), to show it to people.

    One that a device tells of may lie before the first year or after the last in that zone: it stays in its own.
    """
    try:
        return moment.astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return moment
