"""What a page of releases shows of each: its tags in its own row too, and the channels that point at it by index."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_BATCH = 1000
_releases = sa.table("releases", sa.column("id"), sa.column("tags"))
_tags = sa.table("release_tags", sa.column("release_id"), sa.column("tag"))


def upgrade() -> None:
    """Add the index, and the column, which is filled in order of ids."""
    op.create_index("ix_channels_of_version", "channels", ["package", "version", "channel"])
    op.add_column("releases", sa.Column("tags", sa.Text(), nullable=False, server_default="[]"))
    connection = op.get_bind()
    last = 0
    some = sa.select(_releases.c.id).order_by(_releases.c.id).limit(_BATCH)
    while ids := connection.scalars(some.where(_releases.c.id > last)).all():
        first, last = ids[0], ids[-1]
        every: dict[int, list[str]] = {}
        rows = sa.select(_tags.c.release_id, _tags.c.tag).where(_tags.c.release_id.between(first, last))
        for release_id, tag in connection.execute(rows):
            every.setdefault(release_id, []).append(tag)
        if every:
            connection.execute(
                _releases.update().where(_releases.c.id == sa.bindparam("row")).values(tags=sa.bindparam("text")),
                [{"row": release_id, "text": _text(tags)} for release_id, tags in every.items()],
            )


def _text(tags: list[str]) -> str:
    lines = (f"\n{json.dumps(tag, ensure_ascii=False)}\n" for tag in sorted(tags))
    return f"[{','.join(lines)}]"


def downgrade() -> None:
    """Take both back."""
    op.drop_index("ix_channels_of_version", "channels")
    op.drop_column("releases", "tags")
