"""PackageRepository: stores releases, signs for them, finds them again, and never loses or changes one."""

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from controller.database import utc_now
from controller.packaging.package_file import Progress
from controller.repository import garbage, refresh, verification
from controller.repository.bundles import Bundles
from controller.repository.channels import Channels
from controller.repository.checking import Rows
from controller.repository.exchange import Exchange
from controller.repository.index import Index
from controller.repository.keys import KeyStore
from controller.repository.manifests import read_manifest, read_plain_manifest
from controller.repository.metadata import TrustedMetadata, read_roots, verified_roots
from controller.repository.mirrors import Mirror
from controller.repository.publishing import Publisher
from controller.repository.records import ChannelEntry, Garbage, Imported, Problem, Refreshed, ReleaseRecord, Statistics
from controller.repository.repair import Repaired, repair_all
from controller.repository.retention import InUse, Retention, Retired, Rules
from controller.repository.signing import Lifetimes, replace_root_key
from controller.repository.storage import Storage
from controller.repository.wanted import Wanted
from controller.repository.yanking import HistoryEntry, Yanking
from schemas.errors import PublisherError
from schemas.manifest import Manifest
from schemas.ranges import Range

LOCK_WAIT_S: Final = 60
"""How long a writer waits for another; signing takes well under a second."""
SITE_DAYS: Final = 90
"""How long a file for another site is good for, unless said otherwise."""


