"""Takes gzip and zip files apart, and proves that they can be put back exactly as they were."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controller.bundles.gnu_gzip import deflate_gnu
from schemas.bundle_format import Section
from schemas.bundles import MAX_GROUP_SPAN, MAX_SECTIONS
from schemas.deflate import GNU_GZIP, compressor, gnu_level, setting

GZIP: Final = b"\x1f\x8b\x08"
ZIP: Final = b"PK\x03\x04"
_LEVELS: Final = (6, 9, 1, 8, 7, 5, 4, 3, 2)
_MEMORY: Final = (8, 9)
_PIECE: Final = 16 * 1024
_FIRST: Final = 64 * 1024
"""What a setting yields is looked at after each so many bytes."""
_GNU_LEVELS: Final = (6, 9)
_GNU_LEAST: Final = 4096
"""What is smaller than this is one block, and then zlib does as well, without a process."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A content that is taken apart.

    Attributes:
        inner: literal bytes and inflated streams, in order.
        sections: where they are, and how each stream is deflated again.
        tail: literal bytes after the last stream.
        packed: bytes of each stream, deflated.
    """

    inner: bytes
    sections: tuple[Section, ...]
    tail: int
    packed: tuple[int, ...]


def take_apart(data: bytes) -> Apart | None:
    """The content taken apart, its settings 0, or None where nothing in it is deflated."""
    inner, sections, packed = bytearray(), list[Section](), list[int]()
    at = 0
    for start in _starts(data):
        if start < at:
            return None
        inflated = _inflated(memoryview(data), start, MAX_GROUP_SPAN - len(inner))
        if inflated is None or len(sections) == MAX_SECTIONS:
            return None
        plain, end = inflated
        sections.append(Section(start - at, len(plain)))
        packed.append(end - start)
        inner += data[at:start] + plain
        at = end
    if not sections:
        return None
    return Apart(bytes(inner + data[at:]), tuple(sections), len(data) - at, tuple(packed))


class Prover:
    """Finds what puts contents back byte for byte. Remembers what did, as many files come from one hand."""

    def __init__(self) -> None:
        levels = [setting(level=level, memory=memory, strategy=0) for memory in _MEMORY for level in _LEVELS]
        gnu = [GNU_GZIP + level - 1 for level in _GNU_LEVELS]
        self._tried = [*levels[:2], *gnu, *levels[2:]]

    def prove(self, data: bytes, apart: Apart) -> Apart | None:
        """The content with settings that put it back; streams for which there is none stay as they are.

        None where that is so for all streams.
        """
        inner, sections, packed = bytearray(), list[Section](), list[int]()
        at = start = literal = 0
        for section, length in zip(apart.sections, apart.packed, strict=True):
            start += section.literal
            plain = apart.inner[start : start + section.plain]
            start += section.plain
            literal += section.literal
            begin = at + section.literal
            end = begin + length
            found = self._setting(plain, data[begin:end])
            inner += data[at:begin]
            if found is None:
                inner += data[begin:end]
                literal += end - begin
            else:
                inner += plain
                sections.append(Section(literal, section.plain, found))
                packed.append(length)
                literal = 0
            at = end
        tail = literal + len(data) - at
        return Apart(bytes(inner + data[at:]), tuple(sections), tail, tuple(packed)) if sections else None

    def _setting(self, plain: bytes, packed: bytes) -> int | None:
        for number in self._tried:
            if _puts_back(plain, packed, number):
                self._tried.remove(number)
                self._tried.insert(0, number)
                return number
        return None


def _puts_back(plain: bytes, packed: bytes, number: int) -> bool:
    if number >= GNU_GZIP:
        return len(plain) >= _GNU_LEAST and deflate_gnu(gnu_level(number), plain) == packed
    squeeze = compressor(number)
    at = 0
    for begin in range(0, len(plain), _FIRST):
        made = squeeze.compress(plain[begin : begin + _FIRST])
        if packed[at : at + len(made)] != made:
            return False
        at += len(made)
    return packed[at:] == squeeze.flush()


def inside(data: bytes, sections: Sequence[Section]) -> bytes:
    """What `take_apart` or `Prover.prove` gave as `inner`. Raises `OSError` where `data` is something else."""
    inner = bytearray()
    at = 0
    for section in sections:
        start = at + section.literal
        inflated = _inflated(memoryview(data), start, MAX_GROUP_SPAN - len(inner))
        if inflated is None:
            raise OSError("a content changed while a bundle was made")
        inner += data[at:start] + inflated[0]
        at = inflated[1]
    return bytes(inner + data[at:])


def _inflated(data: memoryview, start: int, limit: int) -> tuple[bytes, int] | None:
    """A deflated stream's plain bytes and its end; None where it is damaged or has more than `limit` bytes."""
    inflate = zlib.decompressobj(-15)
    pieces: list[bytes] = []
    at = start
    try:
        # piece by piece, as zlib copies whatever lies behind the end of a stream
        while not inflate.eof and at < len(data) and limit >= 0:
            pieces.append(inflate.decompress(data[at : at + _PIECE], limit + 1))
            limit -= len(pieces[-1])
            at = min(at + _PIECE, len(data))
    except zlib.error:
        return None
    return (b"".join(pieces), at - len(inflate.unused_data)) if inflate.eof and limit >= 0 else None


def _starts(data: bytes) -> list[int]:
    try:
        if data.startswith(GZIP):
            return [_gzip_header(data)]
        if data.startswith(ZIP):
            return sorted(_zip_starts(data))
    except (ValueError, IndexError, struct.error, zipfile.BadZipFile, NotImplementedError):
        pass
    return []


def _gzip_header(data: bytes) -> int:
    flags, at = data[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            at = data.index(b"\0", at) + 1
    return at + 2 if flags & 2 else at


def _zip_starts(data: bytes) -> list[int]:
    starts = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_DEFLATED and member.compress_size:
                name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
                starts.append(member.header_offset + 30 + name + extra)
    return starts
