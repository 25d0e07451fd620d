"""Package files: written whole or not at all, read in one pass, and verified to the last byte.

The form is in `schemas.layout`: an uncompressed tar of `flotilla.json`, `manifest.json` and each distinct content
once, sorted by hash. As headers, order and sizes follow from the manifest, and the manifest's hash stands
in the head, exactly one sequence of bytes is the package of a manifest. The reader refuses any other.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from controller.packaging import tar
from controller.packaging.package_reader import (
    CHUNK,
    PACKAGE_KIND,
    PackageReader,
    distinct_contents,
    encode_head,
    open_package,
)
from controller.packaging.whole_file import whole_file
from schemas.errors import PublisherError, one_line
from schemas.layout import FILE_FORMAT, HEAD_MEMBER, MANIFEST_MEMBER, OBJECTS, FileHead
from schemas.manifest import Manifest, encode_manifest

__all__ = ["PackageReader", "Progress", "WrittenPackage", "distinct_contents", "open_package", "write_package"]

Progress = Callable[[int, int], None]
"""Called now and then with (bytes done, bytes in all); the last call has both equal."""


class WrittenPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What `write_package` made: sha256 of the plain manifest, and the file's size in bytes."""

    manifest_sha256: str
    size: int


def write_package(
    destination: Path,
    manifest: Manifest,
    open_content: Callable[[str], BinaryIO],
    progress: Progress | None = None,
) -> WrittenPackage:
    """Write the package file of `manifest`; `destination` appears whole or stays as it was.

    Args:
        destination: the file to make; its folder exists.
        manifest: what is packed.
        open_content: gives the content with a sha256, opened for reading; closed here.
        progress: told about the bytes of content.

    Raises:
        PublisherError: the manifest breaks a rule, or a content is not what the manifest says
            (`package.source`: it changed meanwhile).
        OperatorError: `disk.full` or `disk.io`, when the destination cannot be written.
    """
    plain = encode_manifest(manifest)
    contents = distinct_contents(manifest)
    digest = hashlib.sha256(plain).hexdigest()
    head = encode_head(
        FileHead(
            format=FILE_FORMAT,
            kind=PACKAGE_KIND,
            package=manifest.package,
            version=manifest.version,
            platform=manifest.platform,
            manifest=digest,
        )
    )
    total = sum(size for _, size in contents)
    done = 0
    with whole_file(destination) as out:
        _write_member(out, HEAD_MEMBER, head)
        _write_member(out, MANIFEST_MEMBER, plain)
        for sha256, size in contents:
            out.write(tar.header(f"{OBJECTS}/{sha256}", size))
            for chunk in _checked_chunks(open_content, sha256, size, manifest):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
            out.write(bytes(tar.padding(size)))
        out.write(tar.END)
        written = out.tell()
    return WrittenPackage(manifest_sha256=digest, size=written)


def _write_member(out: BinaryIO, name: str, data: bytes) -> None:
    out.write(tar.header(name, len(data)))
    out.write(data)
    out.write(bytes(tar.padding(len(data))))


def _checked_chunks(
    open_content: Callable[[str], BinaryIO], sha256: str, size: int, manifest: Manifest
) -> Iterator[bytes]:
    hashed = hashlib.sha256()
    left = size
    try:
        with open_content(sha256) as content:
            # One byte more than is expected, so that a file that has grown is noticed.
            while chunk := content.read(min(CHUNK, left + 1)):
                hashed.update(chunk)
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except OSError as error:
        raise PublisherError(
            "package.source", f"{_path_of(sha256, manifest)!r} cannot be read: {error.strerror}"
        ) from error
    if left or hashed.hexdigest() != sha256:
        raise PublisherError(
            "package.source",
            f"{_path_of(sha256, manifest)!r} changed while it was packed; build again when nothing writes to it",
        )


def _path_of(sha256: str, manifest: Manifest) -> str:
    return one_line(next(f.path for f in manifest.files if f.sha256 == sha256))
