"""Reads exported releases as containers, for `flotilla inspect`: form, hashes and completeness.

Signatures are for the device to judge, which has the trusted root; nothing here installs anything.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

import msgspec

from controller.packaging import tar
from controller.packaging.package_reader import decode_manifest_in, distinct_contents
from controller.repository.packing import DamagedError, check_object, unpack_manifest
from schemas.errors import PublisherError, one_line
from schemas.layout import (
    HEAD_MEMBER,
    MAX_HEAD_BYTES,
    MAX_MANIFEST_PACKED,
    MAX_METADATA_BYTES,
    METADATA,
    OBJECTS,
    TARGETS,
    FileHead,
    target_name,
    target_path,
)
from schemas.manifest import Manifest
from schemas.paths import path_problem

MAX_METADATA_FILES: Final = 2000
_MAX_TAIL: Final = 1024 * 1024


class ReleaseContents(msgspec.Struct, frozen=True, kw_only=True):
    """What an exported release holds: its manifest, and the names of the metadata that vouches for it."""

    manifest: Manifest
    manifest_sha256: str
    metadata: list[str]


def read_release(file: BinaryIO, name: str, head: FileHead) -> ReleaseContents:
    """Verify an exported release from its first byte to its last, but for signatures.

    Args:
        file: at its start.
        name: for messages.
        head: what its first member says.

    Raises:
        PublisherError: `package.format` where the file is damaged or incomplete; the codes of
            `decode_manifest` for what is wrong in the manifest.
    """
    metadata: list[str] = []
    found: tuple[Manifest, str] | None = None
    wanted: dict[str, int] = {}
    try:
        for member, stream in tar_members(file, name):
            folder, _, rest = member.name.partition("/")
            if member.name == HEAD_MEMBER:
                stream.read(MAX_HEAD_BYTES)
            elif folder == METADATA and found is None and len(metadata) < MAX_METADATA_FILES:
                metadata.append(_check_metadata(member, stream, name))
            elif folder == TARGETS and found is None:
                found = _read_target(member, stream, name, head)
                wanted = dict(distinct_contents(found[0]))
            elif folder == OBJECTS and found is not None and rest.removesuffix(".zst") in wanted:
                sha256 = rest.removesuffix(".zst")
                check_object(stream, sha256, wanted.pop(sha256))
            else:
                raise PublisherError("package.format", f"{name}: member {one_line(member.name)!r} does not belong here")
    except DamagedError as error:
        raise PublisherError("package.format", f"{name}: {one_line(member.name)} {one_line(error)}") from error
    if not metadata:
        raise PublisherError("package.format", f"{name}: there is no signed metadata in the file")
    if found is None:
        raise PublisherError("package.format", f"{name}: there is no manifest in the file")
    if wanted:
        raise PublisherError(
            "package.format", f"{name}: {len(wanted)} contents are missing, the first is {min(wanted)}"
        )
    return ReleaseContents(manifest=found[0], manifest_sha256=found[1], metadata=metadata)


def tar_members(file: BinaryIO, name: str) -> Iterator[tuple[tar.Member, BinaryIO]]:
    """Each member with its content, of any well-formed tar file of plain files with relative paths.

    A pax header may say a longer path, as other writers of tar files do, and nothing else. What is not read of a
    content is skipped.

    Raises:
        PublisherError: `package.format`, or `package.path` for a member that leads outside.
    """
    length = os.fstat(file.fileno()).st_size
    seen: set[str] = set()
    long_name = ""
    while True:
        block = _take(file, tar.BLOCK, name)
        if not any(block):
            break
        member, flag = tar.parse(block, name)
        if member.size > length:
            raise PublisherError("package.format", f"{name}: the file is cut short")
        if flag == b"x" and not long_name and member.size <= tar.MAX_PAX_BYTES:
            long_name = _pax_path(_take(file, member.size + tar.padding(member.size), name)[: member.size], name)
            continue
        member, long_name = tar.Member(long_name or member.name, member.size), ""
        _check_member(member, flag, seen, name)
        stream = _Bounded(file, member.size, name)
        # A RawIOBase has all that a BinaryIO has, but typeshed does not say so.
        yield member, cast("BinaryIO", stream)
        stream.skip()
        if any(_take(file, tar.padding(member.size), name)):
            raise PublisherError("package.format", f"{name}: the file is damaged after {one_line(member.name)!r}")
    tail = file.read(_MAX_TAIL + 1)
    if long_name or any(tail) or not tar.BLOCK <= len(tail) <= _MAX_TAIL:
        raise PublisherError("package.format", f"{name}: the file does not end as a tar file does; it is cut short")


def _check_member(member: tar.Member, flag: bytes, seen: set[str], name: str) -> None:
    shown = one_line(member.name, 120)
    problem = path_problem(member.name)
    if problem:
        raise PublisherError("package.path", f"{name}: member {shown!r} {problem}")
    if tar.type_name(flag):
        raise PublisherError(
            "package.format", f"{name}: member {shown!r} is {tar.type_name(flag)}; plain files only belong here"
        )
    if member.name in seen:
        raise PublisherError("package.format", f"{name}: member {shown!r} stands twice in the file")
    seen.add(member.name)


def _pax_path(data: bytes, name: str) -> str:
    records = tar.parse_pax(data, name)
    if list(records) != ["path"]:
        raise PublisherError(
            "package.format", f"{name}: a pax header sets {one_line(', '.join(records), 80)}; only a path may be set"
        )
    return records["path"]


def _check_metadata(member: tar.Member, stream: BinaryIO, name: str) -> str:
    if member.size > MAX_METADATA_BYTES:
        raise PublisherError("package.limit", f"{name}: {one_line(member.name)} is over {MAX_METADATA_BYTES} bytes")
    try:
        msgspec.json.decode(stream.read(member.size), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublisherError("package.format", f"{name}: {one_line(member.name)}: {one_line(error)}") from error
    return member.name


def _read_target(member: tar.Member, stream: BinaryIO, name: str, head: FileHead) -> tuple[Manifest, str]:
    if member.size > MAX_MANIFEST_PACKED:
        raise PublisherError("package.limit", f"{name}: the packed manifest is over {MAX_MANIFEST_PACKED} bytes")
    packed = stream.read(member.size)
    plain = unpack_manifest(packed)
    digest = hashlib.sha256(plain).hexdigest()
    if digest != head.manifest:
        raise PublisherError("package.format", f"{name}: the manifest does not have the hash that the head names")
    manifest = decode_manifest_in(plain, name)
    target = target_name(manifest.package, manifest.version, manifest.platform)
    if member.name != target_path(hashlib.sha256(packed).hexdigest(), target):
        raise PublisherError("package.format", f"{name}: {one_line(member.name, 120)} is not named as its content asks")
    for field in ("package", "version", "platform"):
        if getattr(head, field) != getattr(manifest, field):
            raise PublisherError("package.format", f"{name}: head and manifest do not name the same {field}")
    return manifest, digest


def _take(file: BinaryIO, count: int, name: str) -> bytes:
    try:
        data = file.read(count)
    except OSError as error:
        raise PublisherError("package.format", f"{name}: cannot be read: {error.strerror}") from error
    if len(data) < count:
        raise PublisherError("package.format", f"{name}: the file is cut short")
    return data


class _Bounded(io.RawIOBase):
    """A member's content: reading ends where it ends."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        super().__init__()
        self._file = file
        self._left = size
        self._name = name

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        count = self._left if size is None or size < 0 else min(size, self._left)
        data = _take(self._file, count, self._name)
        self._left -= count
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def skip(self) -> None:
        while self._left:
            self.read(min(self._left, 1024 * 1024))
