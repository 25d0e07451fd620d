"""What the HTTP API says and takes, as structs: one place for the server, its OpenAPI page and the command line."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState, Verdict
from schemas.messages import (
    ErrorReport,
    FactValue,
    InstalledPackage,
    Phase,
    Progress,
    RolloutPolicy,
    TagValue,
    Targets,
    Verb,
)
from schemas.names import ChannelName, Key, PackageName, VersionText

T = TypeVar("T")

MAX_PAGE = 500


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is taken: a field that is not known is an error, not a silent nothing."""


class Page(View, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next` is the `after` of the following one, or None at the end."""

    items: list[T]
    next: str | None = None


class UpdateView(View, frozen=True, kw_only=True):
    """How far one device is with one update.

    Attributes:
        wire_bytes: what the device received for it, metadata included; None until it has said so.
    """

    package: PackageName
    version: VersionText
    from_version: VersionText | None
    phase: Phase
    at: datetime
    attempt: int
    rollout: str | None
    progress: Progress | None = None
    error: ErrorReport | None = None
    wire_bytes: int | None = None


class DeviceView(View, frozen=True, kw_only=True):
    """A device: presence, what it reported, and its newest update."""

    id: str
    online: bool
    first_seen: datetime
    last_seen: datetime
    agent_version: str | None
    channel: str | None
    tags: dict[str, str]
    facts: dict[str, FactValue]
    packages: dict[str, InstalledPackage]
    update: UpdateView | None


class RolloutDeviceView(View, frozen=True, kw_only=True):
    """One device in one rollout: the engine's verdict, and the last words of the device itself."""

    device: str
    verdict: Verdict
    update: UpdateView | None


class FailureView(View, frozen=True, kw_only=True):
    """Devices that failed in the same way: how many, the first few, and what one of them said."""

    code: str
    count: int
    devices: list[str]
    message: str
    log_tail: str


class RolloutView(View, frozen=True, kw_only=True):
    """A rollout; `counts` maps each verdict to the number of devices with it."""

    id: str
    package: PackageName
    version: VersionText
    channel: ChannelName
    state: RolloutState
    revision: int
    targets: Targets
    policy: RolloutPolicy
    created_at: datetime
    changed_at: datetime
    counts: dict[Verdict, int]


class RolloutDetail(RolloutView, frozen=True, kw_only=True):
    """A rollout with its devices and what went wrong."""

    devices: list[RolloutDeviceView]
    failures: list[FailureView]


class ReleaseWish(Wish, frozen=True, kw_only=True):
    """Announce a version on a channel."""

    package: PackageName
    version: VersionText
    channel: ChannelName
    targets: Targets = Targets()
    policy: RolloutPolicy = RolloutPolicy()


class StateWish(Wish, frozen=True, kw_only=True):
    """Move a rollout to another state."""

    state: RolloutState


class CommandWish(Wish, frozen=True, kw_only=True):
    """Ask a device for something; it counts for `expires_s` seconds."""

    verb: Verb
    args: dict[str, Any] = {}
    expires_s: Annotated[float, msgspec.Meta(ge=1, le=7 * 86_400)] = 3600


class CommandView(View, frozen=True, kw_only=True):
    """A command that was taken; it is sent when the device is reached before `expires_at`."""

    id: str
    expires_at: datetime


class DesiredWish(Wish, frozen=True, kw_only=True):
    """What one device is told apart from its channel; it replaces what it was told before."""

    channel: ChannelName | None = None
    tags: dict[Key, TagValue] | None = None
    pins: dict[PackageName, VersionText] | None = None
    hold: bool | None = None


class PushView(View, frozen=True, kw_only=True):
    """A stored package; `new` is False where the same content was there already."""

    release: ReleaseRecord
    new: bool


class RootView(View, frozen=True, kw_only=True):
    """Where the controller's parts are, for people who connect to it by hand."""

    version: str
    broker: str
    topic_root: str
    repository: list[str]
