"""Applies a difference: a list of steps, each 'move, add so many bytes to old ones, take so many new ones'."""

from collections.abc import Callable
from typing import Final

from device_agent.bundles.adding import add_bytes
from device_agent.bundles.old_contents import OldContents
from device_agent.bundles.streams import Unpacker
from schemas.varints import Cursor, FormatError

_BLOCK: Final = 64 * 1024
_LONGEST_STEP: Final = 27
"""Bytes of three numbers."""


class Difference:
    """Makes new bytes from old ones as the difference stream comes in.

    Args:
        old: what the steps point into.
        control: the steps, all of the packed stream fed.
        extra: new bytes, all of the packed stream fed.
        write: takes what is made.
    """

    def __init__(self, old: OldContents, *, control: Unpacker, extra: Unpacker, write: Callable[[bytes], None]) -> None:
        self._old, self._size = old, old.size
        self._control, self._extra, self._write = control, extra, write
        self._steps = Cursor(b"")
        self._spare = b""
        self._position = self._add = self._take = 0

    def feed(self, difference: bytes) -> None:
        """The next bytes of the difference stream."""
        at, end = 0, len(difference)
        while at < end:
            while not self._add:
                if not self._next_step():
                    raise FormatError("its steps end too early")
            count = min(self._add, end - at, _BLOCK)
            old = self._old.read(self._position, count)
            self._write(add_bytes(old, difference[at : at + count]))
            at += count
            self._position += count
            self._add -= count

    def finish(self) -> None:
        """After the last byte: take what is new behind it, and check that nothing is left."""
        while not self._add and self._next_step():
            pass
        if self._add or self._spare or self._extra.read(1):
            raise FormatError("its steps and streams do not fit")
        self._control.finish()
        self._extra.finish()

    def _next_step(self) -> bool:
        self._take_new()
        steps = self._steps
        if len(steps.data) - steps.at < _LONGEST_STEP:
            more = self._control.read(_BLOCK)
            steps = self._steps = Cursor(steps.data[steps.at :] + more)
            while more and len(steps.data) < _LONGEST_STEP:
                more = self._control.read(_BLOCK)
                steps.data += more
            if not steps.data:
                return False
        self._position += steps.take_signed()
        self._add, self._take = steps.take(), steps.take()
        if not self._add and not self._take:
            raise FormatError("a step does nothing")
        if not 0 <= self._position <= self._position + self._add <= self._size:
            raise FormatError("a step points outside the old contents")
        return True

    def _take_new(self) -> None:
        while self._take:
            new = self._spare or self._extra.read(_BLOCK)
            if not new:
                raise FormatError("its new bytes end too early")
            new, self._spare = new[: self._take], new[self._take :]
            self._write(new)
            self._take -= len(new)
