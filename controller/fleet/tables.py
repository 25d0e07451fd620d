"""Tables of the fleet: what devices said, and what single devices are told. Times are `to_db` microseconds."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, Text, UniqueConstraint, false

from controller.database import RowId, metadata

devices: Final = Table(
    "devices",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),  # by the controller's clock
    Column("online", Boolean, nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("presence_at", BigInteger),  # this and reported_at by the device's clock
    Column("boot_id", String(64)),
    Column("agent_version", String(256)),
    # See controller.fleet.progress; a journal that began again at 1 is another life.
    Column("life", Integer, nullable=False),
    Column("highest", BigInteger, nullable=False),
    Column("missing", Text),
    Column("reported_at", BigInteger),
    Column("reported_seq", BigInteger),
    Column("channel", String(32)),
    Column("tags", Text),
    Column("facts", Text),
    # When it usually is there, see controller.fleet.hours, and the hour that was noted last.
    Column("hours", Text),
    Column("heard_hour", BigInteger),
    Index("ix_devices_by_channel", "channel", "online", "id"),
)

OFFLINE: Final = devices.c.online == false()
"""As the index of those says it: a constant, since an index over some rows is not used for a value that is bound."""

# whoever is there is heard of all the time, and would be moved about in it
Index("ix_devices_offline", devices.c.last_seen, devices.c.id, sqlite_where=OFFLINE, postgresql_where=OFFLINE)

device_packages: Final = Table(
    "device_packages",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("package", String(63), primary_key=True),
    Column("version", String(256), nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("installed_at", BigInteger, nullable=False),
    Column("previous", String(256)),
    Column("phase", String(16), nullable=False),
    Column("rollout", String(36)),
    Index("ix_device_packages_by_version", "package", "version", "phase"),
)

events: Final = Table(
    "events",
    metadata,
    Column("id", RowId, primary_key=True),  # the order in which they were taken in
    Column("device", String(63), nullable=False),
    Column("life", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("update_id", String(36), nullable=False),
    Column("rollout", String(36)),
    Column("package", String(63), nullable=False),
    Column("version", String(256), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),  # by the device's clock
    Column("received_at", BigInteger, nullable=False),
    Column("error_code", String(64)),
    Column("payload", Text, nullable=False),  # as it came
    UniqueConstraint("device", "life", "seq"),
    Index(None, "device", "id"),
)

desired: Final = Table(
    "desired",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("rev", BigInteger, nullable=False),
    Column("payload", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("published_rev", BigInteger, nullable=False),
)

commands: Final = Table(
    "commands",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("verb", String(16), nullable=False),
    Column("args", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Index(None, "device", "created_at"),
    Index(None, "sent_at", "expires_at"),
)

forgotten: Final = Table(
    "forgotten_devices",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("forgotten_at", BigInteger, nullable=False),
)

counters: Final = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
