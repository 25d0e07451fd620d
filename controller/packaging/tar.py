"""The small, strict part of the tar format that package and export files use.

Headers are made here byte by byte and not by `tarfile`, whose output differs between Python versions
(device numbers, padding) where ours must be the same on every machine. Reading is strict for the same reason:
a header that is not what `header` makes is refused, so that no trick of the format (devices, hard
links, sparse files, overridden paths or sizes) reaches any code that could fall for it.
"""

from dataclasses import dataclass
from typing import Final

from schemas.errors import PublisherError, one_line

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
MAX_MEMBER_BYTES: Final = 8 * 1024**3 - 1
"""The largest size that a plain header can say: eleven octal digits."""
MAX_NAME_BYTES: Final = 100
MAX_PAX_BYTES: Final = 4096

_BEFORE_SIZE: Final = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE: Final = b"00000000000\0"
_AFTER_CHECKSUM: Final = b"\0 0" + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
# A checksum counts its own eight bytes as blanks.
_FIXED_SUM: Final = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_CHECKSUM) - ord(" ") + 8 * ord(" ")

_TYPES: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a pipe",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
    b"x": "an extended header",
    b"g": "a global header",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar file: its name and its size in bytes."""

    name: str
    size: int


def header(name: str, size: int) -> bytes:
    """The one header that a regular member may have: ustar, mode 0644, time 0, owner 0.

    Args:
        name: at most `MAX_NAME_BYTES` bytes of ASCII.
        size: at most `MAX_MEMBER_BYTES`.

    Raises:
        ValueError: a name or size that does not fit, which the caller has to rule out before.
    """
    raw = name.encode("ascii")
    if not 0 < len(raw) <= MAX_NAME_BYTES or not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"no plain tar header can say {name!r} with {size} bytes")
    digits = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(raw) + sum(digits)
    return b"".join(
        (raw.ljust(MAX_NAME_BYTES, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, b"%06o" % checksum, _AFTER_CHECKSUM)
    )


def padding(size: int) -> int:
    """How many zero bytes follow a content of `size` bytes."""
    return -size % BLOCK


def parse(block: bytes, where: str) -> tuple[Member, bytes]:
    """The member and the type flag that a header block names, whatever wrote it.

    The checksum must be right and numbers must be octal; name and size are bounded by the block.

    Args:
        block: 512 bytes.
        where: what the message calls the place.

    Raises:
        PublisherError: `package.format`.
    """
    sums = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    if block[257:262] != b"ustar" or _number(block[148:156], where) != sums:
        raise PublisherError("package.format", f"{where}: this is no tar header; the file is damaged")
    try:
        name = _text(block[:100]).decode("ascii")
        prefix = _text(block[345:500]).decode("ascii")
    except UnicodeDecodeError as error:
        raise PublisherError("package.format", f"{where}: a member's name is not ASCII") from error
    size = _number(block[124:136], where)
    return Member(f"{prefix}/{name}" if prefix else name, size), block[156:157]


def type_name(flag: bytes) -> str:
    """A member's type for a message; empty for a regular file."""
    return "" if flag in (b"0", b"\0") else _TYPES.get(flag, f"of unknown type {one_line(ascii(flag))}")


def parse_pax(data: bytes, where: str) -> dict[str, str]:
    """The records of a pax extended header (POSIX.1-2001, `pax` interchange format): `LENGTH KEY=VALUE\\n`.

    Raises:
        PublisherError: `package.format`, where a record is malformed.
    """
    records: dict[str, str] = {}
    while data:
        length, blank, _ = data.partition(b" ")
        count = int(length) if blank and len(length) < 5 and length.isdigit() else 0
        key, equals, value = data[len(length) + 1 : count - 1].partition(b"=")
        if not count or count > len(data) or data[count - 1 : count] != b"\n" or not equals:
            raise PublisherError("package.format", f"{where}: a pax header is malformed")
        try:
            records[key.decode()] = value.decode()
        except UnicodeDecodeError as error:
            raise PublisherError("package.format", f"{where}: a pax header is not UTF-8") from error
        data = data[count:]
    return records


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, where: str) -> int:
    digits = field.strip(b" \0")
    # int() would also take a sign, an underscore and digits of other scripts.
    if not digits or digits.strip(b"01234567"):
        raise PublisherError("package.format", f"{where}: a number in a tar header is not octal; the file is damaged")
    return int(digits, 8)
