"""The fleet and its rollouts: devices, their events and packages, what they are told, and what is announced."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _make_devices()
    _make_orders()
    _make_rollouts()


def _make_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("first_seen", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("presence_at", sa.BigInteger(), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("agent_version", sa.String(length=256), nullable=True),
        sa.Column("life", sa.Integer(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.Text(), nullable=True),
        sa.Column("reported_at", sa.BigInteger(), nullable=True),
        sa.Column("reported_seq", sa.BigInteger(), nullable=True),
        sa.Column("channel", sa.String(length=32), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
    )
    op.create_index(op.f("ix_devices_channel"), "devices", ["channel"], unique=False)
    op.create_table(
        "device_packages",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("package", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=256), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("installed_at", sa.BigInteger(), nullable=False),
        sa.Column("previous", sa.String(length=256), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("rollout", sa.String(length=36), nullable=True),
        sa.PrimaryKeyConstraint("device", "package", name=op.f("pk_device_packages")),
    )
    op.create_index(
        op.f("ix_device_packages_package_device_packages_version"),
        "device_packages",
        ["package", "version"],
        unique=False,
    )
    op.create_table(
        "events",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("life", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("update_id", sa.String(length=36), nullable=False),
        sa.Column("rollout", sa.String(length=36), nullable=True),
        sa.Column("package", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=256), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("device", "life", "seq", name=op.f("uq_events_device_life_seq")),
    )
    op.create_index(op.f("ix_events_device_events_id"), "events", ["device", "id"], unique=False)


def _make_orders() -> None:
    op.create_table(
        "desired",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("rev", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("published_rev", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_desired")),
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("verb", sa.String(length=16), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commands")),
    )
    op.create_index(op.f("ix_commands_device_commands_created_at"), "commands", ["device", "created_at"], unique=False)
    op.create_index(
        op.f("ix_commands_sent_at_commands_expires_at"), "commands", ["sent_at", "expires_at"], unique=False
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )


def _make_rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("package", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=256), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("targets", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_channel_rollouts_package"), "rollouts", ["channel", "package"], unique=False)
    op.create_table(
        "rollout_devices",
        sa.Column("rollout", sa.String(length=36), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("life", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("update_id", sa.String(length=36), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("from_version", sa.String(length=256), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("bytes_done", sa.BigInteger(), nullable=True),
        sa.Column("bytes_total", sa.BigInteger(), nullable=True),
        sa.Column("wire_bytes", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_devices")),
    )
    op.create_index(
        op.f("ix_rollout_devices_rollout_rollout_devices_verdict"),
        "rollout_devices",
        ["rollout", "verdict"],
        unique=False,
    )
    op.create_table(
        "announcements",
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("package", sa.String(length=63), nullable=False),
        sa.Column("rollout", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("published_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "package", name=op.f("pk_announcements")),
    )


def downgrade() -> None:
    """Drop them again."""
    for table in (
        "announcements",
        "rollout_devices",
        "rollouts",
        "counters",
        "commands",
        "desired",
        "events",
        "device_packages",
        "devices",
    ):
        op.drop_table(table)
