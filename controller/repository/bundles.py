"""Which bundles there are, and which are missing: found out from the repository; only failures are remembered."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from controller.repository.bundle_choice import DEFAULT_RELEASES, sources_of
from controller.repository.bundle_files import FULL, BundleFiles
from controller.repository.bundle_jobs import Job, Stored
from controller.repository.bundle_views import BundleView, FailedView
from controller.repository.index import Entry, Index
from controller.repository.metadata import TrustedMetadata
from controller.repository.ordering import version_key
from controller.repository.records import ChannelEntry, ReleaseRecord
from controller.repository.storage import Storage
from controller.repository.tables import STORED
from schemas.routes import REQUEST_BYTES

Reported = Callable[[str], Mapping[str, int]]
"""Gives the versions of a package that devices run, and how many do."""


class Bundles:
    """The repository's bundles. All methods block; safe to use from several threads."""

    def __init__(self, storage: Storage, index: Index) -> None:
        self._storage = storage
        self._index = index
        self.files: Final = BundleFiles(storage)

    def missing(
        self, record: ReleaseRecord, *, last: int = DEFAULT_RELEASES, reported: Reported | None = None, workers: int = 1
    ) -> Job | None:
        """What is to be made for a release; None where nothing is.

        Args:
            last: start from so many of the versions before it.
            reported: which versions devices run; those in numbers are started from too.
            workers: processes to work with.
        """
        others = self._index.entries(STORED, package=record.package)
        release = next((one for one in others if one.manifest == record.manifest), None)
        if release is None:
            return None
        counts = reported(record.package) if reported is not None else {}
        wanted: list[Entry | None] = [*sources_of(release, others, last=last, reported=counts), None]
        left = [source for source in wanted if not self._is_done(release.manifest, source)]
        if not left:
            return None
        return Job(
            folder=str(self._storage.folder.absolute()),
            package=release.package,
            platform=release.platform,
            to=_stored(release),
            sources=[None if source is None else _stored(source) for source in left],
            workers=workers,
        )

    def worth_looking_at(self, pointing: list[ChannelEntry]) -> Iterator[ReleaseRecord]:
        """Releases that devices are likely to be led to: what channels point at, and the newest of each package.

        Those of before bundles were made are left out: their metadata does not say what a device needs.

        Args:
            pointing: what the channels point at.
        """
        trusted = TrustedMetadata(self._storage.metadata)
        on_channels = {(entry.package, entry.version) for entry in pointing}
        for package in self._index.names():
            entries = self._index.entries(STORED, package=package)
            newest: dict[str, Entry] = {}
            for entry in entries:
                other = newest.get(entry.platform)
                if other is None or version_key(entry.version) > version_key(other.version):
                    newest[entry.platform] = entry
            for entry in entries:
                wanted = newest[entry.platform] is entry or (entry.package, entry.version) in on_channels
                target = trusted.target(package, entry.target_name) if wanted else None
                if target is not None and "custom" in target.unrecognized_fields:
                    yield from self._index.records(entry.package, entry.version, entry.platform)

    def views(self, record: ReleaseRecord) -> list[BundleView]:
        """What there is for a release, smallest first, and then what was not worth keeping."""
        versions = {e.manifest: e.version for e in self._index.entries(STORED, package=record.package)}
        index = self.files.index(record.manifest)
        found = [
            BundleView(
                source=None if source == FULL else versions.get(source, "?"),
                manifest=None if source == FULL else source,
                size=size,
                objects=objects,
                saved=objects - size - REQUEST_BYTES,
                kept=False,
            )
            for source, (size, objects) in self.files.tried(record.manifest).larger.items()
        ]
        for entry in index.bundles if index else ():
            objects = entry.objects.packed + entry.objects.count * REQUEST_BYTES
            found.append(
                BundleView(
                    source=versions.get(entry.source, "?") if entry.source else None,
                    manifest=entry.source,
                    size=entry.size,
                    objects=objects,
                    saved=objects - entry.size - REQUEST_BYTES,
                    patch=entry.manifest.size if entry.manifest else 0,
                )
            )
        return sorted(found, key=lambda view: (not view.kept, view.size))

    def failed(self, record: ReleaseRecord) -> list[FailedView]:
        """What could not be made for a release, and is to be tried again."""
        tried = self.files.tried(record.manifest)
        if not tried.failed:
            return []
        versions = {e.manifest: e.version for e in self._index.entries(STORED, package=record.package)}
        return [
            FailedView(
                source=None if source == FULL else versions.get(source, "?"),
                reason=failure.reason,
                attempts=failure.attempts,
                again_at=datetime.fromtimestamp(failure.again_at, UTC),
            )
            for source, failure in tried.failed.items()
        ]

    def _is_done(self, to: str, source: Entry | None) -> bool:
        manifest = source.manifest if source is not None else None
        index = self.files.index(to)
        there = {entry.source for entry in index.bundles} if index else set()
        tried = self.files.tried(to)
        failure = tried.failed.get(manifest or FULL)
        waits = failure is not None and time.time() < failure.again_at
        return manifest in there or (manifest or FULL) in tried.larger or waits


def _stored(entry: Entry) -> Stored:
    return Stored(version=entry.version, target=entry.target, name=entry.target_name, manifest=entry.manifest)
