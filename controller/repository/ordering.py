"""Versions as bytes that sort as SemVer orders them, so that a database can sort and page by them."""

import re
from typing import Final, NamedTuple

from schemas.ranges import Range
from schemas.versions import Version, VersionLike, precedence_key

_COMPARATOR: Final = re.compile(r"([<>]?=?)(.+)")
_TURNED_ROUND: Final = bytes(255 - byte for byte in range(256))
_RELEASE: Final = b"~"
_LEAST: Final = b""
_BEHIND_ALL: Final = b"\xff"
"""A key begins with a digit, which turned round is less."""


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
        return key.encode() + _RELEASE
    words = (f"1{text}" if is_text else f"0{_number(number)}" for is_text, number, text in identifiers)
    return (key + " ".join(words)).encode()


def newest_first(key: bytes) -> bytes:
    """A key that sorts the other way round: the newest version has the least.

    Turned round byte by byte, with an end above everything that another key may go on with.
    """
    return key.translate(_TURNED_ROUND) + b"\xff"


def is_prerelease(key: bytes) -> bool:
    """Whether the version of this `version_key` is a pre-release."""
    return not key.endswith(_RELEASE)


Span = tuple[bytes, bytes]
"""What lies from the first key on and before the second, both turned round as `newest_first` does."""


class Spans(NamedTuple):
    """A range as a database can compare it, without parsing a version. The spans of each kind do not touch.

    Attributes:
        releases: where the range's releases lie; pre-releases between them are not in it.
        prereleases: where its pre-releases lie, each within those of one version.
    """

    releases: tuple[Span, ...]
    prereleases: tuple[Span, ...]


def spans_of(versions: Range) -> Spans:
    """The spans that hold exactly the versions which `Range.contains` finds in the range.

    By node-semver's rule a pre-release is in only where an alternative names a pre-release of the same three numbers.
    """
    releases: list[Span] = []
    prereleases: list[Span] = []
    for alternative in versions.comparators.split("||"):
        least, behind = _LEAST, _BEHIND_ALL
        named: set[Span] = set()
        for word in alternative.split():
            match = _COMPARATOR.fullmatch(word)
            if word == "*" or match is None:
                continue
            operator, text = match.groups()
            version = Version.parse(text)
            key = newest_first(version_key(version))
            # newer versions have lesser keys; with a zero behind it a key is the first after itself
            if operator in ("", ">="):
                behind = min(behind, key + b"\0")
            if operator == ">":
                behind = min(behind, key)
            if operator in ("", "<="):
                least = max(least, key)
            if operator == "<":
                least = max(least, key + b"\0")
            if version.prerelease is not None:
                named.add(_prereleases_of(version))
        releases.append((least, behind))
        prereleases += [(max(least, first), min(behind, last)) for first, last in named]
    return Spans(_joined(releases), _joined(prereleases))


def _prereleases_of(version: Version) -> Span:
    """Up to the first of them, which is -0: so nothing is left below a bound such as `<2.0.0-0`."""
    release = version.finalize_version()
    first = version_key(release.replace(prerelease="0"))
    return version_key(release)[:-1].translate(_TURNED_ROUND), newest_first(first) + b"\0"


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    joined: list[Span] = []
    for least, behind in sorted(span for span in spans if span[0] < span[1]):
        if joined and least <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], behind))
        else:
            joined.append((least, behind))
    return tuple(joined)


def _number(value: int) -> str:
    digits = str(value)
    return f"{len(digits):03d}{digits}"
