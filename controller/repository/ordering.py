"""Versions as bytes that sort as SemVer orders them, so that a database can sort and page by them."""

import re
from typing import Final

from schemas.ranges import Range
from schemas.versions import VersionLike, precedence_key

_COMPARATOR: Final = re.compile(r"([<>]?=?)(.+)")
_TURNED_ROUND: Final = bytes(255 - byte for byte in range(256))


def version_key(version: VersionLike) -> bytes:
    """The key of a version: `version_key(a) < version_key(b)` exactly when `a` precedes `b`.

    Numbers carry their length in front, three digits, as none is longer than a version may be. A
    release ends in `~`, above everything that a pre-release can hold; identifiers are separated by a blank,
    below everything that one can hold, so that fewer of them come first.

    Raises:
        PublisherError: `version.bad`.
    """
    major, minor, patch, is_release, identifiers = precedence_key(version)
    key = _number(major) + _number(minor) + _number(patch)
    if is_release:
        return f"{key}~".encode()
    words = (f"1{text}" if is_text else f"0{_number(number)}" for is_text, number, text in identifiers)
    return (key + " ".join(words)).encode()


def newest_first(key: bytes) -> bytes:
    """A key that sorts the other way round: the newest version has the least.

    Turned round byte by byte, with an end above everything that another key may go on with.
    """
    return key.translate(_TURNED_ROUND) + b"\xff"


def key_bounds(versions: Range) -> tuple[bytes | None, bytes | None]:
    """The least and the greatest key that a version in the range can have; None where there is no such bound.

    What lies between need not be in the range: this spares reading what cannot be.
    """
    lows: list[bytes | None] = []
    highs: list[bytes | None] = []
    for alternative in versions.comparators.split("||"):
        low: bytes | None = None
        high: bytes | None = None
        for word in alternative.split():
            match = _COMPARATOR.fullmatch(word)
            if word == "*" or match is None:
                continue
            operator, version = match.groups()
            key = version_key(version)
            if operator in ("", "=", ">", ">="):
                low = key if low is None else max(low, key)
            if operator in ("", "=", "<", "<="):
                high = key if high is None else min(high, key)
        lows.append(low)
        highs.append(high)
    low_keys, high_keys = [k for k in lows if k is not None], [k for k in highs if k is not None]
    least = min(low_keys) if len(low_keys) == len(lows) else None
    greatest = max(high_keys) if len(high_keys) == len(highs) else None
    return least, greatest


def _number(value: int) -> str:
    digits = str(value)
    return f"{len(digits):03d}{digits}"
