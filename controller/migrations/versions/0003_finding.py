"""Finding among very many releases: a sortable order, tags with what they are sorted by; yanking and origins."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EMPTY = sa.text("''")
_BATCH = 1000
_TURNED_ROUND = bytes(255 - byte for byte in range(256))

_COPIED = ("package", "newest_first", "version", "platform", "created_at")
_releases = sa.table(
    "releases", sa.column("id"), sa.column("version_key", sa.LargeBinary), *(sa.column(name) for name in _COPIED)
)
_tags = sa.table("release_tags", sa.column("release_id"), *(sa.column(name) for name in _COPIED))


def upgrade() -> None:
    """Add the columns, fill them, and index by them."""
    op.add_column("releases", sa.Column("newest_first", sa.LargeBinary(), nullable=False, server_default=_EMPTY))
    op.add_column("releases", sa.Column("yanked_at", sa.BigInteger(), nullable=True))
    op.add_column("releases", sa.Column("yank_reason", sa.Text(), nullable=True))
    op.add_column("releases", sa.Column("origin", sa.Text(), nullable=True))
    _fill_order()
    copies: dict[str, Any] = {
        "package": sa.String(63),
        "newest_first": sa.LargeBinary(),
        "version": sa.String(256),
        "platform": sa.String(32),
    }
    for name, kind in copies.items():
        op.add_column("release_tags", sa.Column(name, kind, nullable=False, server_default=_EMPTY))
    op.add_column("release_tags", sa.Column("created_at", sa.BigInteger(), nullable=False, server_default="0"))
    of_release = sa.select(_releases).where(_releases.c.id == _tags.c.release_id)
    values = {name: of_release.with_only_columns(_releases.c[name]).scalar_subquery() for name in _COPIED}
    op.execute(_tags.update().values(values))
    _change_indexes()
    op.create_table(
        "release_history",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("package", sa.String(63), nullable=False),
        sa.Column("version", sa.String(256), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release_history")),
    )
    op.create_index("ix_release_history_of_version", "release_history", ["package", "version"])


def _fill_order() -> None:
    """Once, in order of ids; what the rows are sorted by is not known to the database."""
    connection = op.get_bind()
    last = 0
    while rows := connection.execute(
        sa.select(_releases.c.id, _releases.c.version_key)
        .where(_releases.c.id > last)
        .order_by(_releases.c.id)
        .limit(_BATCH)
    ).all():
        last = rows[-1].id
        connection.execute(
            _releases.update()
            .where(_releases.c.id == sa.bindparam("row"))
            .values(newest_first=sa.bindparam("order", type_=sa.LargeBinary)),
            [{"row": row.id, "order": row.version_key.translate(_TURNED_ROUND) + b"\xff"} for row in rows],
        )


def _change_indexes() -> None:
    op.drop_index("ix_releases_package_releases_version_key", "releases")
    op.drop_index("ix_releases_created_at", "releases")
    op.drop_index("ix_releases_state", "releases")
    order = ["package", "newest_first", "version", "platform"]
    op.create_index("ix_releases_listed", "releases", ["state", *order, "created_at", "yanked_at"])
    op.create_index(
        "ix_releases_of_platform", "releases", ["state", "platform", *order[:-1], "created_at", "yanked_at"]
    )
    op.create_index("ix_releases_by_date", "releases", ["state", "created_at"])
    op.drop_index("ix_release_tags_tag", "release_tags")
    op.create_index("ix_release_tags_listed", "release_tags", ["tag", *order, "created_at"])
    op.drop_index("ix_channels_channel", "channels")
    op.create_index("ix_channels_listed", "channels", ["channel", "package", "version"])


def downgrade() -> None:
    """Take all of it back."""
    op.drop_table("release_history")
    for name in ("ix_releases_listed", "ix_releases_of_platform", "ix_releases_by_date"):
        op.drop_index(name, "releases")
    op.drop_index("ix_release_tags_listed", "release_tags")
    op.drop_index("ix_channels_listed", "channels")
    op.create_index("ix_channels_channel", "channels", ["channel"])
    for name in _COPIED:
        op.drop_column("release_tags", name)
    for name in ("newest_first", "yanked_at", "yank_reason", "origin"):
        op.drop_column("releases", name)
    op.create_index("ix_releases_package_releases_version_key", "releases", ["package", "version_key"])
    op.create_index("ix_releases_created_at", "releases", ["created_at"])
    op.create_index("ix_releases_state", "releases", ["state"])
    op.create_index("ix_release_tags_tag", "release_tags", ["tag"])
