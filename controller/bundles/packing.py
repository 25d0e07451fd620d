"""Packs streams as small as it goes: zstd with everything turned up, LZMA with a few settings, the smallest wins."""

import lzma
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final

from schemas.bundle_format import ZSTD
from schemas.bundles import MAX_LZMA_DICTIONARY, MAX_WINDOW_LOG

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, ZstdDict
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

PLAIN_WINDOW_LOG: Final = 24
"""Of frames without a prefix: 16 MiB of a device's memory."""
LARGE_LEVEL: Final = 19
_BLOCK: Final = 1024 * 1024
_NOTHING_TO_GAIN: Final = 0.97
"""What zstd leaves more of is packed already."""
_LZMA_TEXT: Final = (3, 0, 2)
_LZMA_BYTES: Final = (0, 0, 0)
COLUMN_SETTINGS: Final = ((0, 2, 2), (0, 0, 0))
"""For columns of numbers of four bytes."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed stream."""

    codec: int
    data: bytes
    plain: int


def pack_large(source: BinaryIO, size: int, folder: Path) -> IO[bytes]:
    """One zstd frame of all of `source`, in a temporary file of `folder`; for what is not to be held in memory."""
    packed = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # the caller closes it
    options: dict[int, int] = {
        CompressionParameter.compression_level: LARGE_LEVEL,
        CompressionParameter.window_log: PLAIN_WINDOW_LOG,
    }
    compressor = ZstdCompressor(options=options)
    compressor.set_pledged_input_size(size)
    while plain := source.read(_BLOCK):
        packed.write(compressor.compress(plain))
    packed.write(compressor.flush())
    return packed


def pack_zstd(plain: bytes, *, prefix: bytes = b"", level: int = 22, window_log: int = PLAIN_WINDOW_LOG) -> bytes:
    """One zstd frame, with `prefix` as its raw prefix where given. The window covers both."""
    span = max(10, (len(plain) + len(prefix)).bit_length())
    window = min(span, 27) if prefix else min(span, window_log)
    options: dict[int, int] = {
        CompressionParameter.compression_level: level,
        CompressionParameter.window_log: min(window, MAX_WINDOW_LOG),
        CompressionParameter.content_size_flag: 1,
        CompressionParameter.checksum_flag: 0,
        CompressionParameter.dict_id_flag: 0,
    }
    compressor = ZstdCompressor(
        options=options, zstd_dict=ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
    )
    compressor.set_pledged_input_size(len(plain))
    return compressor.compress(plain, mode=ZstdCompressor.FLUSH_FRAME)


def pack_lzma(plain: bytes, lc: int, lp: int, pb: int) -> bytes:
    """A raw LZMA stream with an end mark."""
    dictionary = max(4096, min(MAX_LZMA_DICTIONARY, len(plain)))
    filters = [
        {
            "id": lzma.FILTER_LZMA1,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": dictionary,
            "lc": lc,
            "lp": lp,
            "pb": pb,
        }
    ]
    return lzma.compress(plain, format=lzma.FORMAT_RAW, filters=filters)


def pack(plain: bytes, settings: Sequence[tuple[int, int, int]] = (_LZMA_TEXT, _LZMA_BYTES)) -> Packed:
    """The smallest of zstd and LZMA with each of the `settings` (lc, lp, pb)."""
    candidates = [Packed(ZSTD, pack_zstd(plain), len(plain))]
    if len(candidates[0].data) > _NOTHING_TO_GAIN * len(plain):
        return candidates[0]
    for lc, lp, pb in settings:
        candidates.append(Packed(1 + lc + 9 * (lp + 5 * pb), pack_lzma(plain, lc, lp, pb), len(plain)))
    return min(candidates, key=lambda packed: len(packed.data))
