"""Whole numbers in as few bytes as they need: seven bits a byte, lowest first, as in Protocol Buffers (LEB128)."""

from typing import Final

MAX_VARINT_BYTES: Final = 9


class FormatError(ValueError):
    """The bytes are not of the form; the text says in what, as the end of 'the bundle is damaged: …'."""


def put(out: bytearray, value: int) -> None:
    """Append `value`, which is at least 0 and below 2 ** 63."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_signed(out: bytearray, value: int) -> None:
    """Append a number that may be negative: 0, -1, 1, -2, … become 0, 1, 2, 3, …"""
    put(out, value * 2 if value >= 0 else -value * 2 - 1)


class Cursor:
    """Takes numbers and bytes one after the other. All raise `FormatError` at the end of the data."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, *, at_most: int = 2**63 - 1) -> int:
        """The next number."""
        data, at, value, shift = self.data, self.at, 0, 0
        while True:
            if at >= len(data) or shift == 7 * MAX_VARINT_BYTES:
                raise FormatError("a number is cut short or too long")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if value > at_most:
            raise FormatError("a number is over its limit")
        self.at = at
        return value

    def take_signed(self) -> int:
        """The next number that may be negative."""
        value = self.take()
        return -(value + 1) // 2 if value % 2 else value // 2

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self.at + count > len(self.data):
            raise FormatError("it is cut short")
        self.at += count
        return self.data[self.at - count : self.at]
