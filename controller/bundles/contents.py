"""The contents of both releases as groups see them: as they are, or taken apart."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from controller.bundles.deflated import GZIP, ZIP, Apart, take_apart
from controller.bundles.grouping import Kind, kind_of
from schemas.bundle_format import Piece, Section
from schemas.bundles import MAX_GROUP_SPAN, Content

Load = Callable[[str], "bytes | BinaryIO"]

_HEAD: Final = 16


class Contents:
    """Reads contents by their position in the lists; remembers what can be taken apart, not the bytes.

    Attributes:
        scratch: a folder for what is too large for the memory; /tmp may itself be in memory.
    """

    def __init__(
        self, needed: list[Content], sources: list[Content], load: Load, *, inside: bool, scratch: Path
    ) -> None:
        self.needed, self.sources, self.scratch = needed, sources, scratch
        self._load, self._inside = load, inside
        self._new: dict[int, tuple[Piece, int]] = {}
        self._old: dict[int, tuple[Piece, int]] = {}

    def open(self, sha256: str) -> BinaryIO:
        """A content as a file."""
        found = self._load(sha256)
        return io.BytesIO(found) if isinstance(found, bytes) else found

    def read(self, sha256: str) -> bytes:
        """A content as it is."""
        with self.open(sha256) as file:
            return file.read()

    def start(self, sha256: str, size: int) -> bytes:
        """The first `size` bytes of a content, however large it is."""
        with self.open(sha256) as file:
            return file.read(size)

    def look_at(self, position: int, source: int | None) -> Kind:
        """What a needed content is. Where both it and its source can be taken apart, they will be."""
        sha256, size = self.needed[position]
        with self.open(sha256) as file:
            head = file.read(_HEAD)
        if self._inside and size < MAX_GROUP_SPAN and head.startswith((GZIP, ZIP)):
            old = self._old_apart(source) if source is not None else None
            new = take_apart(self.read(sha256), proven=True) if old is not None else None
            if source is not None and old is not None and new is not None:
                self._new[position] = (
                    Piece(position=position, sections=new.sections, tail=new.tail),
                    len(new.inner),
                )
                self._old[source] = (
                    Piece(position=source, sections=tuple(Section(s.literal) for s in old.sections)),
                    len(old.inner),
                )
                return Kind.DEFLATED
        return kind_of(head)

    def new_size(self, position: int) -> int:
        """Bytes that a group makes for a needed content."""
        return self._new[position][1] if position in self._new else self.needed[position][1]

    def old_size(self, position: int) -> int:
        """Bytes of a source as it is put before a group."""
        return self._old[position][1] if position in self._old else self.sources[position][1]

    def new_piece(self, position: int) -> Piece:
        """A needed content as the index names it."""
        return self._new[position][0] if position in self._new else Piece(position=position)

    def old_piece(self, position: int, *, apart: bool) -> Piece:
        """A source as the index names it."""
        return self._old[position][0] if apart and position in self._old else Piece(position=position)

    def new_bytes(self, position: int) -> bytes:
        """What a group makes for a needed content."""
        data = self.read(self.needed[position][0])
        return _inner(data, position in self._new)

    def old_bytes(self, position: int, *, apart: bool) -> bytes:
        """A source as it is put before a group."""
        data = self.read(self.sources[position][0])
        return _inner(data, apart and position in self._old)

    def _old_apart(self, source: int) -> Apart | None:
        sha256, size = self.sources[source]
        return take_apart(self.read(sha256), proven=False) if size < MAX_GROUP_SPAN else None


def _inner(data: bytes, apart: bool) -> bytes:
    if not apart:
        return data
    found = take_apart(data, proven=False)
    if found is None:
        raise OSError("a content changed while a bundle was made")
    return found.inner