class PackageRepository:
    """One repository folder with its index and keys. Safe to use from several threads and processes.

    All methods block; asyncio code calls them in threads.

    Attributes:
        folder: what a web server serves at the base URL.
        bundles: which there are, and which are missing.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        keys: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        lifetimes: Lifetimes | None = None,
        lock_wait_s: float = LOCK_WAIT_S,
        heal: bool = True,
    ) -> None:
        """Open the repository, or make an empty one with new keys, and heal what a killed process left.

        Args:
            folder: the repository; made where it is missing.
            engine: see `controller.database.open_database`.
            keys: folder of the private keys; `keys` beside the repository if not given.
            clock: gives the present moment.
            lifetimes: how long signatures are good for.
            lock_wait_s: seconds to wait for another writer.
            heal: whether to make and heal anything; without, a repository opens whatever is wrong with it.

        Raises:
            OperatorError: `data.bad`, `disk.full` or `disk.io`.
            TrustError: `trust.metadata`, when part of the metadata is gone or was changed.
        """
        self.folder = folder
        self._storage = Storage(folder)
        self._index = Index(engine)
        self._channels = Channels(engine)
        self._yanking = Yanking(engine)
        self._rows = Rows(engine)
        self.bundles = Bundles(self._storage, self._index)
        self._keys = KeyStore(keys if keys is not None else folder.parent / "keys")
        self._clock = clock
        self._lifetimes = lifetimes or Lifetimes()
        self._publisher = Publisher(
            storage=self._storage,
            index=self._index,
            channels=self._channels,
            keys=self._keys,
            lifetimes=self._lifetimes,
            clock=clock,
            lock_wait_s=lock_wait_s,
        )
        self._retention = Retention(engine, self._storage, self._publisher, clock)
        self._exchange = Exchange(self._storage, self._publisher, clock)
        if heal:
            self._publisher.create()

    # Finding

    def get(self, package: str, version: str, platform: str | None = None) -> ReleaseRecord:
        """A release; the platform may be left out where there is only one.

        Raises:
            PublisherError: `release.unknown`.
            OperatorError: `input.bad`, when the platform must be said.
        """
        return self._index.record(package, version, platform)

    def records(self, package: str, version: str) -> list[ReleaseRecord]:
        """The releases of a version, yanked or not, sorted by platform."""
        return self._index.records(package, version, None)

    def has(self, package: str, version: str) -> bool:
        """Whether a version is there for any platform."""
        return bool(self._index.records(package, version, None))

    def unknown(self, package: str, version: str | None = None) -> PublisherError:
        """To raise (`release.unknown`) where a version, or any, is not there; with names that are near."""
        return self._index.unknown(package, version)

    def near(self, package: str) -> list[str]:
        """Names of packages that may have been meant; none where there is a package of this name."""
        return self._index.near(package)

    def manifest(self, record: ReleaseRecord) -> Manifest:
        """The manifest of a release.

        Raises:
            TrustError: `trust.unsigned` or `trust.metadata`.
            OperatorError: `data.bad`, when the stored manifest is damaged.
        """
        return read_manifest(self._storage, *TrustedMetadata(self._storage.metadata).release(record))

    def manifest_sizes(self, record: ReleaseRecord) -> tuple[int, int]:
        """Bytes of a release's manifest, plain and as it is sent. Raises as `manifest`."""
        name, signed = TrustedMetadata(self._storage.metadata).release(record)
        return len(read_plain_manifest(self._storage, name, signed)), signed.length

    def search(
        self,
        name: str | None = None,
        *,
        version_range: str | None = None,
        platform: str | None = None,
        tags: Collection[str] = (),
        channel: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        yanked: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[ReleaseRecord]:
        """Releases that meet every condition, by package name, newest version first (SemVer order).

        Args:
            name: a package's name; `*` and `?` stand for any characters and for one.
            version_range: see `schemas.ranges`.
            platform: one that the release is for; those for any platform are for it too.
            tags: all of them must be there.
            channel: one that points at the release's version.
            since, until: when it was added, from and up to but not including.
            yanked: whether those that were yanked are shown too.
            limit: 1 to 1000.
            after: the `key` of the last record of the page before.

        Raises:
            PublisherError: `version.range`.
            OperatorError: `input.bad`.
        """
        return self._index.search(
            Wanted(
                name=name,
                version_range=Range(version_range) if version_range is not None else None,
                platform=platform,
                tags=tags,
                channel=channel,
                since=since,
                until=until,
                yanked=yanked,
                limit=limit,
                after=after,
            )
        )

    def names(self) -> list[str]:
        """Names of all packages, sorted."""
        return self._index.names()

    def statistics(self) -> Statistics:
        """How much there is; looks at every file's size."""
        return garbage.statistics(self._storage, self._index)

    def stamp(self) -> object:
        """Another one whenever something was signed, or got its first bundle; costs two looks at a file's date."""
        return garbage.stamp(self._storage)

    def open_file(self, url_path: str) -> Path | None:
        """The file at a URL path below the base, e.g. `metadata/timestamp.json`; None for anything not served."""
        return self._storage.open_file(url_path)

    def trusted_root(self) -> bytes:
        """The root metadata that a new device is to start from: the latest, in which no replaced key is trusted.

        Raises:
            TrustError: `trust.metadata`.
        """
        roots = read_roots(self._storage.metadata)
        verified_roots(roots)
        return roots[-1]

    # Changing

    def add(self, package_file: Path, progress: Progress | None = None) -> ReleaseRecord:
        """Store and sign a package; one that is there already, with the same content, is left as it is.

        Args:
            package_file: as `flotilla build` makes it.
            progress: told about (plain bytes done, plain bytes in all).

        Raises:
            PublisherError: `release.exists` for the same version and platform with other content, now or
                before it was deleted; `package.*`, `manifest.bad` and `version.*` for a bad file.
            TrustError: `trust.keys`, for a new package where the key of targets is not there.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        manifest = self._publisher.add(package_file, progress)
        return self.get(manifest.package, manifest.version, manifest.platform)

    def delete(self, package: str, version: str, platform: str | None = None, *, force: bool = False) -> None:
        """Take a release out of the signed metadata and the index; `collect_garbage` frees its bytes later.

        Args:
            platform: all platforms if not given.
            force: even if a channel points at the version; channels that then point at nothing are taken back.

        Raises:
            PublisherError: `release.unknown`, or `release.in_use` when a channel points at it.
            TrustError: `trust.keys`.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        self._publisher.delete(package, version, platform, force=force)

    def yank(self, package: str, version: str, reason: str = "") -> None:
        """Let a version be chosen no more: searches and channels leave it out, devices that need it have it still.

        Raises `release.unknown` or `input.bad`.
        """
        self._yanking.yank(package, version, reason, self._clock())

    def unyank(self, package: str, version: str, reason: str = "") -> None:
        """Take `yank` back. Raises `release.unknown`."""
        self._yanking.undo(package, version, reason, self._clock())

    def release_history(self, package: str, version: str) -> list[HistoryEntry]:
        """What was done to a version after it was stored, newest first."""
        return self._yanking.history(package, version)

    def set_channel(self, package: str, version: str, channel: str, *, yanked: bool = False) -> None:
        """Point a channel of a package at a version; at a yanked one only where `yanked` says so.

        Raises `release.unknown`, `release.yanked` or `input.bad`.
        """
        self._channels.set(package, version, channel, self._clock(), yanked=yanked)

    def unset_channel(self, package: str, channel: str) -> bool:
        """Take a channel of a package back; whether it pointed anywhere."""
        return self._channels.unset(package, channel, self._clock())

    def channel_of(self, package: str, channel: str) -> str | None:
        """The version that a channel of a package points at."""
        return self._channels.version(package, channel)

    def channels(self, package: str | None = None) -> list[ChannelEntry]:
        """What the channels of one package, or of all, point at."""
        return self._channels.all(package)

    def channel_history(self, package: str, channel: str, limit: int = 100) -> list[ChannelEntry]:
        """What a channel pointed at, newest first."""
        return self._channels.history(package, channel, limit)

    # Keeping

    def refresh_metadata(self, now: datetime | None = None) -> Refreshed:
        """Sign again whatever has no more than a third of its lifetime left; to be called daily.

        Raises:
            TrustError: `trust.metadata`, or `trust.keys` when an online key is missing.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        with self._publisher.writing() as trusted:
            return refresh.refresh(trusted, self._keys, self._lifetimes, now or self._clock())

    def expiries(self) -> list[tuple[str, datetime]]:
        """Each signed role and when it ends. Raises `TrustError` (`trust.metadata`)."""
        return refresh.expiries(TrustedMetadata(self._storage.metadata))

    def rotate_root_key(self) -> None:
        """Replace the root key; devices follow by themselves. Raises as `refresh_metadata`."""
        with self._publisher.writing() as trusted:
            replace_root_key(trusted, self._keys, self._lifetimes, self._clock())

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Check every signature, manifest and object against its hash; empty when all is well.

        Args:
            progress: told about (packed bytes read, packed bytes in all).
        """
        return verification.verify(self._storage, self._index, self._rows, self._clock(), progress)

    def repair(self, mirror: Mirror) -> Repaired:
        """Put right from another copy of this repository what `verify` finds; bad copies change nothing.

        Raises:
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
            NetworkError: `fetch.unreachable`.
        """
        return repair_all(self._storage, mirror, verify=self.verify, locked=self._publisher.locked)

    def retire(self, rules: Rules, in_use: InUse, *, dry_run: bool = True) -> Retired:
        """Delete the releases that have had their time; `collect_garbage` frees their bytes after a grace period.

        What a channel points at always stays.

        Args:
            rules: what else stays.
            in_use: gives versions by package that devices have, may go back to, are sent or are held at.
            dry_run: only say what would go.

        Raises:
            OperatorError: `input.bad`, `data.bad`, `disk.full` or `disk.io`.
            PublisherError: `release.in_use`, when a channel was pointed at one of them meanwhile; nothing was done.
            TrustError: `trust.metadata` or `trust.keys`.
        """
        return self._retention.retire(rules, in_use, dry_run=dry_run)

    def collect_garbage(self, grace_s: float = garbage.GRACE_S) -> Garbage:
        """Remove what no release needs any more and what killed processes left.

        Args:
            grace_s: what is younger than this many seconds stays, as it may be about to be needed; and what a
                release needs that was deleted within a day, for devices that are fetching it. With no seconds at
                all everything that is not needed goes, which is for repositories that nobody uses meanwhile.

        Raises:
            OperatorError: `data.bad`, when a manifest cannot be read; nothing is removed then.
            TrustError: `trust.metadata`.
        """
        return garbage.collect(self._storage, self._index, self._publisher.writing, grace_s, self._clock())

    def export(
        self, package: str, version: str, platform: str | None, destination: Path, valid_days: int | None = None
    ) -> Path:
        """Write one file with a release and the metadata that vouches for it, for `flotilla-agent install`; its path.

        Args:
            destination: the file to make, or a folder to make it in under its usual name.
            valid_days: how long devices will accept it; as long as the served timestamp if not given.

        Raises:
            PublisherError: `release.unknown`.
            TrustError: `trust.keys`, when the metadata must be signed for longer and a key is missing.
            OperatorError: `input.bad`, `data.bad`, `disk.full` or `disk.io`.
        """
        return self._exchange.export(self.get(package, version, platform), destination, valid_days)

    def export_site(self, records: Collection[ReleaseRecord], destination: Path, valid_days: int = SITE_DAYS) -> None:
        """Write several releases into one file for `import_site` of a repository elsewhere.

        Args:
            records: at least one, at most 1000.
            destination: the file to make.
            valid_days: how long the other site may take to import it.

        Raises as `export`.
        """
        self._exchange.export_site(records, destination, valid_days)

    def import_site(self, file: Path, trusted_root: str) -> Imported:
        """Take in the releases of another repository's `export_site` and sign for them here, all of them or none.

        Args:
            file: the file; nothing in it is trusted but what the root leads to.
            trusted_root: sha256 of the other repository's root file, as its operator gave it.

        Raises:
            PublisherError: `package.format` for a damaged file, `release.exists` for a version that is or was
                here with other content.
            TrustError: `trust.root`, `trust.metadata`, `trust.unsigned`, `trust.expired` or `trust.keys`.
            OperatorError: `disk.full`, `disk.io` or `data.bad`.
        """
        new, known = self._exchange.import_site(file, trusted_root)
        records = [self.get(one.manifest.package, one.manifest.version, one.manifest.platform) for one in new]
        return Imported(releases=records, known=[one.name.removesuffix(".json.zst") for one in known])
