"""The layout of a bundle: header, index, frames. Bytes in, checked values out; no I/O. See `docs/bundles.md`."""

import enum
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.bundles import (
    INFLATED_FREE,
    MAX_ALL_SECTIONS,
    MAX_GNU_SECTIONS,
    MAX_GROUP_SPAN,
    MAX_HELD,
    MAX_INDEX_PLAIN,
    MAX_INFLATED,
    MAX_READ_AGAIN,
    MAX_SECTIONS,
    MAX_STEPS,
    READ_AGAIN_FREE,
    Content,
)
from schemas.deflate import GNU_GZIP, MAX_SETTING
from schemas.varints import Cursor, FormatError, put, put_signed

MAGIC: Final = b"FLB\x01"
MAX_HEADER: Final = 64
MAX_PACKED: Final = 1 << 40
MAX_DEFLATED_TO: Final = 1040
"""Plain bytes that one byte of a deflated stream may stand for: two bits for 258 bytes, and a little."""


class Method(enum.IntEnum):
    """How a group's contents are made. In a bundle for ever: a number is never given a new meaning."""

    PLAIN = 0
    """One stream, from nothing."""
    PREFIX = 1
    """One zstd frame, with the group's old contents as its prefix."""
    DIFFERENCE = 2
    """Five streams against old contents that are read where they lie: three columns of steps, new bytes, difference."""


