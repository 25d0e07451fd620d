"""The index in the database: what was published, found by name, version, platform, tag, channel and date."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from controller.database import from_db, reading, to_db, writing
from controller.repository.ordering import version_key
from controller.repository.records import ReleaseRecord
from controller.repository.tables import ADDING, DELETED, DELETING, STORED, channels, release_tags, releases
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.layout import target_name
from schemas.manifest import Manifest, total_size
from schemas.ranges import Range

MAX_LIMIT: Final = 1000
"""Most records of one answer."""
MAX_TAGS: Final = 64
"""Most tags of one question; no release has more."""
_BATCH: Final = 500


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A release's row, as the repository itself needs it."""

    id: int
    package: str
    version: str
    platform: str
    manifest: str
    target: str
    state: str
    was_deleted: bool

    @property
    def target_name(self) -> str:
        """The name under which the metadata signs for it."""
        return target_name(self.package, self.version, self.platform)


class Index:
    """The releases of one database. Holds no state; safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, package: str, version: str, platform: str) -> Entry | None:
        """The row of a release in whatever state."""
        with reading(self._engine) as connection:
            row = connection.execute(select(releases).where(_is(package, version, platform))).one_or_none()
        return _entry(row) if row is not None else None

    def entries(self, *states: str, package: str | None = None, version: str | None = None) -> list[Entry]:
        """Rows in any of the states, of one package and version where they are given."""
        query = select(releases).where(releases.c.state.in_(states)).order_by(releases.c.id)
        if package is not None:
            query = query.where(releases.c.package == package)
        if version is not None:
            query = query.where(releases.c.version == version)
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def begin_adding(
        self, manifest: Manifest, *, manifest_sha256: str, target: str, packed: int, now: datetime
    ) -> None:
        """Write down that a release is about to be signed; the row of a deleted one is taken again."""
        key = _is(manifest.package, manifest.version, manifest.platform)
        values = {
            "manifest": manifest_sha256,
            "target": target,
            "version_key": version_key(manifest.version),
            "description": manifest.description,
            "size": total_size(manifest),
            "packed": packed,
            "files": len(manifest.files),
            "created_at": to_db(now),
            "state": ADDING,
        }
        with writing(self._engine) as connection:
            row_id = connection.scalar(select(releases.c.id).where(key))
            if row_id is None:
                names = {"package": manifest.package, "version": manifest.version, "platform": manifest.platform}
                new = insert(releases).values(**names, **values).returning(releases.c.id)
                row_id = connection.execute(new).scalar_one()
            else:
                connection.execute(update(releases).where(releases.c.id == row_id).values(**values))
                connection.execute(delete(release_tags).where(release_tags.c.release_id == row_id))
            tags = [{"release_id": row_id, "tag": tag} for tag in sorted(set(manifest.tags))]
            if tags:
                connection.execute(insert(release_tags), tags)

    def set_stored(self, ids: Collection[int]) -> None:
        """The signed metadata has these releases."""
        with writing(self._engine) as connection:
            connection.execute(update(releases).where(releases.c.id.in_(ids)).values(state=STORED, deleted_at=None))

    def begin_deleting(self, entries: Collection[Entry], *, force: bool) -> list[str]:
        """Write down that these releases are about to be taken out of the signed metadata.

        Returns:
            The channels that point at one of them. Unless `force` is set, nothing was done if there are any.
        """
        with writing(self._engine) as connection:
            pointing: set[str] = set()
            for package, version in {(e.package, e.version) for e in entries}:
                here = (channels.c.package == package, channels.c.version == version)
                pointing.update(connection.scalars(select(channels.c.channel).where(*here)))
            if force or not pointing:
                ids = [entry.id for entry in entries]
                connection.execute(update(releases).where(releases.c.id.in_(ids)).values(state=DELETING))
        return sorted(pointing)

    def set_absent(self, entry: Entry, now: datetime) -> None:
        """The signed metadata does not have this release: forget a row that was never stored, mark any other."""
        row = releases.c.id == entry.id
        with writing(self._engine) as connection:
            if entry.state == ADDING and not entry.was_deleted:
                connection.execute(delete(release_tags).where(release_tags.c.release_id == entry.id))
                connection.execute(delete(releases).where(row))
            elif entry.state == ADDING:
                connection.execute(update(releases).where(row).values(state=DELETED))
            else:
                connection.execute(update(releases).where(row).values(state=DELETED, deleted_at=to_db(now)))

    def names(self) -> list[str]:
        """Names of all packages that have a release, sorted."""
        query = select(releases.c.package).where(releases.c.state == STORED).distinct()
        with reading(self._engine) as connection:
            return sorted(connection.scalars(query))

    def totals(self) -> tuple[int, int, int]:
        """Numbers of packages and releases, and the sum of all releases' sizes in bytes."""
        query = select(
            func.count(releases.c.package.distinct()), func.count(), func.coalesce(func.sum(releases.c.size), 0)
        ).where(releases.c.state == STORED)
        with reading(self._engine) as connection:
            packages, count, size = connection.execute(query).one()
        return packages, count, int(size)

    def records(self, package: str, version: str, platform: str | None) -> list[ReleaseRecord]:
        """The stored releases of a version, sorted by platform."""
        wanted = and_(releases.c.package == package, releases.c.version == version)
        if platform is not None:
            wanted = and_(wanted, releases.c.platform == platform)
        query = select(releases).where(wanted, releases.c.state == STORED)
        with reading(self._engine) as connection:
            found = _records(connection, list(connection.execute(query)))
        return sorted(found, key=lambda r: r.platform)

    def search(
        self,
        *,
        name: str | None,
        version_range: Range | None,
        platform: str | None,
        tags: Collection[str],
        channel: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        after: str | None,
    ) -> list[ReleaseRecord]:
        """See `PackageRepository.search`."""
        if not 1 <= limit <= MAX_LIMIT:
            raise OperatorError("input.bad", f"limit {limit} is not between 1 and {MAX_LIMIT}")
        if len(tags) > MAX_TAGS:
            raise OperatorError("input.bad", f"{len(tags)} tags are asked for, at most {MAX_TAGS} can be")
        for word, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise OperatorError("input.bad", f"{word}: {moment.isoformat()} names no time zone; add Z for UTC")
        conditions = [releases.c.state == STORED]
        if name is not None:
            conditions.append(_named(name))
        if platform is not None:
            conditions.append(releases.c.platform == platform)
        conditions.extend(
            releases.c.id.in_(select(release_tags.c.release_id).where(release_tags.c.tag == tag)) for tag in set(tags)
        )
        if channel is not None:
            here = and_(channels.c.package == releases.c.package, channels.c.version == releases.c.version)
            conditions.append(select(channels.c.version).where(here, channels.c.channel == channel).exists())
        if since is not None:
            conditions.append(releases.c.created_at >= to_db(since))
        if until is not None:
            conditions.append(releases.c.created_at < to_db(until))
        if after is not None:
            conditions.append(_behind(after))
        query = (
            select(releases)
            .where(*conditions)
            .order_by(releases.c.package, releases.c.version_key.desc(), releases.c.version, releases.c.platform)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query.execution_options(yield_per=_BATCH))
            return _records(connection, list(_first_in_range(rows, version_range, limit)))


