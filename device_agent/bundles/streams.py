"""The packed streams of a group, unpacked in pieces and with bounded memory, whatever they hold."""

import lzma
from typing import Final, Protocol

from device_agent.zstd import prefixed_decompressor
from schemas.bundle_format import ZSTD, Stream
from schemas.bundles import MAX_LZMA_DICTIONARY
from schemas.varints import FormatError

BLOCK: Final = 256 * 1024


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Unpacker:
    """Unpacks one stream. Raises `FormatError` or the decompressor's error where it is not as the index says."""

    def __init__(self, stream: Stream, prefix: bytes = b"") -> None:
        self._stream = stream
        self._decompressor = _decompressor(stream, prefix)
        self._fresh = b""
        self._plain = 0

    def feed(self, packed: bytes) -> None:
        """Packed bytes; all that was fed before must have been read."""
        if self._decompressor.eof:
            raise FormatError("a stream is followed by something else")
        self._fresh += packed

    def read(self, at_most: int = BLOCK) -> bytes:
        """The next plain bytes; empty where more must be fed, or at the end."""
        if self._decompressor.eof or (self._decompressor.needs_input and not self._fresh):
            return b""
        fresh, self._fresh = self._fresh, b""
        plain = self._decompressor.decompress(fresh, max_length=at_most)
        self._plain += len(plain)
        if self._plain > self._stream.plain or self._decompressor.unused_data:
            raise FormatError("a stream is longer than the index says")
        return plain

    def finish(self) -> None:
        """Check that it has come to its end."""
        if not self._decompressor.eof or self._plain != self._stream.plain:
            raise FormatError("a stream is shorter than the index says")


def _decompressor(stream: Stream, prefix: bytes) -> _Decompressor:
    if stream.codec == ZSTD:
        return prefixed_decompressor(prefix)
    parameters = stream.codec - 1
    lc, lp, pb = parameters % 9, parameters // 9 % 5, parameters // 45
    if lc + lp > 4:
        raise FormatError("a stream's LZMA parameters are not allowed")
    size = max(4096, min(MAX_LZMA_DICTIONARY, stream.plain))
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": lc, "lp": lp, "pb": pb}]
    return lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