STREAMS: Final = {Method.PLAIN: 1, Method.PREFIX: 1, Method.DIFFERENCE: 5}
NUMBER: Final = 4
"""Bytes of each number in the columns of a difference's steps, lowest first."""
ZSTD: Final = 0
"""The codec of a stream: 0 is zstd, 1 + lc + 9 * (lp + 5 * pb) is LZMA with these parameters."""
LAST_CODEC: Final = 1 + 8 + 9 * (4 + 5 * 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The beginning of a bundle.

    Attributes:
        needed, sources: lengths of the two lists; they tell when a bundle is not for this pair of releases.
        deflate_check: what `schemas.deflate.check_value` gives for the settings used; 0 where none is used.
        index_packed, index_plain: bytes of the index, as a zstd frame and unpacked.
    """

    needed: int
    sources: int
    deflate_check: int
    index_packed: int
    index_plain: int

    def encode(self) -> bytes:
        """The bytes, with a CRC-32 over them."""
        out = bytearray(MAGIC)
        for value in (self.needed, self.sources, self.deflate_check, self.index_packed, self.index_plain):
            put(out, value)
        return bytes(out) + zlib.crc32(out).to_bytes(4, "little")


def decode_header(data: bytes) -> tuple[Header, int] | None:
    """The header and its length, or None where `data` ends too early. Raises `FormatError`."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        if data[:3] == MAGIC[:3]:
            raise FormatError(f"its format is {data[3]}, this reader knows {MAGIC[3]}")
        raise FormatError("it does not begin like a bundle")
    cursor = Cursor(data[:MAX_HEADER], len(MAGIC))
    try:
        values = [cursor.take() for _ in range(5)]
        crc = cursor.bytes(4)
    except FormatError:
        if len(data) < MAX_HEADER:
            return None
        raise
    if zlib.crc32(data[: cursor.at - 4]) != int.from_bytes(crc, "little"):
        raise FormatError("its header is damaged")
    count, old, check, packed, plain = values
    if plain > MAX_INDEX_PLAIN or packed > plain + 1024 or check > 0xFFFF_FFFF:
        raise FormatError("its header is over the limits")
    header = Header(needed=count, sources=old, deflate_check=check, index_packed=packed, index_plain=plain)
    return header, cursor.at


@dataclass(frozen=True, slots=True)
class Section:
    """A deflated stream inside a content, and the bytes before it.

    Attributes:
        literal: bytes before the stream.
        plain: bytes in the stream, inflated; 0 where it is not known (in old contents).
        setting: see `schemas.deflate`.
    """

    literal: int
    plain: int = 0
    setting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A content in a group.

    Attributes:
        position: in the list of needed contents, or of sources.
        sections: the deflated streams that are taken apart; none for content taken as it is.
        tail: literal bytes after the last stream (in new contents).
    """

    position: int
    sections: tuple[Section, ...] = ()
    tail: int = 0

    @property
    def inner(self) -> int:
        """Bytes that a group yields for it, where it has sections."""
        return sum(s.literal + s.plain for s in self.sections) + self.tail


@dataclass(frozen=True, slots=True)
class Stream:
    """A packed stream of a group: its codec, its bytes in the bundle and unpacked."""

    codec: int
    packed: int
    plain: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Contents that are made together.

    Attributes:
        method: how.
        sources: old contents; one after the other they are what is made from.
        targets: new contents; one after the other they are what is made.
        prefix: bytes of the sources, with their streams taken apart, where they are held in memory; else 0.
        streams: in the order in which they lie in the bundle.
    """

    method: Method
    sources: tuple[Piece, ...]
    targets: tuple[Piece, ...]
    prefix: int
    streams: tuple[Stream, ...]


def encode_index(groups: Sequence[Group]) -> bytes:
    """The plain index."""
    out = bytearray()
    put(out, len(groups))
    next_source = next_target = 0
    for group in groups:
        taken_apart = any(p.sections for p in (*group.sources, *group.targets))
        put(out, group.method * 2 + taken_apart)
        next_source = _put_positions(out, group.sources, next_source)
        next_target = _put_positions(out, group.targets, next_target)
        if taken_apart:
            for piece in group.sources:
                put(out, len(piece.sections))
                for section in piece.sections:
                    put(out, section.literal)
            _put_targets(out, group.targets)
        if group.method is Method.PREFIX:
            put(out, group.prefix)
        for stream in group.streams:
            put(out, stream.codec)
            put(out, stream.packed)
            put(out, stream.plain)
    return bytes(out)


def _put_positions(out: bytearray, pieces: Sequence[Piece], following: int) -> int:
    runs: list[list[int]] = []
    for piece in pieces:
        if runs and piece.position == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([piece.position, 1])
    put(out, len(runs))
    for start, length in runs:
        put_signed(out, start - following)
        put(out, length - 1)
        following = start + length
    return following


def _put_targets(out: bytearray, targets: Sequence[Piece]) -> None:
    for piece in targets:
        put(out, len(piece.sections))
        for section in piece.sections:
            put(out, section.literal)
            put(out, section.plain)
            put(out, section.setting)
        if piece.sections:
            put(out, piece.tail)


def decode_index(plain: bytes, needed: Sequence[Content], sources: Sequence[Content]) -> list[Group]:
    """The groups in a plain index, held against the lists and all limits.

    After this each needed content is named exactly once, and what the groups ask to be read, held and yielded is
    bounded by the sizes in the signed manifests.

    Raises:
        FormatError: where anything is not as it must be.
    """
    reader = _IndexReader(Cursor(plain), needed, sources)
    groups = [reader.group() for _ in range(reader.cursor.take(at_most=len(needed)))]
    if reader.cursor.at != len(plain):
        raise FormatError("its index is longer than it says")
    if not all(reader.named):
        raise FormatError("its index lacks a content")
    return groups


class _IndexReader:
    def __init__(self, cursor: Cursor, needed: Sequence[Content], sources: Sequence[Content]) -> None:
        self.cursor = cursor
        self.needed, self.sources = needed, sources
        self.named = bytearray(len(needed))
        self._next_source = self._next_target = 0
        self._prefixes_left = MAX_READ_AGAIN * sum(size for _, size in (*needed, *sources)) + READ_AGAIN_FREE
        self._references_left = 4 * (len(needed) + len(sources)) + 65536
        self._inflated_left = MAX_INFLATED * sum(size for _, size in needed) + INFLATED_FREE
        self._old_sections_left = self._new_sections_left = MAX_ALL_SECTIONS
        self._gnu_left = MAX_GNU_SECTIONS

    def group(self) -> Group:
        take = self.cursor.take
        kind = take(at_most=5)
        method, taken_apart = Method(kind // 2), bool(kind % 2)
        olds, self._next_source = self._positions(self._next_source, len(self.sources))
        self._references_left -= len(olds)
        if self._references_left < 0:
            raise FormatError("it names old contents too often")
        news, self._next_target = self._positions(self._next_target, len(self.needed))
        for position in news:
            if self.named[position]:
                raise FormatError("its index names a content twice")
            self.named[position] = 1
        old_pieces = tuple(self._old(position, taken_apart) for position in olds)
        targets = tuple(self._new(position, taken_apart) for position in news)
        size = sum(p.inner if p.sections else self.needed[p.position][1] for p in targets)
        if not targets or (method is Method.PLAIN) != (not olds):
            raise FormatError("its index has a group without contents")
        prefix = take(at_most=MAX_GROUP_SPAN) if method is Method.PREFIX else 0
        self._prefixes_left -= prefix
        if (prefix + size > MAX_GROUP_SPAN and method is Method.PREFIX) or self._prefixes_left < 0:
            raise FormatError("its index has a group over the limits")
        if method is Method.DIFFERENCE and any(p.sections for p in old_pieces):
            raise FormatError("its index takes old contents apart that are read where they lie")
        streams = tuple(self._stream(size) for _ in range(STREAMS[method]))
        self._check_streams(method, streams, size)
        return Group(method=method, sources=old_pieces, targets=targets, prefix=prefix, streams=streams)

    def _positions(self, following: int, count: int) -> tuple[list[int], int]:
        found: list[int] = []
        for _ in range(self.cursor.take(at_most=count)):
            start = following + self.cursor.take_signed()
            length = self.cursor.take(at_most=count) + 1
            following = start + length
            if start < 0 or following > count or len(found) + length > count:
                raise FormatError("its index names a content that is not there")
            found.extend(range(start, following))
        return found, following

    def _old(self, position: int, taken_apart: bool) -> Piece:
        if not taken_apart:
            return Piece(position=position)
        size = self.sources[position][1]
        count = self.cursor.take(at_most=min(MAX_SECTIONS, self._old_sections_left))
        self._old_sections_left -= count
        return Piece(position=position, sections=tuple(Section(self.cursor.take(at_most=size)) for _ in range(count)))

    def _new(self, position: int, taken_apart: bool) -> Piece:
        if not taken_apart:
            return Piece(position=position)
        take = self.cursor.take
        size = self.needed[position][1]
        count = take(at_most=min(MAX_SECTIONS, self._new_sections_left))
        self._new_sections_left -= count
        sections = tuple(self._section(size) for _ in range(count))
        return Piece(position=position, sections=sections, tail=take(at_most=size) if sections else 0)

    def _section(self, size: int) -> Section:
        take = self.cursor.take
        section = Section(take(at_most=size), take(at_most=size * MAX_DEFLATED_TO), take(at_most=MAX_SETTING))
        self._inflated_left -= section.plain
        self._gnu_left -= section.setting >= GNU_GZIP
        if self._inflated_left < 0 or self._gnu_left < 0:
            raise FormatError("its index has more to deflate again than is worth it")
        return section

    def _stream(self, size: int) -> Stream:
        codec = self.cursor.take(at_most=LAST_CODEC)
        return Stream(codec, self.cursor.take(at_most=MAX_PACKED), self.cursor.take(at_most=4 * size + 1024))

    def _check_streams(self, method: Method, streams: Sequence[Stream], size: int) -> None:
        if any(stream.packed > stream.plain + stream.plain // 64 + 1024 for stream in streams):
            raise FormatError("its index has a stream that is larger packed than plain")
        if method is Method.DIFFERENCE:
            *columns, extra, difference = streams
            held = sum(stream.packed for stream in (*columns, extra))
            good = (
                held <= MAX_HELD
                and len({column.plain for column in columns}) == 1
                and columns[0].plain <= NUMBER * min(size, MAX_STEPS)
                and extra.plain + difference.plain == size
            )
        else:
            good = streams[0].plain == size
        if not good or (method is Method.PREFIX and streams[0].codec != ZSTD):
            raise FormatError("its index has streams that do not fit their contents")
