"""Rollouts in waves: their plans, how far they are, and when devices usually are there."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS: dict[str, list[tuple[str, sa.types.TypeEngine[Any]]]] = {
    "rollouts": [(name, sa.Text()) for name in ("base", "plan", "progress", "stopped")],
    "rollout_devices": [("wave", sa.Integer()), ("heard_at", sa.BigInteger())],
    "devices": [("hours", sa.Text()), ("heard_hour", sa.BigInteger())],
}


def upgrade() -> None:
    """Add the columns; what is there already keeps them empty."""
    for table, columns in _COLUMNS.items():
        for name, kind in columns:
            op.add_column(table, sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take them away."""
    for table, columns in _COLUMNS.items():
        with op.batch_alter_table(table) as batch:
            for name, _ in columns:
                batch.drop_column(name)
