"""Versions as bytes that sort as SemVer orders them, so that a database can sort and page by them."""

from schemas.versions import VersionLike, precedence_key


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


def _number(value: int) -> str:
    digits = str(value)
    return f"{len(digits):03d}{digits}"
