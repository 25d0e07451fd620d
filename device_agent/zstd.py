"""Zstandard, from the standard library where that has it, and the one way in which the agent unpacks.

Imported only when content arrives: it costs memory that an idle agent need not have.
"""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError, compress
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError, compress

__all__ = ["MAX_WINDOW_LOG", "ZstdError", "new_decompressor", "pack", "prefixed_decompressor"]

MAX_WINDOW_LOG: Final = 25
"""At most 32 MiB of memory for unpacking, whatever a frame's header asks for (level 19 asks for 8 MiB)."""


def pack(plain: bytes) -> bytes:
    """One frame, made fast: for what stays on this device."""
    return compress(plain, level=1)


def new_decompressor() -> ZstdDecompressor:
    """A decompressor for one frame, bounded in memory."""
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG})


def prefixed_decompressor(prefix: bytes) -> ZstdDecompressor:
    """As `new_decompressor`, for a frame that refers to `prefix`: what it was made with as its raw prefix.

    A prefix of less than 8 bytes is none: zstd has no use for it.
    """
    if len(prefix) < 8:
        return new_decompressor()
    return ZstdDecompressor(
        zstd_dict=ZstdDict(prefix, is_raw=True).as_prefix,
        options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG},
    )
