"""Zstandard, from the standard library where that has it, and the one way in which the agent unpacks.

Imported only when content arrives: it costs memory that an idle agent need not have.
"""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, compress

__all__ = ["MAX_WINDOW_LOG", "ZstdError", "new_decompressor", "pack"]

MAX_WINDOW_LOG: Final = 25
"""At most 32 MiB of memory for unpacking, whatever a frame's header asks for (level 19 asks for 8 MiB)."""


def pack(plain: bytes) -> bytes:
    """One frame, made fast: for what stays on this device."""
    return compress(plain, level=1)


def new_decompressor() -> ZstdDecompressor:
    """A decompressor for one frame, bounded in memory."""
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
