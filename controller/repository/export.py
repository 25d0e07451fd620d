"""Writes export files: a release with the metadata that vouches for it, for devices that reach no controller.

The form is in `schemas.layout`. Metadata, manifest and objects are the bytes that are served, so a device
verifies a file just as it verifies a download.
"""

import io
import tarfile
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from controller.packaging.package_file import distinct_contents
from controller.packaging.package_reader import encode_head
from controller.packaging.whole_file import whole_file
from controller.repository.files import check_room, size_of
from controller.repository.keys import KeyStore
from controller.repository.manifests import read_manifest
from controller.repository.metadata import TIMESTAMP_FILE, TrustedMetadata, file_name, read_metadata
from controller.repository.packing import DamagedError, check_object
from controller.repository.records import ReleaseRecord
from controller.repository.refresh import expiries
from controller.repository.signing import Edition, Lifetimes, longer_timestamp, renew_root
from controller.repository.storage import Storage
from controller.repository.tuf_api import Root, Snapshot, Targets
from schemas.errors import OperatorError
from schemas.layout import (
    FILE_FORMAT,
    HEAD_MEMBER,
    METADATA,
    OBJECTS,
    SUFFIX,
    FileHead,
    package_role,
    target_path,
)

RELEASE_KIND: Final = "release"
MAX_VALID_DAYS: Final = 366


def metadata_valid_for(
    trusted: TrustedMetadata,
    keys: KeyStore,
    lifetimes: Lifetimes,
    *,
    now: datetime,
    packages: Collection[str],
    days: int,
) -> tuple[TrustedMetadata, bytes]:
    """Metadata for packages and a timestamp that devices accept for so many days; under the repository's lock.

    The served timestamp gets a new version too, the same as the file's: a device that knows an older one
    takes the file's, and one that has taken the file's goes on to later served ones.

    Returns:
        The present metadata and the bytes of the file's own timestamp.

    Raises:
        OperatorError: `input.bad`, for a number of days out of range; `disk.full` or `disk.io`.
        TrustError: `trust.keys`, when a role expires before and its key is missing.
    """
    if not 1 <= days <= MAX_VALID_DAYS:
        raise OperatorError("input.bad", f"{days} days are not between 1 and {MAX_VALID_DAYS}")
    until = now + timedelta(days=days)
    concerned = {Root.type, Targets.type, Snapshot.type, *map(package_role, packages)}
    too_soon = [role for role, expires in expiries(trusted) if role in concerned and expires < until]
    edition = Edition(trusted, keys, lifetimes, now)
    for role in too_soon:
        if role == Root.type:
            renew_root(trusted, keys, lifetimes, now)
        else:
            edition.renew(role, until)
    edition.publish()
    present = TrustedMetadata(trusted.folder)
    return present, longer_timestamp(present, keys, until)


def export_file_name(record: ReleaseRecord) -> str:
    """What an export file is called, apart from the package file of the same release."""
    return f"{record.package}-{record.version}-{record.platform}.release{SUFFIX}"


def write_export(
    storage: Storage, trusted: TrustedMetadata, timestamp: bytes, record: ReleaseRecord, destination: Path
) -> Path:
    """Write the export file of a release, verifying every object on the way.

    Args:
        timestamp: the bytes of the timestamp to put in, which fits `trusted`.
        destination: a file, or a folder that exists.

    Returns:
        The file.

    Raises:
        TrustError: `trust.unsigned`.
        OperatorError: `data.bad`, `disk.full` or `disk.io`; no file is left then.
    """
    if destination.is_dir():
        destination /= export_file_name(record)
    name, signed = trusted.release(record)
    manifest = read_manifest(storage, name, signed)
    target = storage.target_file(signed.hashes["sha256"], name)
    head = FileHead(
        format=FILE_FORMAT,
        kind=RELEASE_KIND,
        package=record.package,
        version=record.version,
        platform=record.platform,
        manifest=record.manifest,
    )
    check_room(
        destination.parent, sum(size_of(storage.object_file(sha256)) for sha256, _ in distinct_contents(manifest))
    )
    with whole_file(destination) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        put_member(tar, HEAD_MEMBER, encode_head(head))
        for member, data in metadata_members(storage, trusted, timestamp, [record.package]):
            put_member(tar, f"{METADATA}/{member}", data)
        put_member(tar, target_path(signed.hashes["sha256"], name), target.read_bytes())
        for sha256, size in distinct_contents(manifest):
            put_object(tar, storage.object_file(sha256), sha256, size, destination.parent)
    return destination


def metadata_members(
    storage: Storage, trusted: TrustedMetadata, timestamp: bytes, packages: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all the metadata that vouches for these packages, with this timestamp."""
    for version, root in enumerate(trusted.roots, start=1):
        yield file_name(Root.type, version), root
    yield TIMESTAMP_FILE, timestamp
    names = trusted.file_names()
    for role in (Snapshot.type, Targets.type, *map(package_role, packages)):
        yield names[role], read_metadata(storage.metadata / names[role])


def put_object(tar: tarfile.TarFile, path: Path, sha256: str, size: int, folder: Path) -> None:
    """Add an object as it is stored, verified, to a file in `folder`.

    Raises `OperatorError`, `data.bad` or `disk.full`.
    """
    try:
        with path.open("rb") as file:
            check_object(file, sha256, size)
            file.seek(0)
            stored = path.stat().st_size
            # others write at the same time
            check_room(folder, stored)
            _put_stream(tar, f"{OBJECTS}/{sha256}.zst", stored, file)
    except FileNotFoundError as error:
        raise OperatorError("data.bad", f"object {sha256} is missing; push the release again") from error
    except DamagedError as error:
        raise OperatorError("data.bad", f"object {sha256} {error}; remove {path} and push the release again") from error


def put_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a small member."""
    _put_stream(tar, name, len(data), io.BytesIO(data))


def _put_stream(tar: tarfile.TarFile, name: str, size: int, stream: BinaryIO) -> None:
    # The defaults are what we want: a plain file, mode 0644, time 0, owner 0.
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, stream)
