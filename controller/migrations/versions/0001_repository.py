"""The repository's index: releases, their tags, channels and what channels pointed at before."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "releases",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("package", sa.String(63), nullable=False),
        sa.Column("version", sa.String(256), nullable=False),
        sa.Column("version_key", sa.LargeBinary(), nullable=False),
        sa.Column("platform", sa.String(32), nullable=False),
        sa.Column("manifest", sa.String(64), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("packed", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.CheckConstraint("state IN ('adding', 'stored', 'deleting', 'deleted')", name=op.f("ck_releases_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint("package", "version", "platform", name=op.f("uq_releases_package_version_platform")),
    )
    op.create_index(op.f("ix_releases_package_releases_version_key"), "releases", ["package", "version_key"])
    op.create_index(op.f("ix_releases_created_at"), "releases", ["created_at"])
    op.create_index(op.f("ix_releases_state"), "releases", ["state"])
    op.create_table(
        "release_tags",
        sa.Column("release_id", _ROW_ID, nullable=False),
        sa.Column("tag", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_release_tags_release_id_releases"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("release_id", "tag", name=op.f("pk_release_tags")),
    )
    op.create_index(op.f("ix_release_tags_tag"), "release_tags", ["tag"])
    op.create_table(
        "channels",
        sa.Column("package", sa.String(63), nullable=False),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("version", sa.String(256), nullable=False),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("package", "channel", name=op.f("pk_channels")),
    )
    op.create_index(op.f("ix_channels_channel"), "channels", ["channel"])
    op.create_table(
        "channel_history",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("package", sa.String(63), nullable=False),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("version", sa.String(256), nullable=True),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channel_history")),
    )
    op.create_index(
        op.f("ix_channel_history_package_channel_history_channel"), "channel_history", ["package", "channel"]
    )


def downgrade() -> None:
    """Drop them again."""
    for table in ("channel_history", "channels", "release_tags", "releases"):
        op.drop_table(table)
