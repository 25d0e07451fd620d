"""Moves releases to a repository elsewhere, in one file with the metadata that vouches for them; signed anew there.

The file is an uncompressed tar: the head, TUF metadata as served (the roots from the first on, a timestamp, snapshot,
targets and the packages' roles), the signed manifests, and each object once. Whoever takes it in says which root
to trust; everything is verified from there before anything of it is stored, and all of it is stored or nothing.
"""

import hashlib
import shutil
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from controller.packaging.package_file import distinct_contents
from controller.packaging.package_reader import encode_head
from controller.packaging.release_file import tar_members
from controller.packaging.whole_file import whole_file
from controller.repository.export import metadata_members, put_member, put_object
from controller.repository.files import check_room, disk_errors, size_of
from controller.repository.manifests import read_manifest
from controller.repository.metadata import TrustedMetadata
from controller.repository.packing import DamagedError, check_object, unpack_manifest
from controller.repository.records import ReleaseRecord
from controller.repository.storage import Staging, Storage
from controller.repository.storage_paths import is_served
from controller.repository.tuf_api import Root, TargetFile
from schemas.errors import OperatorError, PublisherError, TrustError, one_line
from schemas.layout import (
    FILE_FORMAT,
    HEAD_MEMBER,
    MAX_HEAD_BYTES,
    MAX_MANIFEST_PACKED,
    MAX_METADATA_BYTES,
    METADATA,
    OBJECTS,
    SITE_KIND,
    TARGETS,
    FileHead,
    target_name,
    target_path,
)
from schemas.manifest import Manifest, decode_manifest

MAX_RELEASES: Final = 1000
_MAX_METADATA_FILES: Final = 4000
_MAX_ROOTS_BYTES: Final = 16 * 1024 * 1024
"""Of all roots; each replaced key or renewal adds one of some 1 500 bytes."""


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was read from a file and verified; its contents are staged or were there already."""

    manifest: Manifest
    plain: bytes
    packed_manifest: bytes
    target: TargetFile
    packed: int

    @property
    def name(self) -> str:
        """The target's name."""
        return target_name(self.manifest.package, self.manifest.version, self.manifest.platform)


def write_site(
    storage: Storage, trusted: TrustedMetadata, timestamp: bytes, records: Collection[ReleaseRecord], destination: Path
) -> None:
    """Write the file, whole or not at all.

    Raises:
        TrustError: `trust.unsigned`.
        OperatorError: `data.bad`, `disk.full` or `disk.io`.
    """
    objects: dict[str, int] = {}
    targets: dict[str, Path] = {}
    for record in records:
        name, signed = trusted.release(record)
        objects.update(distinct_contents(read_manifest(storage, name, signed)))
        targets[target_path(signed.hashes["sha256"], name)] = storage.target_file(signed.hashes["sha256"], name)
    first = next(iter(records))
    head = FileHead(
        format=FILE_FORMAT,
        kind=SITE_KIND,
        package=first.package,
        version=first.version,
        platform=first.platform,
        manifest=first.manifest,
    )
    check_room(destination.parent, sum(size_of(storage.object_file(sha256)) for sha256 in objects))
    with whole_file(destination) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        put_member(tar, HEAD_MEMBER, encode_head(head))
        for member, data in metadata_members(storage, trusted, timestamp, sorted({one.package for one in records})):
            put_member(tar, f"{METADATA}/{member}", data)
        for path, target in targets.items():
            put_member(tar, path, target.read_bytes())
        for sha256, size in sorted(objects.items()):
            put_object(tar, storage.object_file(sha256), sha256, size, destination.parent)


