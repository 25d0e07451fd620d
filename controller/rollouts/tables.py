"""Tables of the rollouts: what was asked for, how far each device is, and what each topic announces."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, Text, false

from controller.database import metadata

rollouts: Final = Table(
    "rollouts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("package", String(63), nullable=False),
    Column("version", String(256), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("targets", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),  # of its latest announcement
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    # `targets` are whom it is announced to now, `base` whom it is for at all. All four are empty for a rollout that was
    # made before there were plans.
    Column("base", Text),
    Column("plan", Text),
    Column("progress", Text),
    Column("stopped", Text),
    Column("changed_by", String(80)),  # who brought it to its state at `changed_at`; empty: the engine did
    Column("cancel_asked_at", BigInteger),  # since when an operator wants all of it stopped; empty: no one does
    Index(None, "channel", "package"),
    Index("ix_rollouts_by_state", "state", "id"),
)

rollout_devices: Final = Table(
    "rollout_devices",
    metadata,
    Column("rollout", String(36), primary_key=True),
    Column("device", String(63), primary_key=True),
    # The device's last word about this rollout; empty for one that has said nothing.
    Column("life", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("update_id", String(36)),
    Column("attempt", Integer),
    Column("from_version", String(256)),
    Column("phase", String(16)),
    Column("at", BigInteger),
    Column("error_code", String(64)),
    Column("bytes_done", BigInteger),
    Column("bytes_total", BigInteger),
    Column("wire_bytes", BigInteger),
    Column("verdict", String(16)),  # the engine's; empty until it has looked
    Column("wave", Integer),  # from 0; empty for none
    Column("heard_at", BigInteger),  # when the word came in, by the controller's clock
    # An operator went on in spite of it, and it has done nothing anew since.
    Column("forgiven", Boolean, nullable=False, server_default=false()),
    Index(None, "rollout", "verdict"),
)

rollout_asks: Final = Table(
    "rollout_asks",
    metadata,
    Column("rollout", String(36), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("verb", String(16), nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    # The device's word that was known then: a newer one answers.
    Column("life", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # of the latest command
    Index(None, "device"),
)

announcements: Final = Table(
    "announcements",
    metadata,
    Column("channel", String(32), primary_key=True),
    Column("package", String(63), primary_key=True),
    Column("rollout", String(36), nullable=False),
    Column("revision", BigInteger, nullable=False),  # of the topic: grows across rollouts, for ever
    Column("payload", Text),  # empty: the topic is cleared
    Column("changed_at", BigInteger, nullable=False),
    Column("published_revision", BigInteger, nullable=False),
)
