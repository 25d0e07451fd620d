"""What the repository tells others about itself."""

from datetime import datetime

import msgspec


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a release was imported from.

    Attributes:
        root: sha256 of the trusted root, given by the importer, that vouched for it.
        imported_at: when it was imported here.
    """

    root: str
    imported_at: datetime


class ReleaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A release in the repository.

    Attributes:
        manifest: sha256 of the plain manifest, the release's identity.
        size: bytes of all distinct contents, as they lie on a device's disk.
        packed: bytes of the same as they are stored and sent.
        files: number of regular files.
        channels: channels that point at this version now, sorted.
        yanked_at: since when it is not to be chosen any more; None where it may be.
        yank_reason: why.
        origin: where it was imported from; None where it was pushed here.
    """

    package: str
    version: str
    platform: str
    manifest: str
    description: str
    tags: list[str]
    size: int
    packed: int
    files: int
    created_at: datetime
    channels: list[str]
    yanked_at: datetime | None = None
    yank_reason: str = ""
    origin: Origin | None = None

    @property
    def key(self) -> str:
        """`NAME@VERSION@PLATFORM`: unique, and what `search(after=...)` takes to go on behind this record."""
        return f"{self.package}@{self.version}@{self.platform}"


class ChannelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel of a package points at, or pointed at; `version` is None where it was taken back."""

    package: str
    channel: str
    version: str | None
    set_at: datetime


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that `verify` found.

    Attributes:
        code: one of `schemas.errors.CODES`.
        where: path below the repository folder, or the release's key.
        message: one line: what is wrong and what to do.
        file: the file, by its path below the repository folder, that another copy would mend; empty where none would.
    """

    code: str
    where: str
    message: str
    file: str = ""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is.

    Attributes:
        release_bytes: the sum of all releases' sizes, as if nothing were shared.
        objects: number of distinct files.
        bundles: number of bundles and manifest differences.
        object_bytes, target_bytes, metadata_bytes, bundle_bytes: bytes on the disk.
    """

    packages: int
    releases: int
    release_bytes: int
    objects: int
    object_bytes: int
    target_bytes: int
    metadata_bytes: int
    bundles: int = 0
    bundle_bytes: int = 0


class Garbage(msgspec.Struct, frozen=True, kw_only=True):
    """What `collect_garbage` removed: numbers of files by kind, and all their bytes."""

    objects: int
    targets: int
    metadata: int
    leftovers: int
    bundles: int = 0
    freed_bytes: int


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import brought.

    Attributes:
        releases: those that are new here.
        known: keys of those that were here with the same content.
    """

    releases: list[ReleaseRecord]
    known: list[str]


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata that should have been signed again but whose key is not there.

    Attributes:
        role: name of the TUF role.
        expires: from then on no device accepts anything from this repository.
        key: the file that is missing.
    """

    role: str
    expires: datetime
    key: str


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What `refresh_metadata` did: the roles signed again, and those it could not sign."""

    signed: list[str]
    overdue: list[Expiry]
