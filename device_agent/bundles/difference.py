"""Applies a difference: a list of steps, each 'move, add so many bytes to old ones, take so many new ones'."""

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from device_agent.bundles.adding import add_bytes
from device_agent.bundles.old_contents import OldContents
from device_agent.bundles.streams import Unpacker
from schemas.bundle_format import NUMBER
from schemas.varints import FormatError

_BLOCK: Final = 64 * 1024
_STEPS: Final = 4096
"""Steps that are unpacked at a time."""
_MOST_HELD: Final = 4 * _BLOCK
"""New bytes that are held until they are written at once."""
_Step = tuple[int, int, int]


class Difference:
    """Makes new bytes from old ones as the difference stream comes in.

    Steps are short (690 bytes in the mean, in compiled code), so they are worked off many at a time: the old bytes of
    many steps are gathered, the difference is added to all at once, and the sum is dealt out again.

    Args:
        old: what the steps point into.
        columns: moves, lengths of additions, lengths of new bytes; all of the packed streams fed.
        extra: new bytes, all of the packed stream fed.
        write: takes what is made.
    """

    def __init__(
        self, old: OldContents, *, columns: Sequence[Unpacker], extra: Unpacker, write: Callable[[bytes], None]
    ) -> None:
        self._old, self._size = old, old.size
        self._columns, self._extra, self._write = columns, _Extra(extra), write
        self._steps = self._numbers()
        self._position = self._add = self._take = 0

    def feed(self, difference: bytes) -> None:
        """The next bytes of the difference stream."""
        for at in range(0, len(difference), _BLOCK):
            self._feed(difference[at : at + _BLOCK])

    def finish(self) -> None:
        """After the last byte: take what is new behind it, and check that nothing is left."""
        self._write_new(self._take)
        for _, add, take in self._steps:
            if add:
                raise FormatError("its difference ends too early")
            self._write_new(take)
        if self._add:
            raise FormatError("its difference ends too early")
        for column in self._columns:
            column.finish()
        self._extra.finish()

    def _feed(self, difference: bytes) -> None:
        olds: list[bytes] = []
        dealt: list[tuple[int, int]] = []
        done, left = 0, len(difference)
        position, add, take = self._position, self._add, self._take
        read, steps, size = self._old.read, self._steps, self._size
        while left:
            if not add:
                if len(dealt) >= _STEPS:
                    # steps that add nothing are not bounded by the difference's bytes
                    used = len(difference) - left
                    self._deal(add_bytes(b"".join(olds), difference[done:used]), dealt)
                    olds, dealt, done = [], [], used
                # what the step before takes comes before this step's bytes
                dealt.append((0, take))
                move, add, take = next(steps, (0, 0, 0))
                if not add and not take:
                    raise FormatError("its steps end too early")
                position += move
                if position < 0 or position + add > size:
                    raise FormatError("a step points outside the old contents")
                continue
            count = min(add, left)
            olds.append(read(position, count))
            dealt.append((count, 0))
            position += count
            add -= count
            left -= count
        self._position, self._add, self._take = position, add, take
        self._deal(add_bytes(b"".join(olds), difference[done:]), dealt)

    def _deal(self, new: bytes, dealt: Sequence[tuple[int, int]]) -> None:
        parts: list[bytes] = []
        at = held = 0
        for count, take in dealt:
            held += count + take
            if held > _MOST_HELD:
                self._write(b"".join(parts))
                parts.clear()
                held = count + take
            if count:
                parts.append(new[at : at + count])
                at += count
            elif take <= _BLOCK:
                parts.append(self._extra.take(take))
            else:
                self._write(b"".join(parts))
                parts.clear()
                self._write_new(take)
        self._write(b"".join(parts))

    def _write_new(self, count: int) -> None:
        while count:
            part = self._extra.take(min(count, _BLOCK))
            self._write(part)
            count -= len(part)

    def _numbers(self) -> Iterator[_Step]:
        while True:
            moves, adds, takes = (self._column(column) for column in self._columns)
            if not len(moves) == len(adds) == len(takes):
                raise FormatError("its steps are cut short")
            if not moves:
                return
            for move, add, take in zip(moves, adds, takes, strict=True):
                if not add and not take:
                    raise FormatError("a step does nothing")
                yield (move >> 1) ^ -(move & 1), add, take

    @staticmethod
    def _column(column: Unpacker) -> "array[int]":
        data = b""
        while len(data) < _STEPS * NUMBER and (more := column.read(_STEPS * NUMBER - len(data))):
            data += more
        if len(data) % NUMBER:
            raise FormatError("its steps are cut short")
        numbers = array("I", data)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers


class _Extra:
    """Takes new bytes off their stream."""

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._data = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        while end > len(self._data):
            more = self._unpacker.read(_BLOCK)
            if not more:
                raise FormatError("its new bytes end too early")
            self._data = self._data[self._at :] + more
            self._at, end = 0, count
        part = self._data[self._at : end]
        self._at = end
        return part

    def finish(self) -> None:
        if self._at < len(self._data) or self._unpacker.read(1):
            raise FormatError("it has more new bytes than its steps take")
        self._unpacker.finish()
