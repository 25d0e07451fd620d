"""What is said where a release is not there: which packages have a name that may have been meant."""

import difflib
from typing import Final

from sqlalchemy import Connection, func, or_, select

from controller.meant import did_you_mean
from controller.repository.tables import STORED, releases
from schemas.errors import PublisherError, one_line

MAX_NAMES: Final = 1000
"""So many names are compared at most: comparing takes some microseconds for each."""
MAX_NEAR: Final = 3
_LIKENESS: Final = 0.7
"""Of `difflib`, from 0 to 1: one wrong letter of four is near enough."""
_LETTERS: Final = 2
"""A name that is longer or shorter by more is not compared."""


def unknown_release(
    connection: Connection, package: str, version: str | None = None, platform: str | None = None, *, advice: str = ""
) -> PublisherError:
    """To raise (`release.unknown`) where there is no such release; without a version, no release of the package.

    Args:
        connection: to the repository's database.
        package: its name; `version` and `platform` as they were asked for.
        advice: what to do, unless the name seems to be misspelled.
    """
    what = f"package {package}" if version is None else f"{package} {version}{f' for {platform}' if platform else ''}"
    said = f"there is no {one_line(what, 200)} in the repository"
    if near := near_names(connection, package):
        return PublisherError("release.unknown", f"{said}{did_you_mean(near)}")
    return PublisherError("release.unknown", f"{said}; {advice}" if advice else said)


def near_names(connection: Connection, package: str) -> list[str]:
    """Up to `MAX_NEAR` names of packages that are like this one, the nearest first; none where there is such a package.

    Only names that begin or end alike and are about as long are compared, and of them the first `MAX_NAMES`.
    """
    name, column = package.lower(), releases.c.package
    if not name or connection.scalar(
        select(releases.c.id).where(column == package, releases.c.state == STORED).limit(1)
    ):
        return []
    alike = (
        select(column)
        .where(
            releases.c.state == STORED,
            func.length(column).between(len(name) - _LETTERS, len(name) + _LETTERS),
            or_(func.substr(column, 1, 1) == name[0], func.substr(column, func.length(column), 1) == name[-1]),
        )
        .distinct()
        .order_by(column)
        .limit(MAX_NAMES)
    )
    return difflib.get_close_matches(name, connection.scalars(alike).all(), n=MAX_NEAR, cutoff=_LIKENESS)