@contextmanager
def arrived(
    file: BinaryIO, name: str, *, storage: Storage, staging: Staging, trusted_root: str, now: datetime
) -> Iterator[tuple[list[Arrived], list[str]]]:
    """Read and verify a file; gives its releases, and the objects that are staged.

    Args:
        file: at its start.
        name: for messages.
        trusted_root: sha256 of a root metadata file that the operator trusts; one of those in the file.
        now: by which the metadata must not have expired.

    Raises:
        PublisherError: `package.format`, `package.limit` or what is wrong in a manifest.
        TrustError: `trust.root`, `trust.metadata`, `trust.expired` or `trust.unsigned`.
        OperatorError: `disk.*`.
    """
    folder = staging.folder / METADATA
    folder.mkdir()
    try:
        reader = _SiteReader(name, storage=storage, staging=staging, folder=folder, trusted_root=trusted_root, now=now)
        for member, stream in tar_members(file, name):
            reader.take(member.name, member.size, stream)
        yield reader.finish()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _SiteReader:
    """Takes members in their order, and believes none that is not vouched for by those before."""

    def __init__(
        self, name: str, *, storage: Storage, staging: Staging, folder: Path, trusted_root: str, now: datetime
    ) -> None:
        self._name = name
        self._storage = storage
        self._staging = staging
        self._folder = folder
        self._trusted_root = trusted_root
        self._now = now
        self._files = self._roots = 0
        self._trusted: TrustedMetadata | None = None
        self._found: list[tuple[Manifest, bytes, bytes, TargetFile]] = []
        self._wanted: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._staged: list[str] = []
        self._has_head = False

    def take(self, path: str, size: int, stream: BinaryIO) -> None:
        """One member."""
        folder = path.partition("/")[0]
        if path == HEAD_MEMBER and not self._has_head:
            self._take_head(stream.read(MAX_HEAD_BYTES))
        elif folder == METADATA and self._has_head and self._trusted is None and is_served(path):
            self._take_metadata(path.partition("/")[2], size, stream)
        elif folder == TARGETS and self._files and not self._sizes:
            self._take_target(path, size, stream)
        elif folder == OBJECTS and self._found:
            self._take_object(path.rpartition("/")[2].removesuffix(".zst"), size, stream)
        else:
            raise self._bad(f"member {one_line(path, 120)!r} does not belong here")

    def finish(self) -> tuple[list[Arrived], list[str]]:
        """All that was in the file."""
        if not self._found:
            raise self._bad("there is no release in the file")
        if self._wanted:
            raise self._bad(f"{len(self._wanted)} contents are missing, the first is {min(self._wanted)}")
        return [
            Arrived(
                manifest=manifest,
                plain=plain,
                packed_manifest=packed,
                target=target,
                packed=sum(self._sizes[sha256] for sha256, _ in distinct_contents(manifest)),
            )
            for manifest, plain, packed, target in self._found
        ], self._staged

    def _bad(self, what: str) -> PublisherError:
        return PublisherError("package.format", f"{self._name}: {what}")

    def _take_head(self, data: bytes) -> None:
        try:
            head = msgspec.json.decode(data, type=FileHead)
        except msgspec.MsgspecError as error:
            raise self._bad("this is no file that `flotilla export` wrote for another site") from error
        if head.kind != SITE_KIND or head.format != FILE_FORMAT:
            raise self._bad(f"this is a {one_line(head.kind, 40)!r} file of format {head.format}, not one for a site")
        self._has_head = True

    def _take_metadata(self, name: str, size: int, stream: BinaryIO) -> None:
        self._files += 1
        is_root = name.endswith(f".{Root.type}.json")
        # the first look at roots takes all of them into memory, before anything vouches for them
        self._roots += size if is_root else 0
        too_much = self._files > _MAX_METADATA_FILES or self._roots > _MAX_ROOTS_BYTES
        if size > MAX_METADATA_BYTES or too_much:
            raise PublisherError("package.limit", f"{self._name}: there is too much metadata in the file")
        with disk_errors(self._folder):
            (self._folder / name).write_bytes(stream.read(size))

    def _verified(self) -> TrustedMetadata:
        if self._trusted is None:
            trusted = TrustedMetadata(self._folder)
            if self._trusted_root not in {hashlib.sha256(root).hexdigest() for root in trusted.roots}:
                raise TrustError(
                    "trust.root", f"{self._name} comes from a repository whose root is not the trusted one"
                )
            for one in (trusted.root, trusted.targets, trusted.snapshot, trusted.timestamp):
                self._refuse_expired(one.signed.type, one.signed.expires)
            self._trusted = trusted
        return self._trusted

    def _refuse_expired(self, role: str, expires: datetime) -> None:
        if expires <= self._now:
            raise TrustError(
                "trust.expired", f"{self._name}: the signature of {role} ended on {expires:%Y-%m-%d}; export anew"
            )

    def _take_target(self, path: str, size: int, stream: BinaryIO) -> None:
        trusted = self._verified()
        sha256, _, name = path.removeprefix(f"{TARGETS}/").partition(".")
        if size > MAX_MANIFEST_PACKED or len(self._found) >= MAX_RELEASES:
            raise PublisherError("package.limit", f"{self._name}: there is too much in the file")
        packed = stream.read(size)
        role = trusted.package(name.partition("@")[0]) if is_served(path) else None
        signed = role.signed.targets.get(name) if role is not None else None
        if role is not None:
            self._refuse_expired(name.partition("@")[0], role.signed.expires)
        if signed is None or signed.hashes.get("sha256") != sha256 or signed.length != size:
            raise TrustError("trust.unsigned", f"{self._name}: nothing vouches for {one_line(path, 200)}")
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise self._bad(f"{one_line(path, 200)} is damaged")
        try:
            plain = unpack_manifest(packed)
        except DamagedError as error:
            raise self._bad(f"{one_line(path, 200)} {error}") from error
        manifest = decode_manifest(plain)
        if target_name(manifest.package, manifest.version, manifest.platform) != name:
            raise self._bad(f"{one_line(path, 200)} calls itself {manifest.package} {manifest.version}")
        self._found.append((manifest, plain, packed, signed))
        self._wanted.update(distinct_contents(manifest))

    def _take_object(self, sha256: str, size: int, stream: BinaryIO) -> None:
        plain = self._wanted.pop(sha256, None)
        if plain is None:
            raise self._bad(f"content {one_line(sha256, 80)} is of no release in the file")
        known = self._storage.reuse(sha256, plain)
        self._sizes[sha256] = known if known is not None else size
        if known is not None:
            return
        with disk_errors(self._storage.folder):
            with self._staging.open(sha256) as destination:
                shutil.copyfileobj(stream, destination)
            with (self._staging.folder / sha256).open("rb") as staged:
                try:
                    check_object(staged, sha256, plain)
                except DamagedError as error:
                    raise self._bad(f"content {sha256} {error}") from error
        self._staged.append(sha256)


def check_count(records: Collection[ReleaseRecord]) -> None:
    """Raises `OperatorError` (`input.bad`) for none, or for too many at once."""
    if not 1 <= len(records) <= MAX_RELEASES:
        raise OperatorError("input.bad", f"{len(records)} releases are not between 1 and {MAX_RELEASES}")
