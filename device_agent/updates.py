"""What the update engine keeps and is asked for, as frozen values."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from schemas.messages import ErrorReport, FactValue, Phase, ReleaseSet, Window


class Origin(StrEnum):
    """Who wants an update."""

    ANNOUNCEMENT = "announcement"
    FILE = "file"
    ROLLBACK = "rollback"
    """The operator asked for the previous release."""
    REVERT = "revert"
    """The rollout was reverted."""
    REPAIR = "repair"
    """The agent itself: what is installed was damaged, or the journal of it."""


class Migration(StrEnum):
    """How far an update's migration of state and templates has come."""

    NONE = "none"
    BEGUN = "begun"
    DONE = "done"
    UNDONE = "undone"
    """Migrated back, or the state put back as it was."""


class UpdateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to install a release, after targeting and windows were decided on.

    Attributes:
        package: its name.
        version: SemVer text.
        rollout: the announcement's; None for a local installation.
        origin: who wants it.
        repository: base URLs in order, or for `Origin.FILE` the absolute path of the exported file; see `whence`.
        allow_downgrade: whether it may be older than what is installed.
        retries: how often to try again after a failure that may pass.
        not_before: the update is deferred until then.
        deadline: it is rejected (`conflict.deadline`) where it could not start by then.
        reason: one word for people why it is deferred, e.g. `jitter`, `window`, `not_before`.
        any_size: whether it may take more than the owner's `policy.max_bytes`: an operator said so, for once.
        window: the rollout's, asked again before the switch.
        group: the set it was announced with, all of which is switched together or not at all.
        to: for a rollback, the release to go back to where it is not the previous one.
    """

    package: str
    version: str
    rollout: str | None = None
    origin: Origin = Origin.ANNOUNCEMENT
    repository: list[str] = []
    allow_downgrade: bool = False
    retries: int = 3
    not_before: datetime | None = None
    deadline: datetime | None = None
    reason: str = ""
    any_size: bool = False
    window: Window | None = None
    group: ReleaseSet | None = None
    to: "Release | None" = None

    @property
    def whence(self) -> Path | list[str]:
        """What the source factory is given.

        Only somebody at the device may have a file opened: the agent is root, and what comes of it is told to all who
        may read events. So what others named is a path never, whatever it looks like.
        """
        if self.origin is Origin.FILE and self.repository:
            return Path(self.repository[0])
        return fetchable(self.repository)


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is on the device. `manifest` is the sha256 of its plain manifest."""

    version: str
    manifest: str
    rollout: str | None = None
    installed_at: datetime


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """What the device runs of a package, and what it can go back to."""

    package: str
    current: Release
    previous: Release | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Why an update was deferred last, where that is neither its time nor a failure.

    Attributes:
        reason: a word or two, e.g. `hold`, `window`, `not ready`, `temperature`.
        since: when it was put off for this reason.
        until: when that ends at the latest; None where nobody knows.
        line: the reading, or the last line of the hook that said so.
        unfit_since: since when the device itself was not fit for it, without a break.
        asked_since: when the application first said 'not now'.
    """

    reason: str
    since: datetime
    until: datetime | None = None
    line: str = ""
    unfit_since: datetime | None = None
    asked_since: datetime | None = None


def fetchable(addresses: Iterable[str]) -> list[str]:
    """Those of the addresses that somebody announced of which anything may be fetched."""
    return [one for one in addresses if one.lower().startswith(("http://", "https://"))]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the journal.

    Attributes:
        id: UUIDv7.
        request: what was asked for.
        phase: None where the journal holds one that this agent does not know.
        attempt: 1, and one more for each try after a failure that passed.
        manifest: sha256 of the release's plain manifest, once it is known.
        before: what was installed when work began; what a rollback goes back to.
        not_before: when a deferred update is due.
        restarts: agent starts in a watched phase since it last was well for a while.
        switch_begun: written before the first thing is changed; a failure from then on is undone.
        probation_done_s: healthy time so far. Counted with the monotonic clock and only while the agent
            runs, so a wrong time of day neither shortens nor lengthens a probation.
        error: why it is rolled back or ended badly.
        fetched_bytes: what its attempts have taken from the network so far; kept where `policy.max_bytes` counts.
        snapshot: whether the state was copied before the switch.
        migration: of state and templates.
        waiting: what it was put off for; kept until the step after the wait is done.
        staged: whether a deferred update is staged already, and only waits to be switched to.
        unreached_after: the broker must confirm an event above this one before the release has succeeded; None: it need
            not, or has done so.
    """

    id: str
    request: UpdateRequest
    phase: Phase | None
    attempt: int = 1
    created_at: datetime
    changed_at: datetime
    manifest: str | None = None
    before: Install | None = None
    not_before: datetime | None = None
    restarts: int = 0
    switch_begun: bool = False
    probation_done_s: float = 0.0
    error: ErrorReport | None = None
    fetched_bytes: int = 0
    snapshot: bool = False
    migration: Migration = Migration.NONE
    waiting: Waiting | None = None
    staged: bool = False
    unreached_after: int | None = None

    @property
    def package(self) -> str:
        """The package's name."""
        return self.request.package

    @property
    def version(self) -> str:
        """The version that is to be installed (or left, by a rollback or revert)."""
        return self.request.version

    @property
    def rollout(self) -> str | None:
        """The rollout's id."""
        return self.request.rollout

    @property
    def from_version(self) -> str | None:
        """The version a rollback goes back to: what was installed before."""
        target = self.comes_from
        return target.version if target else None

    @property
    def comes_from(self) -> Release | None:
        """The release that a rollback of this update goes back to; None means nothing installed."""
        if self.before is None:
            return None
        if self.goes_back:
            return self.request.to or self.before.previous
        return self.before.current

    @property
    def goes_back(self) -> bool:
        """Whether the wish is to leave `version` rather than to get it."""
        return self.request.origin in (Origin.ROLLBACK, Origin.REVERT)

    @property
    def was_never_begun(self) -> bool:
        """Whether its rollout was taken back before anything of it was begun, see `UpdateManager.cancel`."""
        unknown = self.request.rollout is not None and not self.request.repository
        return self.phase is Phase.CANCELLED and self.manifest is None and unknown


