"""The index in the database: what was published, found by name, version, platform, tag, channel and date."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from controller.database import from_db, reading, searching, to_db, writing
from controller.repository.ordering import is_prerelease, newest_first, version_key
from controller.repository.records import Origin, ReleaseRecord
from controller.repository.searching import found_rows, listed
from controller.repository.tables import ADDING, DELETED, DELETING, STORED, channels, release_tags, releases
from controller.repository.tag_bits import tag_bits, tags_text
from controller.repository.unknown import near_names, unknown_release
from controller.repository.wanted import Wanted
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.layout import target_name
from schemas.manifest import Manifest, total_size

_BATCH: Final = 1000
"""Rows that are changed by one statement."""
_TAGS: Final = msgspec.json.Decoder(list[str])
_COPIED: Final = ("package", "newest_first", "version", "platform", "created_at", "prerelease")
"""Columns that a release's tags repeat."""


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
    deleted_at: datetime | None = None

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
        return entry_of(row) if row is not None else None

    def entries(self, *states: str, package: str | None = None, version: str | None = None) -> list[Entry]:
        """Rows in any of the states, of one package and version where they are given."""
        query = select(releases).where(releases.c.state.in_(states)).order_by(releases.c.id)
        if package is not None:
            query = query.where(releases.c.package == package)
        if version is not None:
            query = query.where(releases.c.version == version)
        with reading(self._engine) as connection:
            return [entry_of(row) for row in connection.execute(query)]

    def deleted_since(self, moment: datetime) -> list[Entry]:
        """Rows of releases that were deleted after a moment."""
        query = select(releases).where(releases.c.state == DELETED, releases.c.deleted_at > to_db(moment))
        with reading(self._engine) as connection:
            return [entry_of(row) for row in connection.execute(query)]

    def begin_adding(
        self, manifest: Manifest, *, manifest_sha256: str, target: str, packed: int, now: datetime
    ) -> None:
        """Write down that a release is about to be signed; the row of a deleted one is taken again."""
        values = release_values(manifest, manifest_sha256=manifest_sha256, target=target, packed=packed, now=now)
        with writing(self._engine) as connection:
            _begin(connection, manifest, values)

    def begin_adding_all(self, new: Iterable[tuple[Manifest, dict[str, Any]]]) -> None:
        """As `begin_adding` for several at once, all of them or none; with what `release_values` made of each."""
        with writing(self._engine) as connection:
            for manifest, values in new:
                _begin(connection, manifest, values)

    def settle(self, stored: Collection[Entry], absent: Collection[Entry], now: datetime) -> None:
        """The signed metadata has the releases `stored` and has not those `absent`: the rows say so, all at once.

        A row of one that was never stored is forgotten, any other is marked.
        """
        with writing(self._engine) as connection:
            for some in _batches(stored):
                connection.execute(update(releases).where(some).values(state=STORED, deleted_at=None))
            for some in _batches([entry for entry in absent if entry.state == ADDING and not entry.was_deleted]):
                gone = select(releases.c.id).where(some)
                connection.execute(delete(release_tags).where(release_tags.c.release_id.in_(gone)))
                connection.execute(delete(releases).where(some))
            for some in _batches([entry for entry in absent if entry.state == ADDING and entry.was_deleted]):
                connection.execute(update(releases).where(some).values(state=DELETED))
            for some in _batches([entry for entry in absent if entry.state != ADDING]):
                connection.execute(update(releases).where(some).values(state=DELETED, deleted_at=to_db(now)))

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
                for some in _batches(entries):
                    connection.execute(update(releases).where(some).values(state=DELETING))
        return sorted(pointing)

    def names(self) -> list[str]:
        """Names of all packages that have a release, sorted."""
        query = select(releases.c.package).where(releases.c.state == STORED).distinct()
        with reading(self._engine) as connection:
            return sorted(connection.scalars(query))

    def unknown(self, package: str, version: str | None = None, platform: str | None = None) -> PublisherError:
        """See `controller.repository.unknown.unknown_release`."""
        with reading(self._engine) as connection:
            return unknown_release(connection, package, version, platform)

    def near(self, package: str) -> list[str]:
        """See `controller.repository.unknown.near_names`."""
        with reading(self._engine) as connection:
            return near_names(connection, package)

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
        with reading(self._engine) as connection:
            query = listed().where(wanted, releases.c.state == STORED)
            found = [_record(row) for row in connection.execute(query)]
        return sorted(found, key=lambda r: r.platform)

    def record(self, package: str, version: str, platform: str | None) -> ReleaseRecord:
        """See `PackageRepository.get`."""
        found = self.records(package, version, platform)
        if len(found) == 1:
            return found[0]
        if not found:
            raise self.unknown(package, version, platform)
        what = one_line(f"{package} {version}", 200)
        platforms = ", ".join(record.platform for record in found)
        raise OperatorError("input.bad", f"{what} is there for several platforms, say which: {platforms}")

    def search(self, wanted: Wanted) -> list[ReleaseRecord]:
        """See `PackageRepository.search`."""
        with reading(searching(self._engine)) as connection:
            return [_record(row) for row in found_rows(connection, wanted)]


