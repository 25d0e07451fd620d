"""Decides which releases have had their time, and takes them out of the signed metadata in one go."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, select

from controller.database import reading, to_db
from controller.packaging.package_file import distinct_contents
from controller.repository.index import Entry, entry_of
from controller.repository.manifests import read_manifest
from controller.repository.metadata import TrustedMetadata
from controller.repository.publishing import Publisher
from controller.repository.storage import Storage
from controller.repository.tables import STORED, channel_history, channels, releases
from schemas.errors import OperatorError

InUse = Callable[[], Mapping[str, Collection[str]]]
"""Gives the versions, by package, that somebody outside the repository needs."""

MAX_KEEP: Final = 1000
MAX_AGE_DAYS: Final = 36_500


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Which releases stay, beside those that are needed.

    Attributes:
        keep: how many versions of each channel, counted from the last that it pointed at, and how many of the
            newest versions of each package, on channels or not.
        younger_than: what was stored within this time.
    """

    keep: int
    younger_than: timedelta

    def check(self) -> None:
        """Raises `OperatorError`, `input.bad`."""
        if not 1 <= self.keep <= MAX_KEEP:
            raise OperatorError("input.bad", f"keep {self.keep} is not between 1 and {MAX_KEEP}")
        if not timedelta() <= self.younger_than <= timedelta(days=MAX_AGE_DAYS):
            raise OperatorError("input.bad", f"older than {self.younger_than} is not a time up to {MAX_AGE_DAYS} days")


class Retired(msgspec.Struct, frozen=True, kw_only=True):
    """What retention removes, or would remove.

    Attributes:
        releases: their keys, `NAME@VERSION@PLATFORM`, sorted.
        freed_bytes: what no other release needs, on the controller's disk; freed when the grace period is over.
        kept: how many releases stay.
        done: whether it was done.
    """

    releases: list[str]
    freed_bytes: int
    kept: int
    done: bool


class Retention:
    """Finds what may go, and has it deleted. Holds no state."""

    def __init__(self, engine: Engine, storage: Storage, publisher: Publisher, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._storage = storage
        self._publisher = publisher
        self._clock = clock

    def retire(self, rules: Rules, in_use: InUse, *, dry_run: bool) -> Retired:
        """See `PackageRepository.retire`."""
        gone, kept = self.retired(rules, in_use, self._clock())
        # Reads every manifest, so without the lock; what is removed is found again under it.
        freed = freed_bytes(self._storage, TrustedMetadata(self._storage.metadata), gone, kept)
        if not dry_run:

            def find(_: TrustedMetadata) -> list[Entry]:
                nonlocal gone, kept
                gone, kept = self.retired(rules, in_use, self._clock())
                return gone

            self._publisher.delete_all(find)
        keys = sorted(f"{entry.package}@{entry.version}@{entry.platform}" for entry in gone)
        return Retired(releases=keys, freed_bytes=freed, kept=len(kept), done=not dry_run)

    def retired(self, rules: Rules, in_use: InUse, now: datetime) -> tuple[list[Entry], list[Entry]]:
        """Entries that may go, and those that stay."""
        rules.check()
        needed = {package: set(versions) for package, versions in in_use().items()}
        since = to_db(now - rules.younger_than)
        with reading(self._engine) as connection:
            order = (releases.c.package, releases.c.newest_first, releases.c.version)
            rows = connection.execute(select(releases).where(releases.c.state == STORED).order_by(*order)).all()
            for row in connection.execute(select(channels.c.package, channels.c.version)):
                needed.setdefault(row.package, set()).add(row.version)
            _keep_of_channels(connection.execute(_HISTORY), needed, rules.keep)
        _keep_newest(rows, needed, rules.keep)
        for row in rows:
            if row.created_at > since:
                needed.setdefault(row.package, set()).add(row.version)
        gone = [entry_of(row) for row in rows if row.version not in needed.get(row.package, ())]
        kept = [entry_of(row) for row in rows if row.version in needed.get(row.package, ())]
        return gone, kept


_HISTORY: Final = select(channel_history.c.package, channel_history.c.channel, channel_history.c.version).order_by(
    channel_history.c.id.desc()
)


def freed_bytes(storage: Storage, trusted: TrustedMetadata, gone: Collection[Entry], kept: Collection[Entry]) -> int:
    """What only these releases need, in bytes on the disk. Raises `OperatorError`, `data.bad`."""
    of_gone: dict[str, int] = {}
    size = 0
    for entry in gone:
        contents, length = _contents(storage, trusted, entry)
        of_gone |= contents
        size += length
    for entry in kept if of_gone else ():
        for sha256 in _contents(storage, trusted, entry)[0]:
            of_gone.pop(sha256, None)
    return size + sum(storage.object_size(sha256, plain) or 0 for sha256, plain in of_gone.items())


def _contents(storage: Storage, trusted: TrustedMetadata, entry: Entry) -> tuple[dict[str, int], int]:
    signed = trusted.target(entry.package, entry.target_name)
    if signed is None:
        return {}, 0
    return dict(distinct_contents(read_manifest(storage, entry.target_name, signed))), signed.length


def _keep_of_channels(history: Any, needed: dict[str, set[str]], keep: int) -> None:
    pointed: dict[tuple[str, str], set[str]] = {}
    for row in history:
        versions = pointed.setdefault((row.package, row.channel), set())
        if row.version is not None and len(versions) < keep:
            versions.add(row.version)
    for (package, _), versions in pointed.items():
        needed.setdefault(package, set()).update(versions)


def _keep_newest(rows: Collection[Any], needed: dict[str, set[str]], keep: int) -> None:
    """Of releases in the order of searches; a yanked version takes nobody's place."""
    newest: dict[str, set[str]] = {}
    for row in rows:
        versions = newest.setdefault(row.package, set())
        if row.yanked_at is None and len(versions) < keep:
            versions.add(row.version)
    for package, versions in newest.items():
        needed.setdefault(package, set()).update(versions)
