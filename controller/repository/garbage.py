"""Finds out how much there is, and removes what no release needs any more."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from controller.packaging.package_file import distinct_contents
from controller.repository.bundle_files import BundleFiles
from controller.repository.files import disk_errors, size_of
from controller.repository.index import Entry, Index
from controller.repository.manifests import read_manifest
from controller.repository.metadata import TIMESTAMP_FILE, TrustedMetadata
from controller.repository.packing import DamagedError, unpack_manifest
from controller.repository.records import Garbage, Statistics
from controller.repository.storage import Storage, remove_if_older
from controller.repository.tables import STORED
from controller.repository.tuf_api import Root, TargetFile
from schemas.errors import FlotillaError, OperatorError
from schemas.layout import BUNDLES
from schemas.manifest import decode_manifest

GRACE_S: Final = 3600.0
"""What is younger stays: a push that is under way may be about to need it."""
DELETED_GRACE_S: Final = 86_400.0
"""What a release needs stays for a day after it was deleted, for devices in the middle of fetching it."""
METADATA_GRACE_S: Final = 86_400.0
"""Superseded metadata stays for a day, for devices in the middle of reading it."""


def statistics(storage: Storage, index: Index) -> Statistics:
    """Count releases in the index and bytes on the disk. Raises `OperatorError`, `disk.io`."""
    packages, count, size = index.totals()
    with disk_errors(storage.folder):
        objects = [size_of(path) for _, path in storage.all_objects()]
        bundles, bundle_bytes = BundleFiles(storage).statistics()
        return Statistics(
            packages=packages,
            releases=count,
            release_bytes=size,
            objects=len(objects),
            object_bytes=sum(objects),
            target_bytes=_bytes_in(storage.targets),
            metadata_bytes=_bytes_in(storage.metadata),
            bundles=bundles,
            bundle_bytes=bundle_bytes,
        )


def stamp(storage: Storage) -> tuple[object, ...]:
    """Another one whenever something was signed, or got its first bundle: cheap, and most of what `statistics` sees."""
    seen: list[object] = []
    for path in (storage.metadata / TIMESTAMP_FILE, storage.folder / BUNDLES):
        try:
            status = path.stat()
        except OSError:
            seen.append(None)
        else:
            seen.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def collect(
    storage: Storage,
    index: Index,
    writing: Callable[[], AbstractContextManager[TrustedMetadata]],
    grace_s: float,
    now: datetime,
) -> Garbage:
    """See `PackageRepository.collect_garbage`.

    What is needed is found out twice: the bulk before the lock is taken, and under it what came in between.
    Then nothing can be signed for while files are removed, and `add` looks whether all is there when it has
    the lock.

    Args:
        writing: takes the repository's lock and gives the present metadata.
        grace_s: seconds; without any, what was deleted just now goes too.
        now: the repository's clock, by which releases were deleted.
    """
    needed = _Needed(storage)
    needed.look(TrustedMetadata(storage.metadata).all_targets())
    with writing() as trusted, disk_errors(storage.folder):
        stored, signed = index.entries(STORED), trusted.all_targets()
        _check_signed(stored, signed)
        needed.look(signed)
        deleted = index.deleted_since(now - timedelta(seconds=max(grace_s, DELETED_GRACE_S))) if grace_s > 0 else []
        needed.look_at_deleted(deleted)
        manifests = {entry.manifest for entry in (*stored, *deleted)}
        moment = time.time() - grace_s
        objects = _remove((path for sha256, path in storage.all_objects() if sha256 not in needed.objects), moment)
        targets = _remove((path for path in _visible(storage.targets) if path not in needed.targets), moment)
        kept = {TIMESTAMP_FILE, *trusted.file_names().values()}
        metadata = _remove(
            _superseded_before(time.time() - max(grace_s, METADATA_GRACE_S), storage.metadata, kept), math.inf
        )
        leftovers = storage.remove_leftovers(moment)
        bundles = BundleFiles(storage).collect(manifests, moment)
    return Garbage(
        objects=objects[0],
        targets=targets[0],
        metadata=metadata[0],
        leftovers=leftovers[0],
        bundles=bundles[0],
        freed_bytes=objects[1] + targets[1] + metadata[1] + leftovers[1] + bundles[1],
    )


def _check_signed(stored: Iterable[Entry], signed: Collection[str]) -> None:
    """Only to be asked under the lock: before it, a push between the two readings looks like damage."""
    for entry in stored:
        if entry.target_name not in signed:
            raise OperatorError(
                "data.bad",
                f"the signed metadata does not name {entry.package} {entry.version} for {entry.platform}; "
                "nothing was removed, verify the repository first",
            )


class _Needed:
    """What the releases need that were looked at so far.

    Attributes:
        objects: plain hashes.
        targets: files of signed manifests.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.objects: set[str] = set()
        self.targets: set[Path] = set()

    def look(self, signed: Mapping[str, TargetFile]) -> None:
        """Take in every signed release, by its target's name, that is new.

        Raises:
            OperatorError: `data.bad`, when a manifest cannot be read.
        """
        for name, target in signed.items():
            path = self._storage.target_file(target.hashes["sha256"], name)
            if path not in self.targets:
                manifest = read_manifest(self._storage, name, target)
                self.objects.update(sha256 for sha256, _ in distinct_contents(manifest))
                self.targets.add(path)

    def look_at_deleted(self, entries: Iterable[Entry]) -> None:
        """Take in releases that were deleted lately: a device may have begun to fetch one of them before.

        What is damaged of them is not needed, as no device takes it.
        """
        for entry in entries:
            path = self._storage.target_file(entry.target, entry.target_name)
            try:
                plain = unpack_manifest(path.read_bytes())
                manifest = decode_manifest(plain)
            except (OSError, DamagedError, FlotillaError):
                continue
            self.objects.update(sha256 for sha256, _ in distinct_contents(manifest))
            self.targets.add(path)


def _superseded_before(moment: float, folder: Path, kept: Collection[str]) -> list[Path]:
    """Metadata whose place was taken before `moment`: that is when its successor was written, and not itself."""
    versions: list[tuple[int, str, Path]] = []
    for path in _visible(folder):
        number, _, role = path.name.partition(".")
        if number.isdecimal() and role != f"{Root.type}.json":
            versions.append((int(number), role, path))
    found: list[Path] = []
    successors: dict[str, float] = {}
    for _, role, path in sorted(versions, reverse=True):
        written = path.stat().st_mtime
        if path.name not in kept and successors.get(role, written) <= moment:
            found.append(path)
        successors[role] = written
    return found


def _remove(paths: Iterable[Path], moment: float) -> tuple[int, int]:
    removed = [remove_if_older(path, moment) for path in paths]
    return sum(count for count, _ in removed), sum(size for _, size in removed)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _bytes_in(folder: Path) -> int:
    return sum(map(size_of, folder.iterdir()))
