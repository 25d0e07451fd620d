"""Finds what two strings of compiled code have in common, as bsdiff does: long stretches that differ in a few bytes.

The search is that of `detools` (suffix array by divsufsort, four bytes for each byte of the old side); the steps are
then put into the three streams of a bundle's difference.
"""

import threading
from dataclasses import dataclass
from typing import Final

from detools.bsdiff import create_patch  # type: ignore[import-untyped]  # detools has no type hints
from detools.common import unpack_size_bytes  # type: ignore[import-untyped]  # the same
from detools.suffix_array import divsufsort  # type: ignore[import-untyped]  # the same

from schemas.varints import put, put_signed

_one_at_a_time: Final = threading.Lock()
"""The search is what takes most memory."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The plain streams of a difference."""

    control: bytes
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
    control, extras, differences = bytearray(), bytearray(), bytearray()
    # a step is five chunks: size of the difference, difference, size of the extra, extra, how far to move after it
    move = 0
    for at in range(0, len(chunks) - 4, 5):
        difference, extra = chunks[at + 1], chunks[at + 3]
        if difference or extra:
            put_signed(control, move)
            put(control, len(difference))
            put(control, len(extra))
            differences += difference
            extras += extra
            move = 0
        move += unpack_size_bytes(chunks[at + 4])
        chunks[at + 1] = chunks[at + 3] = b""
    return Streams(bytes(control), bytes(extras), bytes(differences))