def _first_in_range(rows: Any, version_range: Range | None, limit: int) -> Iterator[Row[Any]]:
    """Ranges have no equivalent in SQL; what is read before the limit is reached is at most all versions."""
    count = 0
    for row in rows:
        if version_range is None or version_range.contains(row.version):
            yield row
            count += 1
            if count == limit:
                rows.close()
                return


def _records(connection: Connection, rows: list[Row[Any]]) -> list[ReleaseRecord]:
    tags: dict[int, list[str]] = {}
    pointing: dict[tuple[str, str], list[str]] = {}
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        by_id = select(release_tags).where(release_tags.c.release_id.in_([row.id for row in part]))
        for release_id, tag in connection.execute(by_id.order_by(release_tags.c.tag)):
            tags.setdefault(release_id, []).append(tag)
        by_package = select(channels).where(channels.c.package.in_({row.package for row in part}))
        for entry in connection.execute(by_package):
            found = pointing.setdefault((entry.package, entry.version), [])
            if entry.channel not in found:
                found.append(entry.channel)
    return [
        ReleaseRecord(
            package=row.package,
            version=row.version,
            platform=row.platform,
            manifest=row.manifest,
            description=row.description,
            tags=sorted(tags.get(row.id, [])),
            size=row.size,
            packed=row.packed,
            files=row.files,
            created_at=from_db(row.created_at),
            channels=sorted(pointing.get((row.package, row.version), [])),
        )
        for row in rows
    ]


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        package=row.package,
        version=row.version,
        platform=row.platform,
        manifest=row.manifest,
        target=row.target,
        state=row.state,
        was_deleted=row.deleted_at is not None,
    )


def _is(package: str, version: str, platform: str) -> ColumnElement[bool]:
    return and_(releases.c.package == package, releases.c.version == version, releases.c.platform == platform)


def _named(name: str) -> ColumnElement[bool]:
    """A name, or a pattern with `*` for any characters and `?` for one; names hold nothing that LIKE knows."""
    if "*" not in name and "?" not in name:
        return releases.c.package == name
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return releases.c.package.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def _behind(after: str) -> ColumnElement[bool]:
    """What comes behind a record in the order of `search`; the record itself may be gone meanwhile."""
    parts = after.split("@")
    if len(parts) != 3:
        raise OperatorError("input.bad", f"{one_line(after, 80)!r} is not NAME@VERSION@PLATFORM, the last record's key")
    package, version, platform = parts
    try:
        key = version_key(version)
    except PublisherError as error:
        raise OperatorError("input.bad", f"after: {error}") from error
    c = releases.c
    same_version = or_(c.version > version, and_(c.version == version, c.platform > platform))
    same_package = or_(c.version_key < key, and_(c.version_key == key, same_version))
    return or_(c.package > package, and_(c.package == package, same_package))
