"""What a device has already: a group's old contents, one after the other, as if they were one file."""

import bisect
import functools
import io
import itertools
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

from device_agent.faults import disk_fault
from schemas.bundle_format import Piece
from schemas.bundles import Content
from schemas.errors import DeviceError
from schemas.varints import FormatError

OpenSource = Callable[[str], BinaryIO]

_MAX_OPEN: Final = 192
_BLOCK: Final = 64 * 1024
_ReadAt = Callable[[int, int], bytes]
"""Reads so many bytes from this place."""


class OldContents:
    """Reads anywhere in a group's old contents; files are opened when they are needed, and few at a time."""

    def __init__(self, pieces: Sequence[Piece], sources: Sequence[Content], open_source: OpenSource) -> None:
        self._contents = [sources[piece.position] for piece in pieces]
        self._ends = list(itertools.accumulate(size for _, size in self._contents))
        self._open_source = open_source
        self._files: OrderedDict[int, tuple[BinaryIO, _ReadAt]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of them all."""
        return self._ends[-1] if self._ends else 0

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`, which lie within. Raises `DeviceError` `verify.size` or `disk.io`."""
        index = bisect.bisect_right(self._ends, at)
        end = self._ends[index]
        if at + count <= end:
            return self._from(index, at, count)
        parts = []
        while count:
            part = self._from(index, at, min(count, self._ends[index] - at))
            parts.append(part)
            at += len(part)
            count -= len(part)
            index += 1
        return b"".join(parts)

    def close(self) -> None:
        """Close what is open."""
        while self._files:
            self._files.popitem()[1][0].close()

    def _from(self, index: int, at: int, count: int) -> bytes:
        if count == 0:
            return b""
        found = self._files.get(index)
        try:
            read_at = found[1] if found is not None else self._open(index)
            data = read_at(count, at - (self._ends[index - 1] if index else 0))
        except OSError as error:
            raise disk_fault(error, f"read content {self._contents[index][0][:12]}") from error
        if len(data) != count:
            raise _too_short(self._contents[index][0])
        return data

    def _open(self, index: int) -> _ReadAt:
        if len(self._files) >= _MAX_OPEN:
            self._files.popitem(last=False)[1][0].close()
        file = self._open_source(self._contents[index][0])
        try:
            read_at: _ReadAt = functools.partial(os.pread, file.fileno())
        except io.UnsupportedOperation:
            read_at = functools.partial(_seek_and_read, file)
        self._files[index] = file, read_at
        return read_at


def read_prefix(pieces: Sequence[Piece], sources: Sequence[Content], open_source: OpenSource, limit: int) -> bytes:
    """The old contents of a group as one string of exactly `limit` bytes, with their deflated streams taken apart.

    Raises:
        DeviceError: `verify.size`, `disk.io`.
        FormatError, zlib.error: where they are not what the bundle takes them for.
    """
    out = bytearray()
    for piece in pieces:
        sha256, size = sources[piece.position]
        # what is taken apart may be a little smaller than it was deflated
        most = limit + limit // 8 + _BLOCK if piece.sections else limit - len(out)
        if size > most:
            raise FormatError("old contents are larger than the index says")
        try:
            with open_source(sha256) as file:
                data = file.read(size + 1)
        except OSError as error:
            raise disk_fault(error, f"read content {sha256[:12]}") from error
        if len(data) != size:
            raise _too_short(sha256)
        if piece.sections:
            _take_apart(data, piece, out, limit)
        else:
            out += data
    if len(out) != limit:
        raise FormatError("old contents are smaller than the index says")
    return bytes(out)


def _take_apart(data: bytes, piece: Piece, out: bytearray, limit: int) -> None:
    at = 0
    for section in piece.sections:
        out += data[at : at + section.literal]
        at += section.literal
        inflate = zlib.decompressobj(-15)
        fresh = b""
        while not inflate.eof:
            if not fresh:
                # by pieces: each call copies what is left of what it was given
                fresh = data[at : at + _BLOCK]
                at += len(fresh)
            plain = inflate.decompress(fresh, _BLOCK)
            out += plain
            if len(out) > limit:
                raise FormatError("old contents are larger than the index says")
            fresh = inflate.unconsumed_tail
            if at >= len(data) and not plain and not fresh and not inflate.eof:
                raise FormatError("a deflated stream in an old content is cut short")
        at -= len(inflate.unused_data)
    out += data[at:]


def _seek_and_read(file: BinaryIO, count: int, at: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _too_short(sha256: str) -> DeviceError:
    return DeviceError("verify.size", f"the device's content {sha256[:12]}… has not the size that its manifest names")
