"""Which manifest is the right one: asks the signed metadata, starting from the trusted root (TUF, by python-tuf).

The metadata folder outlives every update: it is what makes a step back in time show. What is believed is
only ever what the TUF client has verified.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from device_agent.durability import flush_folder, write_file
from device_agent.faults import disk_fault
from device_agent.tuf_client import (
    BASE_URL,
    CONFIG,
    Metadata,
    MetadataReader,
    ReadMetadata,
    Root,
    TargetFile,
    Timestamp,
    Updater,
    exceptions,
)
from schemas.errors import DeviceError, FlotillaError, NetworkError, TrustError, one_line
from schemas.layout import MAX_MANIFEST_BYTES, MAX_MANIFEST_PACKED
from schemas.names import SHA256_PATTERN, matches

LAST_SEEN: Final = "last-seen"
SIGNED_AT: Final = "signed_at"
"""A field of the signed timestamp, where a repository has it: proves that it is at least then."""

_WORTH_WRITING: Final = timedelta(minutes=1)
_TIMESTAMP: Final = "timestamp.json"
_LOCK_WAIT_S: Final = 120.0
"""Longer than a healthy repository needs to answer another process of this device."""

_LOCK_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTarget:
    """A packed manifest that the trusted root vouches for: its name, its length in bytes, its hash.

    Attributes:
        plain_sha256, plain_length: of the manifest unpacked; None where the repository did not sign them too.
    """

    name: str
    length: int
    sha256: str
    plain_sha256: str | None = None
    plain_length: int | None = None


class TrustStore:
    """The device's view of one signed repository, wherever its files are read from.

    Used by one thread at a time. Of several processes one works on the folder at a time, and the others wait: the TUF
    client replaces files in it under names that are the same in each of them.

    Args:
        folder: `{root}/metadata`.
        trusted_root: the root metadata that the device's owner put there.
        now: the device's clock, UTC.
    """

    def __init__(self, folder: Path, trusted_root: bytes, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._trusted_root = trusted_root
        self._now = now

    def time(self) -> datetime:
        """The later of the clock and the last proven time: boards without a clock battery start in the past."""
        return max(self._now(), self._last_seen())

    def find(self, names: Sequence[str], read: ReadMetadata, where: str) -> SignedTarget | None:
        """The first of the targets that is signed; None where none is.

        Args:
            names: target names, best first.
            read: reads the repository's metadata.
            where: what to call the repository in errors.

        Raises:
            TrustError: `trust.*`.
            NetworkError: as `read` does.
            DeviceError: `disk.*`; `conflict.busy` where another process has kept the folder for too long.
        """
        with self._translated(where, read), self._alone():
            try:
                found = self._ask(names, read)
            except exceptions.ExpiredMetadataError:
                if not self._take_longer_timestamp(read):
                    raise
                found = self._ask(names, read)
            self._make_durable()
            self._note_time()
        return _checked(found, where) if found is not None else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the folder itself is locked: there is no file to leave behind, and the kernel lets go of it with the process
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            give_up = time.monotonic() + _LOCK_WAIT_S
            while not _locked(descriptor):
                if time.monotonic() > give_up:
                    raise DeviceError(
                        "conflict.busy",
                        f"another process has worked on {self._folder} for {_LOCK_WAIT_S:g} s; try again later",
                    )
                time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _ask(self, names: Sequence[str], read: ReadMetadata) -> TargetFile | None:
        updater = Updater(
            str(self._folder), BASE_URL, fetcher=MetadataReader(read), config=CONFIG, bootstrap=self._trusted_root
        )
        # python-tuf compares with the bare clock and has no public way to say another time. This attribute
        # is where it keeps it (7.0); a test fails should it move.
        updater._trusted_set.reference_time = self.time()  # noqa: SLF001  # see above
        updater.refresh()
        for name in names:
            found = updater.get_targetinfo(name)
            if found is not None:
                return found
        return None

    def _take_longer_timestamp(self, read: ReadMetadata) -> bool:
        """Replace an expired timestamp by its twin with a later expiry, if there is one.

        A file that travels slowly is signed for longer, with the version that was current. The TUF client
        keeps the one it has when versions are equal, so a device that saw the version online would refuse it.
        """
        if not (self._folder / _TIMESTAMP).exists():
            return False
        data = read(_TIMESTAMP, CONFIG.timestamp_max_length)
        ours = Metadata[Timestamp].from_bytes((self._folder / _TIMESTAMP).read_bytes())
        theirs = Metadata[Timestamp].from_bytes(data)
        root = Metadata[Root].from_bytes((self._folder / "root.json").read_bytes())
        root.signed.verify_delegate(Timestamp.type, theirs.signed_bytes, theirs.signatures)
        same = (
            theirs.signed.type == Timestamp.type
            and theirs.signed.version == ours.signed.version
            and theirs.signed.snapshot_meta == ours.signed.snapshot_meta
        )
        if not same or theirs.signed.is_expired(self.time()) or root.signed.is_expired(self.time()):
            return False
        write_file(self._folder / _TIMESTAMP, data, 0o600)
        return True

    @contextlib.contextmanager
    def _translated(self, where: str, read: ReadMetadata) -> Iterator[None]:
        try:
            yield
        except exceptions.DownloadError as error:
            if isinstance(error.__cause__, FlotillaError):
                raise error.__cause__ from error
            raise NetworkError("fetch.limit", f"{where}: {one_line(error)}") from error
        except exceptions.RepositoryError as error:
            if (fault := _fault_beneath(error)) is not None:
                raise disk_fault(fault, "read the signed metadata") from error
            raise self._trust_error(error, where, read) from error
        except OSError as error:
            raise disk_fault(error, "keep the signed metadata") from error

    def _trust_error(self, error: exceptions.RepositoryError, where: str, read: ReadMetadata) -> TrustError:
        detail = one_line(error, 160)
        match error:
            case exceptions.ExpiredMetadataError():
                time = f"{self.time():%Y-%m-%dT%H:%MZ}"
                return TrustError(
                    "trust.expired",
                    f"{where}: the signatures have expired ({detail}; this device takes it to be {time}); "
                    "the repository has to sign anew, or the device's clock is wrong",
                )
            case exceptions.BadVersionNumberError():
                return TrustError(
                    "trust.rollback", f"{where}: is older than what this device has already seen ({detail})"
                )
            case exceptions.UnsignedMetadataError():
                if self._has_another_root(read):
                    return TrustError(
                        "trust.root",
                        f"{where}: begins with another root than this device trusts; "
                        "is it another controller's, or was the controller set up anew?",
                    )
                return TrustError("trust.unsigned", f"{where}: is not signed by the keys that this device trusts")
        return TrustError("trust.metadata", f"{where}: {detail}")

    def _has_another_root(self, read: ReadMetadata) -> bool:
        """Only to explain a refusal: whether the repository's root of our root's version is another."""
        with contextlib.suppress(FlotillaError, exceptions.RepositoryError):
            version = Metadata[Root].from_bytes(self._trusted_root).signed.version
            return read(f"{version}.root.json", CONFIG.root_max_length) != self._trusted_root
        return False

    def _make_durable(self) -> None:
        """The client replaces files whole but leaves the flushing to others."""
        for folder in (self._folder / "root_history", self._folder):
            for path in folder.glob("*.json"):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            flush_folder(folder)

    def _last_seen(self) -> datetime:
        try:
            seen = datetime.fromisoformat((self._folder / LAST_SEEN).read_text())
        except (OSError, ValueError):
            return datetime.min.replace(tzinfo=UTC)
        return seen if seen.tzinfo is not None else datetime.min.replace(tzinfo=UTC)

    def _note_time(self) -> None:
        """After everything was found valid, so a clock that is ahead by more than signatures last is never noted."""
        timestamp = Metadata[Timestamp].from_bytes((self._folder / _TIMESTAMP).read_bytes()).signed
        proven = max(self._now(), min(_signing_time(timestamp), timestamp.expires))
        if proven >= self._last_seen() + _WORTH_WRITING:
            write_file(self._folder / LAST_SEEN, proven.isoformat().encode(), 0o600)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_root(trusted_root: bytes) -> None:
    """Raise `TrustError` (`trust.root`) unless this is root metadata that is signed by itself.

    Raises:
        DeviceError: `disk.*`; what reads it could not be loaded, which says nothing of the root.
    """
    try:
        root = Metadata[Root].from_bytes(trusted_root)
        if root.signed.type != Root.type:
            raise TrustError(
                "trust.root", f"the trusted root file holds {root.signed.type} metadata; use `flotilla root`"
            )
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except exceptions.RepositoryError as error:
        if (fault := _fault_beneath(error)) is not None:
            raise disk_fault(fault, "read the trusted root") from error
        raise TrustError(
            "trust.root", f"the trusted root file is not a signed root ({one_line(error, 160)}); use `flotilla root`"
        ) from error


def _fault_beneath(error: BaseException) -> OSError | None:
    """What the disk refused, where the TUF client took that for bad metadata: its readers wrap whatever they meet."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause


