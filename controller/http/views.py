"""What the HTTP API says and takes, as structs: one place for the server, its OpenAPI page and the command line."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from controller.fleet.views import SentCommand
from controller.repository.bundle_views import BundleView
from controller.repository.records import ReleaseRecord
from controller.rollouts.plan import RolloutState
from controller.rollouts.plan_files import ready_plan
from controller.rollouts.views import Failure, Rollout, RolloutDevice, Takers
from controller.rollouts.waves import RolloutPlan
from schemas.messages import Desired, RolloutPolicy, TagValue, Targets, Verb
from schemas.names import ChannelName, DeviceId, Key, PackageName, VersionText

T = TypeVar("T")

MAX_PAGE = 500

Change = Literal["added", "removed", "changed"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is taken: a field that is not known is an error, not a silent nothing."""


class Page(View, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next` is the `after` of the following one, or None at the end."""

    items: list[T]
    next: str | None = None


class RolloutPace(View, frozen=True, kw_only=True):
    """How fast a rollout goes, by the last ten minutes; both None where it does not go on.

    Attributes:
        per_minute: devices that finish, well or not; None where none did lately.
        ends_at: when the rest would be done at this pace; None where nobody is left, or it cannot be said.
    """

    per_minute: float | None = None
    ends_at: datetime | None = None


class RolloutDetail(View, frozen=True, kw_only=True):
    """A rollout with its first devices and what went wrong; more devices are on the rollout's list of devices.

    `unanswered` counts the devices that were asked to stop or to try again, and have not answered. `takers` are those
    that run what it brought, by the version that a revert has them go back to. Apart from them, `took` counts those
    that say that they have it and have not reported what they run since, and `at_it` those that have begun.
    """

    rollout: Rollout
    devices: Page[RolloutDevice]
    failures: list[Failure]
    unanswered: int = 0
    takers: list[Takers] = []
    took: int = 0
    at_it: int = 0
    pace: RolloutPace = RolloutPace()


class ReleaseWish(Wish, frozen=True, kw_only=True):
    """Announce a version on a channel, in waves.

    `plan` is one as in a plan file, or the name of one that ships; without it the number of devices decides.
    """

    package: PackageName
    version: VersionText
    channel: ChannelName
    targets: Targets = msgspec.field(default_factory=Targets)
    policy: RolloutPolicy = msgspec.field(default_factory=RolloutPolicy)
    plan: RolloutPlan | Annotated[str, msgspec.Meta(max_length=64)] | None = None

    def chosen_plan(self) -> RolloutPlan | None:
        """The plan itself, where the wish has only its name too; None for the one by number of devices.

        Raises:
            OperatorError: as `ready_plan`, where no plan of that name ships.
        """
        return ready_plan(self.plan) if isinstance(self.plan, str) else self.plan


class SetWish(Wish, frozen=True, kw_only=True):
    """Announce several packages on a channel, name to version: devices switch to all of them together or to none."""

    packages: Annotated[dict[PackageName, VersionText], msgspec.Meta(min_length=2, max_length=64)]
    channel: ChannelName
    targets: Targets = msgspec.field(default_factory=Targets)
    policy: RolloutPolicy = msgspec.field(default_factory=RolloutPolicy)


class DeviceChoice(Wish, frozen=True, kw_only=True):
    """One device of a rollout; None for all of them."""

    device: DeviceId | None = None


class StateWish(Wish, frozen=True, kw_only=True):
    """Move a rollout to another state."""

    state: RolloutState


class CommandWish(Wish, frozen=True, kw_only=True):
    """Ask a device for something; it counts for `expires_s` seconds."""

    verb: Verb
    args: dict[str, Any] = {}
    expires_s: Annotated[float, msgspec.Meta(ge=1, le=7 * 86_400)] = 3600


class DesiredWish(Wish, frozen=True, kw_only=True):
    """What one device is told apart from its channel; it replaces what it was told before."""

    channel: ChannelName | None = None
    tags: dict[Key, TagValue] | None = None
    pins: dict[PackageName, VersionText] | None = None
    hold: bool | None = None


class ListedRelease(ReleaseRecord, frozen=True, kw_only=True):
    """A release, and how its rollout stands on those of its channels where nobody new gets it.

    Attributes:
        stopped: channel to `paused`, `halted` or `reverted`; the channel points at the version all the same.
    """

    stopped: dict[str, RolloutState] = msgspec.field(default_factory=dict)


class FoundReleases(View, frozen=True, kw_only=True):
    """As `Page`; and where no release of that name fits, the names of packages that may have been meant."""

    items: list[ListedRelease]
    next: str | None = None
    near: list[str] = []


class ChangedFile(View, frozen=True, kw_only=True):
    """A file that differs between two versions; `before` and `after` are its bytes, None where it is not there."""

    path: str
    change: Change
    before: int | None
    after: int | None


class ComparisonView(View, frozen=True, kw_only=True):
    """What changes on a device that goes from version `old` of a package to `new`.

    Attributes:
        platform: whose releases are compared.
        added, removed, changed: how many files; one that only changed its mode counts as changed.
        same: how many are as they were.
        new_bytes: of distinct contents that the old version does not have anywhere.
        parts: what differs besides files, as `health` or `hooks`.
        bundle: the single file that leads from one to the other; None where none is kept.
        items: one page of the files that differ, by path.
        next: the `after` of the following page, or None at the end.
    """

    package: str
    platform: str
    old: str
    new: str
    added: int
    removed: int
    changed: int
    same: int
    new_bytes: int
    parts: list[str]
    bundle: BundleView | None
    items: list[ChangedFile]
    next: str | None = None


class PushView(View, frozen=True, kw_only=True):
    """A stored package; `new` is False where the same content was there already."""

    release: ReleaseRecord
    new: bool


class Announced(Rollout, frozen=True, kw_only=True):
    """A rollout that has just begun, and what an operator should know about it."""

    warnings: list[str] = msgspec.field(default_factory=list)


class Told(Desired, frozen=True, kw_only=True):
    """What a device was told, and what an operator should know about it."""

    warnings: list[str] = msgspec.field(default_factory=list)


class Asked(SentCommand, frozen=True, kw_only=True):
    """What a device was asked for, and what an operator should know about it."""

    warnings: list[str] = msgspec.field(default_factory=list)


class SiteWish(Wish, frozen=True, kw_only=True):
    """Releases to put into one file for another site: package to version range, and None for all versions."""

    packages: dict[PackageName, str | None]
    valid_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 90


class RetireWish(Wish, frozen=True, kw_only=True):
    """Remove old releases that nothing needs; see `controller.repository.retention.Rules`."""

    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    older_than_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 90
    dry_run: bool = True


class YankWish(Wish, frozen=True, kw_only=True):
    """Let a version be chosen no more, or again."""

    yanked: bool = True
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class YankView(View, frozen=True, kw_only=True):
    """The version's releases as they are now, and what an operator should know about them."""

    releases: list[ReleaseRecord]
    warnings: list[str]


class ControllerView(View, frozen=True, kw_only=True):
    """Where the controller's parts are, for people who connect to it by hand.

    Attributes:
        broker: its address, without credentials.
        connected: whether the controller is connected to it.
        error: why it is not; None where it is.
        repository: base URLs that announcements name.
    """

    version: str
    broker: str
    connected: bool
    error: str | None = None
    topic_root: str
    repository: list[str]
