"""The version manager: SemVer 2.0.0 versions, their order and what a step between two of them promises.

Ranges such as `^1.2` are in `schemas.ranges`, the choice of versions for packages that require each other
in `schemas.resolution`. Everything here is pure and cheap to import, because the agent uses it too.
"""

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final

from semver import Version

from schemas.errors import PublisherError, one_line

__all__ = [
    "MAX_VERSION_CHARS",
    "Compatibility",
    "PrecedenceKey",
    "Version",
    "VersionLike",
    "bump",
    "compare",
    "compatibility",
    "parse",
    "precedence_key",
]

MAX_VERSION_CHARS: Final = 256
"""Longest version that is read, in characters: node-semver's limit, so that both accept the same."""

VersionLike = Version | str
"""A parsed version, or a text that is parsed first."""

PrecedenceKey = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]
"""What `precedence_key` gives: tuples that Python orders as SemVer orders versions."""

_PART_NAMES: Final = ("major", "minor", "patch")
_BUMPS: Final = (*_PART_NAMES, "prerelease")
_LEADING_ZERO: Final = re.compile(r"(?:^|\.)0\d+(?=\.|$)")


def parse(text: str) -> Version:
    """Read a version, strictly as SemVer 2.0.0 writes it: no `v`, no blanks, all three numbers.

    Args:
        text: for example `1.4.0`, `2.0.0-rc.1` or `1.0.0+build.7`; at most `MAX_VERSION_CHARS` characters.

    Raises:
        PublisherError: `version.bad`, with one line that says what to write instead.
    """
    if len(text) > MAX_VERSION_CHARS:
        raise PublisherError(
            "version.bad", f"a version of {len(text)} characters is too long: at most {MAX_VERSION_CHARS}"
        )
    # Before 3.1 the library let a last newline and digits of other scripts pass.
    if text.isascii() and not text.endswith("\n"):
        try:
            return _parsed(text)
        except ValueError as error:
            raise PublisherError("version.bad", _what_is_wrong(text)) from error
    raise PublisherError("version.bad", _what_is_wrong(text))


@lru_cache(maxsize=256)
def _parsed(text: str) -> Version:
    # the same few are asked about again and again, and a version never changes
    return Version.parse(text)


def precedence_key(version: VersionLike) -> PrecedenceKey:
    """The sort key of SemVer 2.0.0 item 11: equal keys mean equal precedence; build metadata plays no part.

    Raises:
        PublisherError: `version.bad`, for a text that is not a version.
    """
    v = _version(version)
    if v.prerelease is None:
        return (v.major, v.minor, v.patch, True, ())
    # Numeric identifiers come before alphanumeric ones and count as numbers, the others by ASCII order.
    identifiers = tuple(
        (False, int(identifier), "") if identifier.isdigit() else (True, 0, identifier)
        for identifier in v.prerelease.split(".")
    )
    return (v.major, v.minor, v.patch, False, identifiers)


def compare(a: VersionLike, b: VersionLike) -> int:
    """-1, 0 or 1, as `a` precedes, equals or follows `b` (SemVer 2.0.0 item 11).

    Raises:
        PublisherError: `version.bad`, for a text that is not a version.
    """
    left, right = precedence_key(a), precedence_key(b)
    return (left > right) - (left < right)


def bump(version: VersionLike, part: str, *, label: str = "rc") -> Version:
    """The next version; it always follows `version`, and its build metadata is left out.

    - `major`, `minor`, `patch`: the part grows by one and the parts after it become 0. A pre-release of
      such a version becomes that version: `2.0.0-rc.1` by any of the three gives `2.0.0`.
    - `prerelease`: `1.2.3` gives `1.2.4-rc.1`; a pre-release's last numeric identifier grows by one
      (`1.2.4-rc.1` gives `1.2.4-rc.2`); where there is none, `.1` is appended.

    Args:
        version: the version to start from.
        part: `major`, `minor`, `patch` or `prerelease`.
        label: what a new pre-release is called.

    Raises:
        PublisherError: `version.bad`, for a bad version or label, an unknown part, or a result that is
            longer than `MAX_VERSION_CHARS`.
    """
    v = _version(version)
    if part not in _BUMPS:
        raise PublisherError("version.bad", f"cannot bump {one_line(part, 40)!r}: say {', '.join(_BUMPS)}")
    if part == "prerelease":
        if v.prerelease is None:
            return parse(f"{v.major}.{v.minor}.{v.patch + 1}-{label}.1")
        return parse(f"{v.major}.{v.minor}.{v.patch}-{_next_identifiers(v.prerelease)}")
    numbers = [v.major, v.minor, v.patch]
    index = _PART_NAMES.index(part)
    if v.prerelease is None or any(numbers[index + 1 :]):
        numbers[index] += 1
    numbers[index + 1 :] = [0] * (2 - index)
    return parse(".".join(map(str, numbers)))


