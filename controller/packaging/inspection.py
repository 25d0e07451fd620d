"""What a package or export file is, verified to its last byte: the work behind `flotilla inspect`."""

import os
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from controller.packaging import tar
from controller.packaging.package_reader import (
    PACKAGE_KIND,
    PackageReader,
    decode_head,
    distinct_contents,
    open_regular,
)
from schemas.errors import PublisherError, one_line
from schemas.layout import HEAD_MEMBER, MAX_HEAD_BYTES, FileHead
from schemas.manifest import Manifest

RELEASE_KIND: Final = "release"


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is whole.

    Attributes:
        head: its first member; `head.kind` says whether it is a package or an exported release.
        manifest: what is in it.
        file_size: of the file itself, in bytes.
        contents: number of distinct contents.
        content_size: their plain bytes.
        metadata: names of the signed metadata in an exported release.
    """

    head: FileHead
    manifest: Manifest
    file_size: int
    contents: int
    content_size: int
    metadata: list[str]


def inspect_file(path: Path) -> Inspection:
    """Read and verify a package file or an exported release; signatures are not checked.

    Raises:
        PublisherError: one line on what is wrong with the file.
    """
    name = one_line(path.name)
    with open_regular(path) as file:
        head = _peek_head(file, name)
        if head.kind == PACKAGE_KIND:
            reader = PackageReader(file, name)
            reader.verify()
            manifest, metadata = reader.manifest, list[str]()
        elif head.kind == RELEASE_KIND:
            # Imported here, because it needs a decompressor that packages do without.
            from controller.packaging.release_file import read_release  # noqa: PLC0415  # see above

            release = read_release(file, name, head)
            manifest, metadata = release.manifest, release.metadata
        else:
            raise PublisherError("package.format", f"{name}: a file of unknown kind {one_line(head.kind, 40)!r}")
        contents = distinct_contents(manifest)
        return Inspection(
            head=head,
            manifest=manifest,
            file_size=os.fstat(file.fileno()).st_size,
            contents=len(contents),
            content_size=sum(size for _, size in contents),
            metadata=metadata,
        )


def _peek_head(file: BinaryIO, name: str) -> FileHead:
    """The first member, with the file at its start again."""
    block = file.read(tar.BLOCK)
    if not block:
        raise PublisherError("package.format", f"{name}: the file is empty")
    if len(block) < tar.BLOCK:
        raise PublisherError("package.format", f"{name}: the file is cut short, or is no Flotilla file")
    member, flag = tar.parse(block, name)
    if member.name != HEAD_MEMBER or tar.type_name(flag) or member.size > MAX_HEAD_BYTES:
        raise PublisherError("package.format", f"{name}: no Flotilla file: it does not begin with {HEAD_MEMBER}")
    head = decode_head(file.read(member.size), name)
    file.seek(0)
    return head
