"""Ways to deflate as one number, and a check that a device deflates in the same way as the maker of a bundle.

Content that is deflated can be told by what is inside and by the setting that it was deflated with, if what deflates
it again yields the same bytes. Versions and forks of zlib differ (zlib-ng yields other bytes), so a bundle carries the
check value of what it was made with.

Settings below `GNU_GZIP` are zlib's. Those from there on are GNU gzip's, whose blocks end elsewhere (after 32 767
symbols, or early where that looks better); no setting of zlib ends them there and finds the same matches.
"""

import functools
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zlib import _Compress

GNU_GZIP: Final = 10 * 9 * 5
"""This and the level less 1, of 1 to 9: what `gzip -n` writes, without its header and trailer."""
GNU_HEADER: Final = 10
"""Bytes before the deflated stream that `gzip -n` writes to its standard output (RFC 1952)."""
GNU_TRAILER: Final = 8
"""Bytes after it."""
MAX_SETTING: Final = GNU_GZIP + 8

_WORDS: Final = 12_000
_WORDS_GNU: Final = 48_000
"""Enough for several blocks: in a single one zlib and GNU gzip may be the same."""

DeflateGnu = Callable[[int, bytes], bytes]
"""What GNU gzip makes at a level of some bytes: a raw deflated stream."""


def setting(*, level: int, memory: int, strategy: int) -> int:
    """The number for a level 0 to 9, a memory level 1 to 9 and a strategy 0 to 4; the window is always 32 KiB."""
    return level + 10 * (memory - 1) + 90 * strategy


def compressor(number: int) -> "_Compress":
    """A raw compressor of zlib with the settings of `number`, which is below `GNU_GZIP`."""
    return zlib.compressobj(number % 10, zlib.DEFLATED, -15, number // 10 % 9 + 1, number // 90)


def gnu_level(number: int) -> int:
    """GNU gzip's level of a setting from `GNU_GZIP` on."""
    return number - GNU_GZIP + 1


def check_value(settings: Iterable[int], deflate_gnu: DeflateGnu) -> int:
    """A CRC-32 over the CRC-32s of a sample deflated with each of the settings, in ascending order; 0 for none.

    Each CRC-32 enters with its lowest byte first.

    Args:
        settings: those that occur.
        deflate_gnu: used only where a setting is GNU gzip's; what it raises is passed on.
    """
    values = (
        _check_value(number) if number < GNU_GZIP else zlib.crc32(deflate_gnu(gnu_level(number), sample(_WORDS_GNU)))
        for number in sorted(set(settings))
    )
    return zlib.crc32(b"".join(value.to_bytes(4, "little") for value in values))


@functools.cache
def _check_value(number: int) -> int:
    squeeze = compressor(number)
    return zlib.crc32(squeeze.compress(sample()) + squeeze.flush())


def sample(count: int = _WORDS) -> bytes:
    """So many words, of six bytes in the mean, with repetitions near and far; the same everywhere."""
    state, words = 1, []
    for _ in range(count):
        state = state * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
        words.append(b'"%x": ' % ((state >> 16) % (1 << 2 + (state >> 12) % 12)))
    return b"".join(words)
