"""What each device reported to have installed, one row a package."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, delete, select

from controller.fleet.sql import Insert, among, chunks, execute_many, insert_of, listed, text_of, time_of
from controller.fleet.tables import device_packages
from schemas.messages import InstalledPackage

_COLUMNS = tuple(column.name for column in device_packages.columns)
_KEY = (device_packages.c.device, device_packages.c.package)


def write_packages(connection: Connection, reports: Mapping[str, Mapping[str, InstalledPackage]]) -> set[str]:
    """Make the rows say what the devices reported, and touch only what differs.

    Args:
        connection: in a writing transaction.
        reports: device to package to what is installed of it.

    Returns:
        The devices for which something changed.
    """
    if not reports:
        return set()
    dialect = connection.dialect.name
    rows: list[tuple[Any, ...]] = list(map(tuple, connection.execute(_of(dialect), listed(dialect, reports)).all()))
    before = {row[:2]: row for row in rows}
    after = {
        (device, package): _values(device, package, installed)
        for device, packages in reports.items()
        for package, installed in packages.items()
    }
    changed = [row for key, row in sorted(after.items()) if before.get(key) != row]
    gone = sorted(before.keys() - after.keys())
    for device, package in gone:
        connection.execute(delete(device_packages).where(_KEY[0] == device, _KEY[1] == package))
    execute_many(connection, _upsert, _COLUMNS, changed)
    return {row[0] for row in changed} | {device for device, _ in gone}


@cache
def _of(dialect: str) -> Select[Any]:
    return select(device_packages).where(among(dialect, device_packages.c.device))


def forget_packages(connection: Connection, gone: Iterable[str]) -> None:
    """Remove all rows of these devices."""
    for some in chunks(sorted(gone)):
        connection.execute(delete(device_packages).where(device_packages.c.device.in_(some)))


def _upsert(dialect: str) -> Insert:
    statement = insert_of(dialect, device_packages, _COLUMNS)
    names = [column.name for column in device_packages.columns if not column.primary_key]
    return statement.on_conflict_do_update(
        index_elements=list(_KEY), set_={name: statement.excluded[name] for name in names}
    )


def _values(device: str, package: str, installed: InstalledPackage) -> tuple[Any, ...]:
    """As `_COLUMNS`."""
    return (
        device,
        package,
        text_of(installed.version),
        installed.manifest,
        time_of(installed.installed_at),
        text_of(installed.previous) if installed.previous else None,
        str(installed.phase),
        installed.rollout,
    )
