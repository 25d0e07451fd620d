"""Reads and verifies package files in one pass; see `package_file`."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

import msgspec

from controller.packaging import tar
from schemas.errors import PublisherError, one_line
from schemas.layout import (
    FILE_FORMAT,
    HEAD_MEMBER,
    MANIFEST_MEMBER,
    MAX_HEAD_BYTES,
    MAX_MANIFEST_BYTES,
    OBJECTS,
    FileHead,
)
from schemas.manifest import Manifest, decode_manifest

PACKAGE_KIND: Final = "package"
CHUNK: Final = 1024 * 1024
"""Bytes that are held of a content while it is copied or verified."""


def encode_head(head: FileHead) -> bytes:
    """The one form of the first member."""
    return msgspec.json.encode(head, order="sorted")


def distinct_contents(manifest: Manifest) -> list[tuple[str, int]]:
    """Each content that a release needs, once: (sha256, size), sorted by hash as in the package file.

    Raises:
        PublisherError: `manifest.bad` where one hash stands with two sizes; `package.limit` for a size
            that the format cannot say.
    """
    sizes: dict[str, int] = {}
    for file in manifest.files:
        if sizes.setdefault(file.sha256, file.size) != file.size:
            raise PublisherError(
                "manifest.bad", f"{one_line(file.path)!r} has the hash of another file but not its size"
            )
        if file.size > tar.MAX_MEMBER_BYTES:
            raise PublisherError(
                "package.limit", f"{one_line(file.path)!r} has {file.size} bytes; the most is {tar.MAX_MEMBER_BYTES}"
            )
    return sorted(sizes.items())


def open_package(path: Path) -> "PackageReader":
    """Open a package file and read its head and manifest; use the result in a `with`.

    Raises:
        PublisherError: `package.format` unless this is a whole package file as far as can be told without
            reading the contents; the codes of `decode_manifest` for what is wrong in the manifest.
    """
    file = open_regular(path)
    try:
        return PackageReader(file, path.name)
    except BaseException:
        file.close()
        raise


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
        PublisherError: `package.format` for anything that cannot be read or is no regular file.
    """
    name = one_line(path.name)
    try:
        # Without O_NONBLOCK a pipe would wait here for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PublisherError("package.format", f"{name}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PublisherError("package.format", f"{name}: this is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=256 * 1024)


