"""Which devices an operator went on in spite of, each by itself."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


_UNPROVEN = ("failed", "rolled_back", "silent", "left", "rejected", "late", "missed")
_rollouts = sa.table("rollouts", sa.column("id"), sa.column("progress"))
_devices = sa.table(
    "rollout_devices",
    *map(sa.column, ("rollout", "device", "wave", "verdict", "heard_at")),
    sa.column("forgiven", sa.Boolean()),
)


def upgrade() -> None:
    """Add the column. Till now they were only counted: so many are forgiven, those that were heard of first."""
    op.add_column("rollout_devices", sa.Column("forgiven", sa.Boolean(), nullable=False, server_default=sa.false()))
    connection = op.get_bind()
    found = sa.select(_rollouts).where(_rollouts.c.progress.like('%"accepted"%'))
    for rollout, progress in connection.execute(found).all():
        for number, wave in enumerate(json.loads(progress)):
            in_the_way = (
                sa.select(_devices.c.device)
                .where(_devices.c.rollout == rollout, _devices.c.wave == number, _devices.c.verdict.in_(_UNPROVEN))
                .order_by(sa.func.coalesce(_devices.c.heard_at, 0), _devices.c.device)
                .limit(wave.get("accepted", 0))
            )
            some = [{"of": rollout, "one": device} for device in connection.scalars(in_the_way)]
            if some:
                which = (_devices.c.rollout == sa.bindparam("of"), _devices.c.device == sa.bindparam("one"))
                connection.execute(_devices.update().where(*which).values(forgiven=sa.true()), some)


def downgrade() -> None:
    """Take it back."""
    op.drop_column("rollout_devices", "forgiven")
