"""The index's tables. What devices trust is the signed metadata in the folder; this is for finding things."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from controller.database import RowId, metadata

ADDING: Final = "adding"
STORED: Final = "stored"
DELETING: Final = "deleting"
DELETED: Final = "deleted"
"""A row says what is about to happen before the signed metadata is changed, and what has happened after.

So whoever finds `adding` or `deleting` knows from the metadata whether it did happen. Deleted rows stay: a
version that was published once never comes back with other content.
"""

_ORDER: Final = ("package", "newest_first", "version", "platform")
"""The order of every search, and what a page goes on behind."""
_BY_VERSION: Final = ("newest_first", "package", "version", "platform")

releases: Final = Table(
    "releases",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("package", String(63), nullable=False),
    Column("version", String(256), nullable=False),
    # Sorts, byte by byte, as SemVer orders versions; see controller.repository.ordering.
    Column("version_key", LargeBinary, nullable=False),
    # The same turned round, so that one index in one direction has packages from a and their newest version first.
    Column("newest_first", LargeBinary, nullable=False),
    Column("prerelease", Boolean, nullable=False),  # most ranges leave them out, so ranges are compared with it
    Column("platform", String(32), nullable=False),
    Column("manifest", String(64), nullable=False),  # sha256 of the plain manifest: the release's identity
    Column("target", String(64), nullable=False),  # sha256 of the packed manifest: its name in targets/
    Column("description", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("packed", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger, nullable=True),
    Column("state", String(16), nullable=False),
    Column("yanked_at", BigInteger, nullable=True),
    Column("yank_reason", Text, nullable=True),
    # All of `release_tags`, see `tag_bits.tags_text`: a page of releases needs no look-up for each one's.
    Column("tags", Text, nullable=False),
    Column("origin", Text, nullable=True),  # JSON of records.Origin, where it came from another repository
    UniqueConstraint("package", "version", "platform"),
    CheckConstraint("state IN ('adding', 'stored', 'deleting', 'deleted')", name="state"),
    # What a search filters by stands in the index that gives it its order, so that what does not fit costs no row.
    Index("ix_releases_listed", "state", *_ORDER, "created_at", "yanked_at", "prerelease"),
    Index("ix_releases_of_platform", "state", "platform", *_ORDER[:-1], "created_at", "yanked_at", "prerelease"),
    Index("ix_releases_by_date", "state", "created_at", *_ORDER, "yanked_at", "prerelease"),
    Index("ix_releases_by_version", "state", "prerelease", *_BY_VERSION, "created_at", "yanked_at"),
)

release_tags: Final = Table(
    "release_tags",
    metadata,
    Column("release_id", RowId, ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(64), primary_key=True),
    # Copies from the release, so that a search for a tag needs no other table to sort and filter.
    Column("package", String(63), nullable=False),
    Column("newest_first", LargeBinary, nullable=False),
    Column("version", String(256), nullable=False),
    Column("platform", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("prerelease", Boolean, nullable=False),
    # Of all the release's tags, see controller.repository.tag_bits.
    Column("tag_bits", BigInteger, nullable=False),
    Index("ix_release_tags_listed", "tag", *_ORDER, "created_at", "prerelease", "tag_bits", "release_id"),
)

release_history: Final = Table(
    "release_history",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("package", String(63), nullable=False),
    Column("version", String(256), nullable=False),
    Column("action", String(16), nullable=False),  # yanked, unyanked, deleted, imported
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_release_history_of_version", "package", "version"),
)

channels: Final = Table(
    "channels",
    metadata,
    Column("package", String(63), primary_key=True),
    Column("channel", String(32), primary_key=True),
    Column("version", String(256), nullable=False),
    Column("set_at", BigInteger, nullable=False),
    Index("ix_channels_listed", "channel", "package", "version"),
    Index("ix_channels_of_version", "package", "version", "channel"),
)

channel_history: Final = Table(
    "channel_history",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("package", String(63), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("version", String(256), nullable=True),  # null: the channel was taken back
    Column("set_at", BigInteger, nullable=False),
    Index(None, "package", "channel"),
)
