"""Adds releases to the repository and takes them out, wholly or not at all.

A release is there when the signed metadata vouches for it; the index says so too, in this order:

    1. contents lie on the disk                              nobody knows of them yet
    2. the packed manifest too, and an index row `adding`    says what is about to happen
    3. new metadata, the timestamp last, by one rename       now devices see it
    4. index row `stored`                                    now searches see it

Deleting goes the same way back. Every writer first looks for rows that say what was about to happen, and finds
in the metadata whether it did; so a process that is killed anywhere leaves all of a change or nothing.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from controller.packaging.package_file import PackageReader, Progress, open_package
from controller.repository.channels import Channels
from controller.repository.export import metadata_valid_for
from controller.repository.files import locked
from controller.repository.index import Entry, Index, release_values
from controller.repository.ingest import ingest
from controller.repository.keys import KeyStore
from controller.repository.metadata import TIMESTAMP_FILE, TrustedMetadata, file_name, read_roots
from controller.repository.moving import Arrived
from controller.repository.packing import pack_manifest
from controller.repository.records import Origin
from controller.repository.signing import Edition, Lifetimes, create_metadata
from controller.repository.storage import Storage
from controller.repository.tables import ADDING, DELETED, DELETING, STORED
from controller.repository.tuf_api import Targets
from schemas.errors import FlotillaError, OperatorError, PublisherError, one_line
from schemas.layout import package_role, target_name
from schemas.manifest import Manifest

_INGEST_TRIES: Final = 3


class Publisher:
    """The one way in which releases come and go. Safe to use from several threads and processes."""

    def __init__(
        self,
        *,
        storage: Storage,
        index: Index,
        channels: Channels,
        keys: KeyStore,
        lifetimes: Lifetimes,
        clock: Callable[[], datetime],
        lock_wait_s: float,
    ) -> None:
        self._storage = storage
        self._index = index
        self._channels = channels
        self._keys = keys
        self._lifetimes = lifetimes
        self._clock = clock
        self._lock_wait_s = lock_wait_s
        # Beside the folder, as a web server serves what is in it.
        self._lock = storage.folder.parent / f"{storage.folder.name}.lock"

    def create(self) -> None:
        """Make the first metadata unless there is some, and heal what a killed process left.

        Raises:
            OperatorError: `data.bad`, when metadata is missing that was there; `disk.full` or `disk.io`.
            TrustError: `trust.metadata`.
        """
        timestamp = self._storage.metadata / TIMESTAMP_FILE
        if not timestamp.exists():
            with locked(self._lock, self._lock_wait_s):
                if not timestamp.exists():
                    self._create_metadata()
        self._storage.remove_leftovers(0)
        with self.writing():
            pass

    @contextmanager
    def writing(self) -> Iterator[TrustedMetadata]:
        """The repository's lock and, healed and verified, the present metadata.

        Raises:
            OperatorError: `data.bad`, when another writer keeps the lock for too long.
            TrustError: `trust.metadata`.
        """
        with locked(self._lock, self._lock_wait_s):
            self._storage.reconcile()
            trusted = TrustedMetadata(self._storage.metadata)
            self._heal(trusted)
            yield trusted

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The repository's lock alone, whatever the metadata is like. Raises `OperatorError` (`data.bad`)."""
        with locked(self._lock, self._lock_wait_s):
            yield

    def valid_for(self, packages: Collection[str], days: int) -> tuple[TrustedMetadata, bytes]:
        """Metadata for packages, and a timestamp, that devices accept for so many days; as `metadata_valid_for`."""
        with self.writing() as trusted:
            return metadata_valid_for(
                trusted, self._keys, self._lifetimes, now=self._clock(), packages=packages, days=days
            )

    def add(self, package_file: Path, progress: Progress | None) -> Manifest:
        """See `PackageRepository.add`."""
        for _ in range(_INGEST_TRIES):
            with open_package(package_file) as package:
                self._check_welcome(package)
                packed = ingest(package, self._storage, progress)
            with self.writing() as trusted:
                if self._has_contents(package.manifest):
                    self._sign_for(trusted, package, packed)
                    return package.manifest
            # Garbage collection ran in between and took what had been lying about for long; store it again.
        raise OperatorError(
            "data.bad", f"{one_line(self._storage.folder)}: stored objects keep disappearing; find out who removes them"
        )

    def import_all(self, found: Collection[Arrived], root: str) -> tuple[list[Arrived], list[Arrived]]:
        """Sign for releases that were verified and whose contents are here, for all that are new or for none.

        Args:
            found: as `moving.arrived` gives them, published from their staging folder.
            root: sha256 of the trusted root that vouched for them.

        Returns:
            Those that are new, and those that were here.

        Raises:
            PublisherError: `release.exists` for a version that is or was here with other content.
            TrustError: `trust.keys`.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        with self.writing() as trusted:
            new: list[Arrived] = []
            known: list[Arrived] = []
            for one in found:
                entry = self._index.find(one.manifest.package, one.manifest.version, one.manifest.platform)
                _refuse_other_content(entry, hashlib.sha256(one.plain).hexdigest())
                (known if entry is not None and entry.state == STORED else new).append(one)
            if not all(self._has_contents(one.manifest) for one in new):
                raise OperatorError("data.bad", "contents were removed while they were imported; try again")
            if new:
                self._sign_for_all(trusted, new, root)
            return new, known

    def _sign_for_all(self, trusted: TrustedMetadata, new: Collection[Arrived], root: str) -> None:
        now = self._clock()
        origin = Origin(root=root, imported_at=now)
        edition = self._edition(trusted)
        rows = []
        for one in new:
            name, sha256 = one.name, one.target.hashes["sha256"]
            digest = hashlib.sha256(one.plain).hexdigest()
            custom = {"manifest": {"sha256": digest, "length": len(one.plain)}}
            edition.put(one.manifest.package, name, one.target.length, sha256, custom)
            self._storage.write_target(sha256, name, one.packed_manifest)
            values = release_values(
                one.manifest, manifest_sha256=digest, target=sha256, packed=one.packed, now=now, origin=origin
            )
            rows.append((one.manifest, values))
        self._index.begin_adding_all(rows)
        with self._settled():
            edition.publish()

    def delete(self, package: str, version: str, platform: str | None, *, force: bool) -> None:
        """See `PackageRepository.delete`."""
        with self.writing() as trusted:
            found = self._index.entries(STORED, package=package, version=version)
            entries = [entry for entry in found if platform is None or entry.platform == platform]
            if not entries:
                raise self._index.unknown(package, version, platform)
            in_the_way = self._index.begin_deleting(entries, force=force)
            if in_the_way and not force:
                raise PublisherError(
                    "release.in_use",
                    f"{package} {version} is what {', '.join(in_the_way)} points at; release another version first",
                )
            with self._settled():
                edition = self._edition(trusted)
                for entry in entries:
                    edition.remove(package, entry.target_name)
                edition.publish()

    def delete_all(self, find: Callable[[TrustedMetadata], list[Entry]]) -> None:
        """Take several releases out of the signed metadata at once, or none of them.

        Args:
            find: says which, under the lock: nothing is signed for or deleted meanwhile.

        Raises:
            PublisherError: `release.in_use`, when a channel was pointed at one of them just now.
            TrustError: `trust.keys`.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        with self.writing() as trusted:
            entries = find(trusted)
            if not entries:
                return
            in_the_way = self._index.begin_deleting(entries, force=False)
            if in_the_way:
                raise PublisherError("release.in_use", f"{', '.join(in_the_way)} was just pointed at one; try again")
            with self._settled():
                edition = self._edition(trusted)
                for entry in entries:
                    edition.remove(entry.package, entry.target_name)
                edition.publish()

    def _create_metadata(self) -> None:
        metadata = self._storage.metadata
        published = (metadata / file_name(Targets.type, 2)).exists() or len(read_roots(metadata)) > 1
        if published or self._index.entries(STORED, DELETED, DELETING):
            raise OperatorError(
                "data.bad",
                f"{one_line(metadata / TIMESTAMP_FILE)} is missing though releases were published; "
                "restore the folder from the backup",
            )
        create_metadata(metadata, self._keys, self._lifetimes, self._clock())

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Whatever happens in the block, rows afterwards say what the metadata says, now or when next opened."""
        try:
            yield
        except BaseException:
            with suppress(FlotillaError):
                # the timestamp may have been put where the repository is kept, and only the answer was lost
                self._storage.reconcile()
                self._heal(TrustedMetadata(self._storage.metadata))
            raise
        self._heal(TrustedMetadata(self._storage.metadata))

    def _heal(self, trusted: TrustedMetadata) -> None:
        """Bring rows that say what was about to happen to what did happen, as the metadata tells."""
        stored: list[Entry] = []
        absent: list[Entry] = []
        for entry in self._index.entries(ADDING, DELETING):
            signed = trusted.target(entry.package, entry.target_name)
            is_there = signed is not None and signed.hashes.get("sha256") == entry.target
            (stored if is_there else absent).append(entry)
        if stored or absent:
            self._index.settle(stored, absent, self._clock())
        for package in sorted({entry.package for entry in absent}):
            self._channels.drop_dangling(package, self._clock())

    def _edition(self, trusted: TrustedMetadata) -> Edition:
        return Edition(trusted, self._keys, self._lifetimes, self._clock())

    def _check_welcome(self, package: PackageReader) -> None:
        """Refuse early, before anything is read, what could not be added in the end."""
        manifest = package.manifest
        _refuse_other_content(
            self._index.find(manifest.package, manifest.version, manifest.platform), package.manifest_sha256
        )
        trusted = TrustedMetadata(self._storage.metadata)
        if trusted.package(manifest.package) is None:
            self._keys.signer(Targets.type, trusted.root.signed.get_delegated_role(Targets.type).keyids)
        else:
            role = package_role(manifest.package)
            self._keys.signer(role, trusted.targets.signed.get_delegated_role(role).keyids)

    def _has_contents(self, manifest: Manifest) -> bool:
        sizes = {file.sha256: file.size for file in manifest.files}
        return all(self._storage.object_size(sha256, size) is not None for sha256, size in sizes.items())

    def _sign_for(self, trusted: TrustedMetadata, package: PackageReader, packed: int) -> None:
        """Steps 2 to 4, under the lock."""
        manifest = package.manifest
        entry = self._index.find(manifest.package, manifest.version, manifest.platform)
        _refuse_other_content(entry, package.manifest_sha256)
        name = target_name(manifest.package, manifest.version, manifest.platform)
        content = pack_manifest(package.manifest_bytes)
        sha256 = hashlib.sha256(content).hexdigest()
        signed = trusted.target(manifest.package, name)
        if entry is not None and entry.state == STORED and signed is not None:
            self._restore_target(entry, content, sha256)
            return
        if signed is not None and signed.hashes.get("sha256") != sha256:
            raise PublisherError(
                "release.exists",
                f"the signed metadata has a {manifest.package} {manifest.version} for {manifest.platform} "
                "that the index does not know; restore the database that belongs to this folder",
            )
        self._storage.write_target(sha256, name, content)
        self._index.begin_adding(
            manifest, manifest_sha256=package.manifest_sha256, target=sha256, packed=packed, now=self._clock()
        )
        with self._settled():
            edition = self._edition(trusted)
            edition.put(manifest.package, name, len(content), sha256, _plain(package))
            edition.publish()

    def _restore_target(self, entry: Entry, content: bytes, sha256: str) -> None:
        """Pushing a release again mends its stored manifest, as it mends objects."""
        path = self._storage.target_file(entry.target, entry.target_name)
        if sha256 == entry.target and (not path.exists() or path.read_bytes() != content):
            self._storage.write_target(sha256, entry.target_name, content)


def _plain(package: PackageReader) -> dict[str, object]:
    """What is signed beside the packed manifest, so that a device may make the plain one from one that it has."""
    return {"manifest": {"sha256": package.manifest_sha256, "length": len(package.manifest_bytes)}}


def _refuse_other_content(entry: Entry | None, manifest_sha256: str) -> None:
    if entry is None or entry.manifest == manifest_sha256 or (entry.state == ADDING and not entry.was_deleted):
        return
    what = f"{entry.package} {entry.version} for {entry.platform}"
    reason = "existed with other content and was deleted" if entry.was_deleted else "exists with other content"
    raise PublisherError("release.exists", f"{what} {reason}; a version never changes, so build a new one")
