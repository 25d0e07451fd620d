"""Questions about devices and their events, answered from the database."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, and_, func, select

from controller.database import from_db, reading
from controller.fleet.apart import Apart, apart_of
from controller.fleet.following import nobody_follows
from controller.fleet.newer import newer_than_its_channel, refused_as_older
from controller.fleet.progress import SeqTrack
from controller.fleet.sql import bigint_of, chunks, map_of
from controller.fleet.tables import desired, device_packages, devices, events
from controller.fleet.views import Device, FleetStatistics, TakenEvent, Update, kept_event, unknown_device, update_view
from controller.rollouts.tables import rollout_devices
from schemas.messages import InstalledPackage, Phase, Targets, UpdateEvent

MAX_PAGE: Final = 1000
"""Rows that one answer may have."""


class DeviceRegistry:
    """Synchronous, safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def devices(
        self, *, after: str = "", limit: int = 100, channel: str | None = None, online: bool | None = None
    ) -> list[Device]:
        """Devices by id, from the one after `after` on.

        Args:
            after: the last id of the page before.
            limit: at most this many.
            channel: only those that reported this one.
            online: only those that are there, or those that are not.
        """
        found = select(devices).where(devices.c.id > after).order_by(devices.c.id).limit(_page(limit))
        if channel is not None:
            found = found.where(devices.c.channel == channel)
        if online is not None:
            found = found.where(devices.c.online == online)
        with reading(self._engine) as connection:
            return _views(connection, connection.execute(found).mappings().all())

    def nobody_follows(self, channel: str) -> str | None:
        """See `following.nobody_follows`."""
        with reading(self._engine) as connection:
            return nobody_follows(connection, channel)

    def refused_as_older(self, *, package: str, version: str, channel: str, targets: Targets) -> str | None:
        """See `newer.refused_as_older`."""
        with reading(self._engine) as connection:
            return refused_as_older(connection, package=package, version=version, channel=channel, targets=targets)

    def newer_than_its_channel(self, device: str, *, package: str, channel: str) -> str | None:
        """See `newer.newer_than_its_channel`."""
        with reading(self._engine) as connection:
            return newer_than_its_channel(connection, device, package=package, channel=channel)

    def device(self, device: str) -> Device:
        """One device; raises `OperatorError` (`device.unknown`)."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(devices).where(devices.c.id == device)).mappings().all()
            if not rows:
                raise unknown_device(device)
            return _views(connection, rows)[0]

    def device_events(self, device: str, *, after: int = 0, limit: int = 100, newest: bool = False) -> list[TakenEvent]:
        """Events of one device in the order of intake.

        Args:
            device: its id; one that is not known has none.
            after: only events with a greater `id` than this.
            limit: at most this many: the first ones, or with `newest` the last ones (still in order).
            newest: whether to begin at the end.
        """
        order = events.c.id.desc() if newest else events.c.id
        found = select(events).where(events.c.device == device, events.c.id > _position(after)).order_by(order)
        with reading(self._engine) as connection:
            taken = [_taken(row) for row in connection.execute(found.limit(_page(limit))).mappings()]
        return taken[::-1] if newest else taken

    def events_since(self, after: int, *, limit: int = MAX_PAGE) -> list[TakenEvent]:
        """Events of all devices in the order of intake, from the one after `after` on."""
        found = select(events).where(events.c.id > _position(after)).order_by(events.c.id).limit(_page(limit))
        with reading(self._engine) as connection:
            return [_taken(row) for row in connection.execute(found).mappings()]

    def incomplete(self) -> dict[str, SeqTrack]:
        """Devices of which events are known to be missing, with what is here."""
        found = select(devices.c.id, devices.c.highest, devices.c.missing).where(devices.c.missing.is_not(None))
        with reading(self._engine) as connection:
            return {device: SeqTrack.read(highest, gaps) for device, highest, gaps in connection.execute(found)}

    def statistics(self) -> FleetStatistics:
        """Numbers about the whole fleet."""
        there = device_packages.c
        installed: dict[str, dict[str, int]] = {}
        with reading(self._engine) as connection:
            by_version = select(there.package, there.version, func.count()).group_by(there.package, there.version)
            for package, version, number in connection.execute(by_version.order_by(there.package, there.version)):
                installed.setdefault(package, {})[version] = number
            by_channel = select(devices.c.channel, func.count()).where(devices.c.channel.is_not(None))
            channels = connection.execute(by_channel.group_by(devices.c.channel).order_by(devices.c.channel))
            return FleetStatistics(
                devices=_count(connection, select(func.count()).select_from(devices)),
                online=_count(connection, select(func.count()).select_from(devices).where(devices.c.online)),
                events=_count(connection, select(func.count()).select_from(events)),
                channels={row[0]: row[1] for row in channels},
                installed=installed,
            )


def _position(after: int) -> int:
    """Where to go on, as the database can compare it."""
    return bigint_of(max(after, 0))


def _page(limit: int) -> int:
    return min(max(limit, 1), MAX_PAGE)


def _count(connection: Connection, question: Any) -> int:
    return connection.scalar(question) or 0


def _taken(row: Any) -> TakenEvent:
    return TakenEvent(
        id=row["id"],
        life=row["life"],
        received_at=from_db(row["received_at"]),
        event=msgspec.json.decode(row["payload"], type=UpdateEvent),
    )


def _views(connection: Connection, rows: Sequence[RowMapping]) -> list[Device]:
    ids = [row["id"] for row in rows]
    packages = _packages(connection, ids)
    updates = _updates(connection, ids)
    told = _told(connection, ids)
    return [
        _view(row, packages.get(row["id"], {}), updates.get(row["id"]), apart_of(told.get(row["id"]))) for row in rows
    ]


def _told(connection: Connection, ids: list[str]) -> dict[str, str]:
    found = (select(desired.c.device, desired.c.payload).where(desired.c.device.in_(some)) for some in chunks(ids))
    return {device: payload for one in found for device, payload in connection.execute(one)}


def _packages(connection: Connection, ids: list[str]) -> dict[str, dict[str, InstalledPackage]]:
    there = device_packages.c
    packages: dict[str, dict[str, InstalledPackage]] = {}
    for some in chunks(ids):
        found = select(device_packages).where(there.device.in_(some)).order_by(there.device, there.package)
        for row in connection.execute(found).mappings():
            packages.setdefault(row["device"], {})[row["package"]] = InstalledPackage(
                version=row["version"],
                manifest=row["manifest"],
                installed_at=from_db(row["installed_at"]),
                previous=row["previous"],
                phase=Phase(row["phase"]),
                rollout=row["rollout"],
            )
    return packages


def _updates(connection: Connection, ids: list[str]) -> dict[str, Update]:
    """Each device's latest event by its own count, whatever order events came in."""
    later = events.alias("later")
    last = (
        select(func.max(later.c.seq))
        .where(later.c.device == devices.c.id, later.c.life == devices.c.life)
        .scalar_subquery()
    )
    word = rollout_devices.c
    updates: dict[str, Update] = {}
    for some in chunks(ids):
        found = (
            select(events.c.payload, word.update_id, word.bytes_done, word.bytes_total, word.wire_bytes)
            .select_from(devices)
            .join(events, and_(events.c.device == devices.c.id, events.c.life == devices.c.life, events.c.seq == last))
            .outerjoin(rollout_devices, and_(word.device == devices.c.id, word.rollout == events.c.rollout))
            .where(devices.c.id.in_(some))
        )
        for row in connection.execute(found).mappings():
            event = kept_event(row["payload"])
            updates[event.device] = update_view(event, dict(row) if row["update_id"] else None)
    return updates


def _view(row: RowMapping, packages: dict[str, InstalledPackage], update: Update | None, apart: Apart) -> Device:
    track = SeqTrack.read(row["highest"], row["missing"])
    return Device(
        id=row["id"],
        online=row["online"],
        session=row["session"],
        first_seen=from_db(row["first_seen"]),
        last_seen=from_db(row["last_seen"]),
        agent_version=row["agent_version"],
        boot_id=row["boot_id"],
        reported_at=None if row["reported_at"] is None else from_db(row["reported_at"]),
        channel=row["channel"],
        tags=map_of(row["tags"]),
        facts=map_of(row["facts"]),
        packages=packages,
        life=row["life"],
        seq=track.contiguous,
        missing=sum(last - first + 1 for first, last in track.missing),
        update=update,
        pins=dict(sorted((apart.pins or {}).items())),
        hold=bool(apart.hold),
        told_channel=apart.channel,
        told_tags=None if apart.tags is None else dict(sorted(apart.tags.items())),
    )
