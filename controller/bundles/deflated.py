"""Takes gzip and zip files apart, and proves that they can be put back exactly as they were."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Final

from schemas.bundle_format import Section
from schemas.bundles import MAX_GROUP_SPAN, MAX_SECTIONS
from schemas.deflate import compressor, setting

GZIP: Final = b"\x1f\x8b\x08"
ZIP: Final = b"PK\x03\x04"
_LEVELS: Final = (9, 6, 1, 8, 7, 5, 4, 3, 2)
_MEMORY: Final = (8, 9)
_PIECE: Final = 16 * 1024
_FIRST: Final = 64 * 1024
"""Settings are tried on so many bytes before the whole."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A content that is taken apart.

    Attributes:
        inner: literal bytes and inflated streams, in order.
        sections: where they are, and how each stream is deflated again.
        tail: literal bytes after the last stream.
    """

    inner: bytes
    sections: tuple[Section, ...]
    tail: int


def take_apart(data: bytes, *, proven: bool) -> Apart | None:
    """The content taken apart, or None where it is not deflated or is not put back exactly.

    Args:
        data: the content.
        proven: whether it has to be put back; else the settings stay 0 (for old contents).
    """
    inner, sections = bytearray(), list[Section]()
    at = usual = 0
    for start in _starts(data):
        if start < at:
            return None
        inflated = _inflated(memoryview(data), start, MAX_GROUP_SPAN - len(inner))
        if inflated is None or len(sections) == MAX_SECTIONS:
            return None
        plain, end = inflated
        if proven:
            found = _setting(plain, data[start:end], usual)
            if found is None:
                return None
            usual = found
        sections.append(Section(start - at, len(plain), usual))
        inner += data[at:start] + plain
        at = end
    if not sections:
        return None
    return Apart(bytes(inner + data[at:]), tuple(sections), len(data) - at)


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


def _setting(plain: bytes, packed: bytes, usual: int) -> int | None:
    tried = [setting(level=level, memory=memory, strategy=0) for memory in _MEMORY for level in _LEVELS]
    for number in dict.fromkeys([usual, *tried] if usual > 0 else tried):
        first = compressor(number)
        begin = first.compress(plain[:_FIRST])
        if packed.startswith(begin) and begin + first.compress(plain[_FIRST:]) + first.flush() == packed:
            return number
    return None
