"""Ranges and several tags by index: which versions are pre-releases, and what other tags a release has."""

import zlib

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_BATCH = 1000
_releases = sa.table("releases", sa.column("id"), sa.column("version_key", sa.LargeBinary), sa.column("prerelease"))
_tags = sa.table(
    "release_tags", sa.column("release_id"), sa.column("tag"), sa.column("prerelease"), sa.column("tag_bits")
)
_ORDER = ["package", "newest_first", "version", "platform"]


def upgrade() -> None:
    """Add the columns, fill them, and index by them."""
    for table in ("releases", "release_tags"):
        op.add_column(table, sa.Column("prerelease", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("release_tags", sa.Column("tag_bits", sa.BigInteger(), nullable=False, server_default="0"))
    _drop_indexes()
    _fill()
    op.create_index("ix_releases_listed", "releases", ["state", *_ORDER, "created_at", "yanked_at", "prerelease"])
    op.create_index(
        "ix_releases_of_platform",
        "releases",
        ["state", "platform", *_ORDER[:-1], "created_at", "yanked_at", "prerelease"],
    )
    op.create_index("ix_releases_by_date", "releases", ["state", "created_at", *_ORDER, "yanked_at", "prerelease"])
    by_version = ["newest_first", "package", "version", "platform"]
    op.create_index(
        "ix_releases_by_version", "releases", ["state", "prerelease", *by_version, "created_at", "yanked_at"]
    )
    of_tag = ["created_at", "prerelease", "tag_bits", "release_id"]
    op.create_index("ix_release_tags_listed", "release_tags", ["tag", *_ORDER, *of_tag])


def _fill() -> None:
    """Once, in order of ids; neither is known to the database."""
    connection = op.get_bind()
    last = 0
    keys = sa.select(_releases.c.id, _releases.c.version_key).order_by(_releases.c.id).limit(_BATCH)
    while rows := connection.execute(keys.where(_releases.c.id > last)).all():
        first, last = rows[0].id, rows[-1].id
        # no identifier of a pre-release has a tilde, and every release's key ends in one
        prereleases = [row.id for row in rows if not row.version_key.endswith(b"~")]
        for table, of_table in ((_releases, _releases.c.id), (_tags, _tags.c.release_id)):
            connection.execute(table.update().where(of_table.in_(prereleases)).values(prerelease=sa.true()))
        bits: dict[int, int] = {}
        tags = sa.select(_tags.c.release_id, _tags.c.tag).where(_tags.c.release_id.between(first, last))
        for release_id, tag in connection.execute(tags):
            bits[release_id] = bits.get(release_id, 0) | _bits(tag)
        if bits:
            connection.execute(
                _tags.update()
                .where(_tags.c.release_id == sa.bindparam("row"))
                .values(tag_bits=sa.bindparam("of_all", type_=sa.BigInteger)),
                [{"row": release_id, "of_all": value} for release_id, value in bits.items()],
            )


def _bits(tag: str) -> int:
    value = zlib.crc32(tag.encode())
    return 1 << (value & 0xFFFF) % 63 | 1 << (value >> 16) % 63


def _drop_indexes() -> None:
    for name in ("ix_releases_listed", "ix_releases_of_platform", "ix_releases_by_date"):
        op.drop_index(name, "releases")
    op.drop_index("ix_release_tags_listed", "release_tags")


def downgrade() -> None:
    """Take all of it back."""
    _drop_indexes()
    op.drop_index("ix_releases_by_version", "releases")
    op.drop_column("release_tags", "tag_bits")
    for table in ("releases", "release_tags"):
        op.drop_column(table, "prerelease")
    op.create_index("ix_releases_listed", "releases", ["state", *_ORDER, "created_at", "yanked_at"])
    op.create_index(
        "ix_releases_of_platform", "releases", ["state", "platform", *_ORDER[:-1], "created_at", "yanked_at"]
    )
    op.create_index("ix_releases_by_date", "releases", ["state", "created_at"])
    op.create_index("ix_release_tags_listed", "release_tags", ["tag", *_ORDER, "created_at"])
