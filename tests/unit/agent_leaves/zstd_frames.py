"""Packed contents for tests, good and bad."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def compressed(plain: bytes) -> bytes:
    """As a repository packs it."""
    return zstd.compress(plain, level=3)


def frame_with_huge_window(plain: bytes) -> bytes:
    """A frame that unpacks to `plain`, but asks for 64 MiB of memory (RFC 8878, section 3.1.1)."""
    window_log = 26
    header = (0xFD2FB528).to_bytes(4, "little") + bytes([0, (window_log - 10) << 3])
    blocks, rest = b"", plain
    while True:
        raw, rest = rest[:100_000], rest[100_000:]
        blocks += (len(raw) << 3 | (not rest)).to_bytes(3, "little") + raw
        if not rest:
            return header + blocks
