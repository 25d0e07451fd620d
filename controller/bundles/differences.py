"""Finds what two strings of compiled code have in common, as bsdiff does: long stretches that differ in a few bytes.

The search is that of `bsdiff4`; its steps are then put into the streams of a bundle's difference.
"""

import struct
import sys
import threading
from array import array
from dataclasses import dataclass
from typing import Final

from bsdiff4 import core  # type: ignore[import-untyped]  # it has no type hints

_STEP: Final = struct.Struct("<QQQ")
"""bsdiff's control block: add so many bytes, take so many new ones, then move."""
_MINUS: Final = 1 << 63
"""A move back has this bit set, and is not in two's complement."""

_one_at_a_time: Final = threading.Lock()
"""The search is what takes most memory."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The plain streams of a difference: `columns` are moves, lengths of additions, lengths of new bytes."""

    columns: tuple[bytes, bytes, bytes]
    extra: bytes
    difference: bytes


def find_difference(old: bytes, new: bytes) -> Streams:
    """The steps that make `new` from `old`. Takes sixteen times `old` and three times `new` of memory."""
    with _one_at_a_time:
        return _find(old, new)


def _find(old: bytes, new: bytes) -> Streams:
    control: bytes
    control, difference, extra = core.diff(old, new)
    moves, adds, takes = array("I"), array("I"), array("I")
    # a step of bsdiff moves after it, one of a bundle before it
    move = 0
    for add, take, then in _STEP.iter_unpack(control):
        if add or take:
            moves.append(move * 2 if move >= 0 else -move * 2 - 1)
            adds.append(add)
            takes.append(take)
            move = 0
        move += then if then < _MINUS else _MINUS - then
    return Streams((_little(moves), _little(adds), _little(takes)), extra, difference)


def _little(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
