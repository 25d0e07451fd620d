"""The contents of both releases as groups see them: as they are, or taken apart."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from controller.bundles.deflated import inside
from controller.bundles.grouping import Kind, kind_of
from controller.bundles.insides import choose_insides, time_to_spend
from schemas.bundle_format import Piece
from schemas.bundles import Content
from schemas.manifest import Manifest

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

    def look_inside(self, origin: Mapping[int, int], new: Manifest) -> None:
        """Choose what is taken apart; `origin` leads from needed contents to the old ones they are made from."""
        if self._inside:
            seconds = time_to_spend(self.needed, new)
            for one in choose_insides(self.needed, self.sources, origin, self.read, seconds):
                self._new[one.new.position] = one.new, one.new_size
                self._old[one.old.position] = one.old, one.old_size

    def kind(self, position: int) -> Kind:
        """What a needed content is."""
        if position in self._new:
            return Kind.DEFLATED
        with self.open(self.needed[position][0]) as file:
            return kind_of(file.read(_HEAD))

    def new_size(self, position: int) -> int:
        """Bytes that a group makes for a needed content."""
        return self._new[position][1] if position in self._new else self.needed[position][1]

    def old_size(self, position: int, *, apart: bool) -> int:
        """Bytes of a source as it is put before a group."""
        return self._old[position][1] if apart and position in self._old else self.sources[position][1]

    def new_piece(self, position: int) -> Piece:
        """A needed content as the index names it."""
        return self._new[position][0] if position in self._new else Piece(position=position)

    def old_piece(self, position: int, *, apart: bool) -> Piece:
        """A source as the index names it."""
        return self._old[position][0] if apart and position in self._old else Piece(position=position)

    def new_bytes(self, position: int) -> bytes:
        """What a group makes for a needed content."""
        return inside(self.read(self.needed[position][0]), self.new_piece(position).sections)

    def old_bytes(self, position: int, *, apart: bool) -> bytes:
        """A source as it is put before a group."""
        return inside(self.read(self.sources[position][0]), self.old_piece(position, apart=apart).sections)