class Compatibility(StrEnum):
    """What a step from one version to another promises; see `compatibility`."""

    IDENTICAL = "identical"
    PATCH = "patch"
    MINOR = "minor"
    MAJOR = "major"
    PRERELEASE = "prerelease"
    DOWNGRADE = "downgrade"


def compatibility(old: VersionLike, new: VersionLike) -> Compatibility:
    """How far `new` is from `old`, in the words of the promise that SemVer makes. The first that holds:

    1. Same precedence: `IDENTICAL`. Build metadata is ignored, so `1.0.0+a` and `1.0.0+b` are identical;
       whoever must tell them apart compares the texts.
    2. `new` precedes `old`: `DOWNGRADE`, whatever else.
    3. `new` is a pre-release: `PRERELEASE`, because it promises nothing (item 9).
    4. The leftmost number that differs names the level: `MAJOR`, `MINOR` or `PATCH`. A pre-release `old`
       counts as what comes before its own release, so the step to that release counts as well:
       `2.0.0-rc.1` to `2.0.0` or to `2.1.0` is `MAJOR`, `1.2.4-rc.1` to `1.2.4` is `PATCH`.
    5. Below 1.0.0 anything may change (item 4). As in caret ranges the leftmost number that is not zero
       takes the place of the major one: `0.1.2` to `0.2.0` is `MAJOR`, `0.1.2` to `0.1.3` is `PATCH`,
       `0.0.1` to `0.0.2` is `MAJOR`.

    Hence, between releases, `PATCH`, `MINOR` and `IDENTICAL` together are what `^old` contains.

    Raises:
        PublisherError: `version.bad`, for a text that is not a version.
    """
    before, after = _version(old), _version(new)
    order = compare(before, after)
    if order == 0:
        return Compatibility.IDENTICAL
    if order > 0:
        return Compatibility.DOWNGRADE
    if after.prerelease is not None:
        return Compatibility.PRERELEASE
    left, right = (before.major, before.minor, before.patch), (after.major, after.minor, after.patch)
    changed = next((i for i in range(3) if left[i] != right[i]), 2)
    if before.prerelease is not None:
        changed = min(changed, next((i for i in (2, 1) if left[i] != 0), 0))
    # Of two versions that share all numbers before `changed`, zeros there mean that nothing was promised.
    if not any(right[:changed]):
        return Compatibility.MAJOR
    return (Compatibility.MAJOR, Compatibility.MINOR, Compatibility.PATCH)[changed]


def _version(version: VersionLike) -> Version:
    return parse(version) if isinstance(version, str) else version


def _next_identifiers(prerelease: str) -> str:
    identifiers = prerelease.split(".")
    for index in reversed(range(len(identifiers))):
        if identifiers[index].isdigit():
            identifiers[index] = str(int(identifiers[index]) + 1)
            return ".".join(identifiers)
    return f"{prerelease}.1"


def _what_is_wrong(text: str) -> str:
    """One line on a text that is not a version; the hint is for what people write most often."""
    core, _, _ = text.partition("+")
    numbers = core.partition("-")[0].split(".")
    if text != text.strip():
        hint = "leave out the blanks around it"
    elif text[:1] in {"v", "V", "="}:
        hint = f"leave out the leading {text[0]!r}"
    elif len(numbers) < 3 and all(n.isascii() and n.isdigit() for n in numbers):
        hint = "write all three numbers, as in 1.4.0"
    elif _LEADING_ZERO.search(core.replace("-", ".", 1)):
        hint = "numbers must not begin with 0"
    else:
        hint = "write MAJOR.MINOR.PATCH, as in 1.4.0 or 1.4.0-rc.1"
    return f"{one_line(text, 60)!r} is not a SemVer 2.0.0 version: {hint}"
