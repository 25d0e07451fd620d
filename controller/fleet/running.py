"""Which versions of a package devices run."""

from sqlalchemy import Engine, func, select

from controller.database import reading
from controller.fleet.tables import device_packages

MAX_VERSIONS = 100


def running_versions(engine: Engine, package: str) -> dict[str, int]:
    """Versions of a package to the number of devices that report them, those of most devices first."""
    count = func.count()
    query = (
        select(device_packages.c.version, count)
        .where(device_packages.c.package == package)
        .group_by(device_packages.c.version)
        .order_by(count.desc(), device_packages.c.version)
        .limit(MAX_VERSIONS)
    )
    with reading(engine) as connection:
        return {version: int(number) for version, number in connection.execute(query)}
