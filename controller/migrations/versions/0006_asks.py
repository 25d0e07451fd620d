"""What operators asked devices of a rollout for, until they have answered."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and note of a rollout since when it is cancelled."""
    op.create_table(
        "rollout_asks",
        sa.Column("rollout", sa.String(36), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("verb", sa.String(16), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("life", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_asks")),
    )
    op.create_index(op.f("ix_rollout_asks_device"), "rollout_asks", ["device"])
    op.add_column("rollouts", sa.Column("cancel_asked_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Take both away."""
    with op.batch_alter_table("rollouts") as batch:
        batch.drop_column("cancel_asked_at")
    op.drop_table("rollout_asks")