class PackageReader:
    """A package file that is being read, front to back, once.

    Attributes:
        head: the first member, which agrees with the manifest.
        manifest: the manifest, checked.
        manifest_bytes: its plain bytes as they stand in the file.
        manifest_sha256: their hash, the release's identity.
    """

    head: FileHead
    manifest: Manifest
    manifest_bytes: bytes
    manifest_sha256: str

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read head and manifest from `file`, which is regular and at its start; `name` is for messages."""
        self._file = file
        self._name = one_line(name)
        self._length = os.fstat(file.fileno()).st_size
        self._begun = False
        self.head = self._read_head()
        self.manifest_bytes = self._read_small(MANIFEST_MEMBER, MAX_MANIFEST_BYTES)
        self.manifest_sha256 = hashlib.sha256(self.manifest_bytes).hexdigest()
        if self.manifest_sha256 != self.head.manifest:
            raise self._bad("the manifest does not have the hash that the file's head names; the file is damaged")
        self.manifest = decode_manifest_in(self.manifest_bytes, self._name)
        for field in ("package", "version", "platform"):
            if getattr(self.head, field) != getattr(self.manifest, field):
                raise self._bad(f"head and manifest do not name the same {field}")
        self._expected = distinct_contents(self.manifest)
        self._check_length()

    def contents(self) -> Iterator[tuple[str, int, BinaryIO]]:
        """Each content as (sha256, size in bytes, stream), in the file's order; can be gone through once.

        A stream is good until the next step; what is not read of it is read and verified then. The read that
        would give a content's last bytes raises instead if its hash is wrong, so whoever has read
        a stream to its end has the right bytes. The file as a whole is verified when this has ended.

        Raises:
            PublisherError: `package.format`, from here and from the streams' reads.
        """
        if self._begun:
            raise RuntimeError("a package's contents can be gone through only once")
        self._begun = True
        for sha256, size in self._expected:
            self._expect(f"{OBJECTS}/{sha256}", size)
            content = _Content(self, sha256, size)
            # A RawIOBase has all that a BinaryIO has, but typeshed does not say so.
            yield sha256, size, cast("BinaryIO", content)
            content.drain()
        if self.take(len(tar.END), "the end mark") != tar.END:
            raise self._bad("there is more in the file than its manifest names")
        if self._file.read(1):
            raise self._bad("the file goes on after its end mark")

    def verify(self) -> None:
        """Read all contents and verify them. Raises as `contents` does."""
        for _ in self.contents():
            pass

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, count: int, what: str) -> bytes:
        """Exactly `count` bytes; for this module's use."""
        try:
            data = self._file.read(count)
        except OSError as error:
            raise self._bad(f"cannot be read: {error.strerror}") from error
        if len(data) < count:
            raise self._bad(f"the file is cut short in {what}")
        return data

    def take_padding(self, size: int) -> None:
        """What follows a content of `size` bytes must be zero; for this module's use."""
        count = tar.padding(size)
        if count and self.take(count, "padding") != bytes(count):
            raise self._bad("the space between two members is not empty; the file is damaged")

    def mismatch(self, sha256: str) -> PublisherError:
        """The error for a content with another hash; for this module's use."""
        path = next(f.path for f in self.manifest.files if f.sha256 == sha256)
        return self._bad(f"the content of {one_line(path)!r} does not have the hash that the manifest names")

    def _bad(self, problem: str) -> PublisherError:
        return PublisherError("package.format", f"{self._name}: {problem}")

    def _read_head(self) -> FileHead:
        if self._length == 0:
            raise self._bad("the file is empty")
        plain = self._read_small(HEAD_MEMBER, MAX_HEAD_BYTES)
        head = decode_head(plain, self._name)
        if head.kind != PACKAGE_KIND:
            raise self._bad(f"this is a {one_line(head.kind, 40)!r} file, not a package")
        if encode_head(head) != plain:
            raise self._bad(f"{HEAD_MEMBER} is not in its one form")
        return head

    def _read_small(self, name: str, limit: int) -> bytes:
        block = self.take(tar.BLOCK, f"the header of {name}")
        if not any(block):
            raise self._bad(f"{name} is missing")
        member, _ = tar.parse(block, self._name)
        if member.name == name and member.size > limit:
            raise PublisherError("package.limit", f"{self._name}: {name} has {member.size} bytes, over {limit}")
        self._check_header(block, name, member.size)
        if member.size > self._length:
            raise self._bad(f"the file is cut short in {name}")
        data = self.take(member.size, name)
        self.take_padding(member.size)
        return data

    def _expect(self, name: str, size: int) -> None:
        self._check_header(self.take(tar.BLOCK, f"the header of {name}"), name, size)

    def _check_header(self, block: bytes, name: str, size: int) -> None:
        if block == tar.header(name, size):
            return
        if not any(block):
            raise self._bad(f"{name} is missing")
        member, flag = tar.parse(block, self._name)
        found = one_line(member.name, 120)
        if tar.type_name(flag):
            raise self._bad(f"member {found!r} is {tar.type_name(flag)}; a package has plain files only")
        if member.name != name:
            raise self._bad(f"member {found!r} stands where {name!r} belongs")
        if member.size != size:
            raise self._bad(f"{name} has {member.size} bytes where the manifest names {size}")
        raise self._bad(f"the header of {name} is not in its one form")

    def _check_length(self) -> None:
        """What the manifest makes of the file's length, before anything is read or allocated by its claims."""
        length = self._file.tell() + len(tar.END)
        length += sum(tar.BLOCK + size + tar.padding(size) for _, size in self._expected)
        if self._length < length:
            raise self._bad(f"the file is cut short: it has {self._length} bytes of {length}")
        if self._length > length:
            raise self._bad(f"the file has {self._length - length} bytes more than its manifest accounts for")


def decode_manifest_in(plain: bytes, name: str) -> Manifest:
    """The manifest in a package or export file; raises as `decode_manifest`, with the file's name in front."""
    try:
        manifest = decode_manifest(plain)
        distinct_contents(manifest)
    except PublisherError as error:
        raise PublisherError(error.code, f"{name}: {error.message}") from error
    return manifest


def decode_head(plain: bytes, name: str) -> FileHead:
    """The first member of a package or export file.

    Raises:
        PublisherError: `package.format`, also for a format that is newer than this version reads.
    """
    try:
        head = msgspec.json.decode(plain, type=FileHead)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PublisherError("package.format", f"{name}: {HEAD_MEMBER}: {one_line(error)}") from error
    if head.format != FILE_FORMAT:
        raise PublisherError(
            "package.format",
            f"{name}: the file's format is {head.format} where this version of Flotilla reads {FILE_FORMAT}",
        )
    return head


class _Content(io.RawIOBase):
    """One content's bytes, hashed as they are read."""

    def __init__(self, package: PackageReader, sha256: str, size: int) -> None:
        super().__init__()
        self._package = package
        self._sha256 = sha256
        self._size = size
        self._left = size
        self._hash = hashlib.sha256()
        self._error: PublisherError | None = None
        if not size:
            self._finish()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, or all that is left; empty at the end."""
        count = self._left if size is None or size < 0 else min(size, self._left)
        if not count:
            return b""
        data = self._package.take(count, f"{OBJECTS}/{self._sha256}")
        self._hash.update(data)
        self._left -= count
        if not self._left:
            self._finish()
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Read and verify what is left."""
        while self._left:
            self.read(CHUNK)
        if self._error is not None:
            raise self._error

    def _finish(self) -> None:
        try:
            if self._hash.hexdigest() != self._sha256:
                raise self._package.mismatch(self._sha256)
            self._package.take_padding(self._size)
        except PublisherError as error:
            # Kept for `drain`: a caller that swallows it must not get past it.
            self._error = error
            raise