def _signing_time(timestamp: Timestamp) -> datetime:
    signed_at = timestamp.unrecognized_fields.get(SIGNED_AT)
    if isinstance(signed_at, str):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(signed_at)
            if moment.tzinfo is not None:
                return moment
    return datetime.min.replace(tzinfo=UTC)


def _checked(found: TargetFile, where: str) -> SignedTarget:
    sha256 = found.hashes.get("sha256", "")
    if not matches(SHA256_PATTERN, sha256):
        raise TrustError("trust.metadata", f"{where}: {one_line(found.path)} is signed without a sha256")
    if not 0 < found.length <= MAX_MANIFEST_PACKED:
        raise TrustError(
            "trust.metadata", f"{where}: {one_line(found.path)} is signed with {found.length} bytes, over the limit"
        )
    plain_sha256, plain_length = _plain(found)
    return SignedTarget(
        name=found.path, length=found.length, sha256=sha256, plain_sha256=plain_sha256, plain_length=plain_length
    )


def _plain(found: TargetFile) -> tuple[str | None, int | None]:
    """Hash and length of the plain manifest, where both are signed and possible; a device can do without."""
    signed = found.unrecognized_fields.get("custom")
    manifest = signed.get("manifest") if isinstance(signed, dict) else None
    if not isinstance(manifest, dict):
        return None, None
    sha256, length = manifest.get("sha256"), manifest.get("length")
    if not isinstance(sha256, str) or not matches(SHA256_PATTERN, sha256):
        return None, None
    if not isinstance(length, int) or isinstance(length, bool) or not 0 < length <= MAX_MANIFEST_BYTES:
        return None, None
    return sha256, length
