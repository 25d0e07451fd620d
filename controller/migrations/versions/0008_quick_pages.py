"""Indexes that answer what the page counts by themselves, and who brought a rollout to the state it is in."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OFFLINE = sa.column("online", sa.Boolean()) == sa.false()


def upgrade() -> None:
    """Each of the first two takes the place of one that has fewer columns."""
    op.create_index("ix_devices_by_channel", "devices", ["channel", "online", "id"])
    op.drop_index(op.f("ix_devices_channel"), "devices")
    op.create_index("ix_device_packages_by_version", "device_packages", ["package", "version", "phase"])
    op.drop_index(op.f("ix_device_packages_package_device_packages_version"), "device_packages")
    op.create_index(
        "ix_devices_offline", "devices", ["last_seen", "id"], sqlite_where=_OFFLINE, postgresql_where=_OFFLINE
    )
    op.create_index("ix_rollouts_by_state", "rollouts", ["state", "id"])
    op.add_column("rollouts", sa.Column("changed_by", sa.String(80), nullable=True))


def downgrade() -> None:
    """Put the old ones back."""
    op.drop_index("ix_rollouts_by_state", "rollouts")
    with op.batch_alter_table("rollouts") as batch:
        batch.drop_column("changed_by")
    op.drop_index("ix_devices_offline", "devices")
    op.create_index(
        op.f("ix_device_packages_package_device_packages_version"), "device_packages", ["package", "version"]
    )
    op.drop_index("ix_device_packages_by_version", "device_packages")
    op.create_index(op.f("ix_devices_channel"), "devices", ["channel"])
    op.drop_index("ix_devices_by_channel", "devices")
