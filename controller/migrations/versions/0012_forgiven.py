"""Which devices an operator went on in spite of, each by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. What was only counted till now is forgiven no more: such a rollout stops again, and says why."""
    op.add_column("rollout_devices", sa.Column("forgiven", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("rollout_devices", "forgiven")
