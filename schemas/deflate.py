"""Settings of zlib's compressor as one number, and a check that a zlib yields the same bytes as another.

Content that is deflated can be told by what is inside and by the settings that it was deflated with, if the zlib
that deflates it again yields the same bytes. Versions and forks of zlib differ (zlib-ng yields other bytes), so a
bundle carries the check value of the zlib that it was made with.
"""

import functools
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zlib import _Compress

MAX_SETTING: Final = 10 * 9 * 5 - 1


def setting(*, level: int, memory: int, strategy: int) -> int:
    """The number for a level 0 to 9, a memory level 1 to 9 and a strategy 0 to 4; the window is always 32 KiB."""
    return level + 10 * (memory - 1) + 90 * strategy


def compressor(number: int) -> "_Compress":
    """A raw compressor with the settings of `number`, at most `MAX_SETTING`."""
    return zlib.compressobj(number % 10, zlib.DEFLATED, -15, number // 10 % 9 + 1, number // 90)


def check_value(settings: Iterable[int]) -> int:
    """A CRC-32 over the CRC-32s of a sample deflated with each of the settings, in ascending order; 0 for none.

    Each CRC-32 enters with its lowest byte first.
    """
    return zlib.crc32(b"".join(_check_value(number).to_bytes(4, "little") for number in sorted(set(settings))))


@functools.cache
def _check_value(number: int) -> int:
    squeeze = compressor(number)
    return zlib.crc32(squeeze.compress(sample()) + squeeze.flush())


def sample() -> bytes:
    """About 75 KB with repetitions near and far, the same everywhere."""
    state, words = 1, []
    for _ in range(12_000):
        state = state * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
        words.append(b'"%x": ' % ((state >> 16) % (1 << 2 + (state >> 12) % 12)))
    return b"".join(words)
