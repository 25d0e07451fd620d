"""Devices that were forgotten, until they speak again."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "forgotten_devices",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("forgotten_at", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Take it back."""
    op.drop_table("forgotten_devices")