_NOT_PROVEN: Final = frozenset({Phase.SWITCHED, Phase.PROBATION, Phase.ROLLING_BACK, Phase.FAILED, None})


def installation_phase(install: Install, updates: Iterable[Update]) -> Phase:
    """How far the installed release's own installation has come, whatever was tried since.

    Args:
        install: what is installed.
        updates: the package's, newest first.

    Returns:
        `succeeded` for a release that has proven itself, also where it was gone back to since; else
        `switched`, `probation`, `rolling_back`, or `failed` where it could not be left.
    """
    current = install.current
    for update in updates:
        if update.goes_back or update.version != current.version:
            continue
        if update.phase is Phase.SUCCEEDED and update.manifest in (None, current.manifest):
            return Phase.SUCCEEDED
        # the same release may have been tried before, on top of another one
        put_it_there = update.manifest == current.manifest and update.comes_from == install.previous
        if put_it_there and update.phase in _NOT_PROVEN:
            return update.phase or Phase.ROLLING_BACK
    return Phase.SUCCEEDED


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a rollout's release ended here, so that hearing of it again changes nothing."""

    phase: Phase
    code: str | None = None


class Answer(StrEnum):
    """What `UpdateManager.submit` made of a request."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    UNDER_WAY = "under way"
    INSTALLED = "installed"
    GIVEN_UP = "given up"
    """It ended badly before; `retry`, a newer release or another rollout would be tried."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and the update it is about where there is one."""

    answer: Answer
    update: str | None = None


class Cancelled(StrEnum):
    """What `UpdateManager.cancel` could do."""

    CANCELLED = "cancelled"
    TOO_LATE = "too late"
    """The switch has begun; `rollback` undoes it."""
    NOTHING = "nothing"


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a release is checked against and configured from; asked for anew with each update.

    Attributes:
        device: its id.
        platform: e.g. `linux-aarch64`.
        agent_version: the agent's own.
        facts: as in Reported; `model` is what `requires.hardware` is matched with.
        tags: as in Reported.
        settings: package to setting to value.
        agent_package: the package that holds the agent itself.
        launched: whether a launcher has started this agent, so that its package can be updated.
    """

    device: str
    platform: str
    agent_version: str
    facts: dict[str, FactValue] = {}
    tags: dict[str, str] = {}
    settings: dict[str, dict[str, str]] = {}
    agent_package: str = ""
    launched: bool = False


class LocalChanges(StrEnum):
    """What to do where installed files were changed on the device."""

    ABORT = "abort"
    OVERWRITE = "overwrite"
    KEEP_COPY = "keep-copy"
