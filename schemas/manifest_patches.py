"""The difference between two plain manifests. Bytes in, bytes out; no I/O. See `docs/bundles.md`.

A manifest is mostly hashes and paths. Both are taken apart: the *skeleton* is the plain manifest with a mark in
place of each file's hash. A device makes the old skeleton itself; the new one comes as a zstd frame with the old one
as prefix, with marks that say where each hash comes from. Only hashes that the old manifest lacks are sent.
"""

import re
from collections.abc import Iterator
from typing import Final

from schemas.varints import Cursor, FormatError, put, put_signed

PATCH_MAGIC: Final = b"FLM\x01"
SAME: Final = b"="
"""The hash that the old manifest has for the same path."""
NEW: Final = b"+"
"""The next of the hashes that are sent."""
OTHER: Final = b"&"
"""A hash that the old manifest has somewhere else; sent as a number."""

_HASHED: Final = re.compile(rb'"path":("(?:[^"\\]|\\.)*"),"sha256":"([0-9a-f]{64})"')
_MARKED: Final = re.compile(rb'"path":("(?:[^"\\]|\\.)*"),"sha256":"([=+&])"')


def skeleton(plain: bytes) -> bytes:
    """A plain manifest with `SAME` in place of each hash."""
    return _HASHED.sub(rb'"path":\1,"sha256":"="', plain)


def encode_patch(packed: bytes, skeleton_size: int, hashes: bytes) -> bytes:
    """The patch: magic, sizes, the packed skeleton, the packed hashes."""
    out = bytearray(PATCH_MAGIC)
    put(out, skeleton_size)
    put(out, len(packed))
    return bytes(out) + packed + hashes


def decode_patch(patch: bytes) -> tuple[bytes, int, bytes]:
    """The packed skeleton, its size unpacked, and the packed hashes. Raises `FormatError`."""
    if patch[: len(PATCH_MAGIC)] != PATCH_MAGIC:
        raise FormatError("it does not begin like one, or is of a newer format")
    cursor = Cursor(patch, len(PATCH_MAGIC))
    size = cursor.take()
    packed = cursor.bytes(cursor.take(at_most=len(patch)))
    return packed, size, patch[cursor.at :]


def marked(old_plain: bytes, new_plain: bytes) -> tuple[bytes, bytes]:
    """The skeleton of `new_plain` with its marks, and the hashes to send."""
    by_path, listed = _known(old_plain)
    numbers = {value: number for number, value in enumerate(listed)}
    fresh, elsewhere = bytearray(), bytearray()
    following = 0

    def mark(found: re.Match[bytes]) -> bytes:
        nonlocal following
        path, value = found.groups()
        if by_path.get(path) == value:
            how = SAME
        elif value in numbers:
            how = OTHER
            put_signed(elsewhere, numbers[value] - following)
            following = numbers[value] + 1
        else:
            how = NEW
            fresh.extend(bytes.fromhex(value.decode()))
        return b'"path":' + path + b',"sha256":"' + how + b'"'

    text = _HASHED.sub(mark, new_plain)
    return text, bytes(fresh + elsewhere)


def fill(new_skeleton: bytes, old_plain: bytes, hashes: bytes, size: int) -> bytes:
    """The plain manifest: the marked skeleton with its hashes. Raises `FormatError`; never more than `size` bytes."""
    by_path, listed = _known(old_plain)
    marks = [found.group(2) for found in _MARKED.finditer(new_skeleton)]
    if len(new_skeleton) + 63 * len(marks) > size:
        raise FormatError("it makes more than the manifest's bytes")
    fresh = marks.count(NEW)
    if 32 * fresh > len(hashes):
        raise FormatError("it lacks hashes")
    news = (hashes[at : at + 32].hex().encode() for at in range(0, 32 * fresh, 32))
    numbers = _numbers(Cursor(hashes, 32 * fresh), marks.count(OTHER), len(listed))

    def put_back(found: re.Match[bytes]) -> bytes:
        path, mark = found.groups()
        if mark == SAME:
            value = by_path.get(path)
            if value is None:
                raise FormatError("it takes a hash from a path that is not in the old manifest")
        else:
            value = next(news) if mark == NEW else listed[next(numbers)]
        return b'"path":' + path + b',"sha256":"' + value + b'"'

    return _MARKED.sub(put_back, new_skeleton)


def _known(plain: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    by_path = {found.group(1): found.group(2) for found in _HASHED.finditer(plain)}
    return by_path, list(dict.fromkeys(by_path.values()))


def _numbers(cursor: Cursor, count: int, limit: int) -> Iterator[int]:
    following = 0
    for _ in range(count):
        number = following + cursor.take_signed()
        if not 0 <= number < limit:
            raise FormatError("it takes a hash that is not in the old manifest")
        following = number + 1
        yield number
