"""Finds what two strings of compiled code have in common, as bsdiff does: long stretches that differ in a few bytes.

The search is that of `detools` (suffix array by divsufsort, four bytes for each byte of the old side); the steps are
then put into the three streams of a bundle's difference.
"""

import sys
import threading
from array import array
from dataclasses import dataclass
from typing import Final

from detools.bsdiff import create_patch  # type: ignore[import-untyped]  # detools has no type hints
from detools.common import unpack_size_bytes  # type: ignore[import-untyped]  # the same
from detools.suffix_array import divsufsort  # type: ignore[import-untyped]  # the same

_one_at_a_time: Final = threading.Lock()
"""The search is what takes most memory."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The plain streams of a difference: `columns` are moves, lengths of additions, lengths of new bytes."""

    columns: tuple[bytes, bytes, bytes]
    extra: bytes
    difference: bytes


def find_difference(old: bytes, new: bytes) -> Streams:
    """The steps that make `new` from `old`. Takes four times `old` and three times `new` of memory."""
    with _one_at_a_time:
        return _find(old, new)


def _find(old: bytes, new: bytes) -> Streams:
    suffixes = bytearray(4 * (len(old) + 1))
    divsufsort(old, suffixes)
    chunks: list[bytes] = create_patch(suffixes, old, new, bytearray(len(new) + 1))
    del suffixes
    moves, adds, takes = array("I"), array("I"), array("I")
    extras, differences = bytearray(), bytearray()
    # a step is five chunks: size of the difference, difference, size of the extra, extra, how far to move after it
    move = 0
    for at in range(0, len(chunks) - 4, 5):
        difference, extra = chunks[at + 1], chunks[at + 3]
        if difference or extra:
            moves.append(move * 2 if move >= 0 else -move * 2 - 1)
            adds.append(len(difference))
            takes.append(len(extra))
            differences += difference
            extras += extra
            move = 0
        move += unpack_size_bytes(chunks[at + 4])
        chunks[at + 1] = chunks[at + 3] = b""
    return Streams((_little(moves), _little(adds), _little(takes)), bytes(extras), bytes(differences))


def _little(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