def release_values(
    manifest: Manifest,
    *,
    manifest_sha256: str,
    target: str,
    packed: int,
    now: datetime,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """The row of a release that is about to be signed."""
    key = version_key(manifest.version)
    return {
        "package": manifest.package,
        "version": manifest.version,
        "platform": manifest.platform,
        "manifest": manifest_sha256,
        "target": target,
        "version_key": key,
        "newest_first": newest_first(key),
        "prerelease": is_prerelease(key),
        "description": manifest.description,
        "size": total_size(manifest),
        "packed": packed,
        "files": len(manifest.files),
        "created_at": to_db(now),
        "tags": tags_text(manifest.tags),
        "state": ADDING,
        "yanked_at": None,
        "yank_reason": None,
        "origin": msgspec.json.encode(origin).decode() if origin is not None else None,
    }


def tag_values(row_id: int, values: Mapping[str, Any], tags: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of a release's tags, by its id and row."""
    every = sorted(set(tags))
    copies = {name: values[name] for name in _COPIED} | {"tag_bits": tag_bits(every)}
    return [{"release_id": row_id, "tag": tag, **copies} for tag in every]


def _begin(connection: Connection, manifest: Manifest, values: dict[str, Any]) -> None:
    key = _is(manifest.package, manifest.version, manifest.platform)
    row_id = connection.scalar(select(releases.c.id).where(key))
    if row_id is None:
        row_id = connection.execute(insert(releases).values(**values).returning(releases.c.id)).scalar_one()
    else:
        connection.execute(update(releases).where(releases.c.id == row_id).values(**values))
        connection.execute(delete(release_tags).where(release_tags.c.release_id == row_id))
    tags = tag_values(row_id, values, manifest.tags)
    if tags:
        connection.execute(insert(release_tags), tags)


def _record(row: Row[Any]) -> ReleaseRecord:
    """From a row as `searching.listed` selects it; by places, as a page has many."""
    package, version, platform, manifest, description, tags, size, packed, files, created_at, *rest = tuple(row)
    yanked_at, yank_reason, origin, pointing = rest
    return ReleaseRecord(
        package=package,
        version=version,
        platform=platform,
        manifest=manifest,
        description=description,
        tags=_TAGS.decode(tags),
        size=size,
        packed=packed,
        files=files,
        created_at=from_db(created_at),
        channels=sorted(pointing.split("\n")) if pointing else [],
        yanked_at=from_db(yanked_at) if yanked_at is not None else None,
        yank_reason=yank_reason or "",
        origin=msgspec.json.decode(origin, type=Origin) if origin else None,
    )


def entry_of(row: Row[Any]) -> Entry:
    """From a row of releases."""
    return Entry(
        id=row.id,
        package=row.package,
        version=row.version,
        platform=row.platform,
        manifest=row.manifest,
        target=row.target,
        state=row.state,
        was_deleted=row.deleted_at is not None,
        deleted_at=from_db(row.deleted_at) if row.deleted_at is not None else None,
    )


def _batches(entries: Collection[Entry]) -> Iterator[ColumnElement[bool]]:
    """Conditions that hold for so many rows each as every database takes in one statement."""
    ids = [entry.id for entry in entries]
    for start in range(0, len(ids), _BATCH):
        yield releases.c.id.in_(ids[start : start + _BATCH])


def _is(package: str, version: str, platform: str) -> ColumnElement[bool]:
    return and_(releases.c.package == package, releases.c.version == version, releases.c.platform == platform)
