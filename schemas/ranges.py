"""Version ranges with node-semver's meaning: `^1.2`, `~1.4.2`, `>=1 <3`, `1.x`, `1.2 - 2.3.4`, `1 || 2`.

A range is alternatives joined by `||`; an alternative is comparators that must all hold; everything else
(caret, tilde, x-range, hyphen range) is short for comparators. The rules are those of node-semver 7;
`docs/decisions/0003-version-ranges.md` says how they were checked and lists what differs on purpose.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from schemas.errors import PublisherError, one_line
from schemas.versions import PrecedenceKey, Version, VersionLike, parse, precedence_key

__all__ = ["MAX_ALTERNATIVES", "MAX_RANGE_CHARS", "Range", "newest"]

MAX_RANGE_CHARS: Final = 512
"""Longest range that is read, in characters."""

MAX_ALTERNATIVES: Final = 32
"""Most alternatives (what `||` separates) that one range may have."""

_NUMBER: Final = r"0|[1-9][0-9]*|[xX*]"
_IDENTIFIER: Final = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PRERELEASE: Final = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_PARTIAL: Final = rf"({_NUMBER})(?:\.({_NUMBER})(?:\.({_NUMBER})(?:-({_PRERELEASE}))?)?)?"
_TERM: Final = re.compile(rf"(~>?|\^|[<>]=?|=|)([v=]*){_PARTIAL}")
_HYPHEN_RANGE: Final = re.compile(rf"([v= ]*){_PARTIAL} - ([v= ]*){_PARTIAL}")
_BUILD: Final = re.compile(r"(?<=[0-9A-Za-z*-])\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*")
_BLANKS: Final = re.compile(r"[ \t\n\v\f\r]+")
_BLANK_AFTER_OPERATOR: Final = re.compile(r"(?<![v=])(?<![<>] )([<>]=?|=) (?=[v=]*[0-9xX*])")
_BLANK_AFTER_TILDE: Final = re.compile(r"~>? ")
_LEADING_ZERO: Final = re.compile(r"(?:^|[^0-9A-Za-z-])0[0-9]")


class Range:
    """A set of versions, read once from its text. Ranges that stand for the same comparators are equal.

    Args:
        text: the range as people write it; empty and `*` mean any. At most `MAX_RANGE_CHARS` characters
            and `MAX_ALTERNATIVES` alternatives.

    Raises:
        PublisherError: `version.range`, with one line that says which part cannot be read.
    """

    __slots__ = ("_inclusive", "_plain", "_text")

    def __init__(self, text: str) -> None:
        if len(text) > MAX_RANGE_CHARS:
            raise PublisherError(
                "version.range",
                f"a version range of {len(text)} characters is too long: at most {MAX_RANGE_CHARS}",
            )
        self._text = _BLANKS.sub(" ", text).strip(" ")
        parts = self._text.split("||")
        if len(parts) > MAX_ALTERNATIVES:
            raise PublisherError(
                "version.range",
                f"a version range of {len(parts)} alternatives is too long: at most {MAX_ALTERNATIVES}",
            )
        # What the short forms stand for depends on whether pre-releases are let in, hence both.
        try:
            self._plain = _union([_read(part, lowest=None) for part in parts])
            self._inclusive = _union([_read(part, lowest="0") for part in parts])
        except _UnreadableError as error:
            raise PublisherError(
                "version.range", f"{one_line(self._text, 120)!r} is not a version range: {error}"
            ) from error

    def contains(self, version: VersionLike, include_prerelease: bool = False) -> bool:
        """Whether `version` is in the range.

        A pre-release is in only if an alternative that it satisfies names a pre-release of the same
        major, minor and patch: `>=1.2.3-rc.1` contains `1.2.3-rc.2` and not `1.2.4-rc.1`. With
        `include_prerelease` pre-releases are versions like any others. Build metadata is ignored.

        Raises:
            PublisherError: `version.bad`, for a text that is not a version.
        """
        key = precedence_key(version)
        alternatives = self._inclusive if include_prerelease else self._plain
        is_release = key[3]
        return any(
            all(c.holds(key) for c in alternative)
            and (is_release or include_prerelease or _names_prerelease_of(key, alternative))
            for alternative in alternatives
        )

    @property
    def comparators(self) -> str:
        """The range written out, as in `>=1.2.0 <2.0.0-0||>=3.0.0`; any version is `*`."""
        return "||".join(" ".join(map(str, alternative)) or "*" for alternative in self._plain)

    def __str__(self) -> str:
        """The text it was read from, each run of blanks as one."""
        return self._text

    def __repr__(self) -> str:
        return f"Range({self._text!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Range):
            return NotImplemented
        return (self._plain, self._inclusive) == (other._plain, other._inclusive)

    def __hash__(self) -> int:
        return hash((self._plain, self._inclusive))


def newest(versions: Iterable[VersionLike], within: Range, include_prerelease: bool = False) -> Version | None:
    """The newest of `versions` that `within` contains, or None.

    Of several that differ in build metadata only, the one whose metadata sorts last as text: SemVer does
    not order them, but the answer must not depend on the order of the input.

    Raises:
        PublisherError: `version.bad`, for a text that is not a version.
    """
    parsed = (parse(v) if isinstance(v, str) else v for v in versions)
    contained = (v for v in parsed if within.contains(v, include_prerelease))
    return max(contained, key=lambda v: (precedence_key(v), v.build or ""), default=None)


class _UnreadableError(Exception):
    """A part of a range that cannot be read; the message says which and why."""


class _Comparator(NamedTuple):
    operator: str  # < <= > >= =
    key: PrecedenceKey

    def holds(self, key: PrecedenceKey) -> bool:
        match self.operator:
            case "<":
                return key < self.key
            case "<=":
                return key <= self.key
            case ">":
                return key > self.key
            case ">=":
                return key >= self.key
            case _:
                return key == self.key

    def __str__(self) -> str:
        major, minor, patch, is_release, identifiers = self.key
        tail = "" if is_release else "-" + ".".join(text or str(number) for _, number, text in identifiers)
        return f"{self.operator.removeprefix('=')}{major}.{minor}.{patch}{tail}"


_Alternative = tuple[_Comparator, ...]  # none at all: any version


class _Partial(NamedTuple):
    """A version whose last numbers may be left open, as in `1`, `1.x` and `1.2.*`."""

    numbers: tuple[int, ...]  # those before the first open one
    prerelease: str | None  # None unless all three numbers are there
    prefix: str  # what stood before it, of `v` and `=`
    closed_again: bool  # a number follows an open one, as in 1.x.3

    @classmethod
    def of(cls, prefix: str, *parts: str | None) -> Self:
        """Args: the groups of `_PARTIAL`, with the prefix before them."""
        numbers = [None if part is None or part in "xX*" else int(part) for part in parts[:3]]
        count = numbers.index(None) if None in numbers else 3
        return cls(
            numbers=tuple(n for n in numbers[:count] if n is not None),
            prerelease=parts[3] if count == 3 else None,
            prefix=prefix.lstrip(" "),
            closed_again=any(n is not None for n in numbers[count:]),
        )

    @property
    def is_full(self) -> bool:
        return len(self.numbers) == 3

    @property
    def is_any(self) -> bool:
        return not self.numbers

    def compared(self, operator: str, prerelease: str | None) -> _Comparator:
        """The comparator with this version, zeros for open numbers."""
        return _comparator(operator, self.numbers, prerelease)

    def next(self, operator: str, index: int, prerelease: str | None) -> _Comparator:
        """The comparator with the first version after all that share the numbers up to `index`."""
        return _comparator(operator, (*self.numbers[:index], self.numbers[index] + 1), prerelease)


def _comparator(operator: str, numbers: tuple[int, ...], prerelease: str | None) -> _Comparator:
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return _Comparator(operator, precedence_key(Version(major, minor, patch, prerelease)))


_NONE: Final = _comparator("<", (), "0")  # nothing comes before 0.0.0-0


def _read(text: str, *, lowest: str | None) -> _Alternative:
    """The comparators that one alternative stands for.

    Args:
        text: what stands between two `||`.
        lowest: the pre-release that made-up lower bounds carry: `0`, the first of all, when pre-releases
            are let in, so that they lie inside; otherwise None.
    """
    text = _BUILD.sub("", text.strip(" "))
    if hyphen := _HYPHEN_RANGE.fullmatch(text):
        groups = hyphen.groups()
        bounds = _read_hyphen_range(_Partial.of(*groups[:5]), _Partial.of(*groups[5:]), lowest)
    else:
        text = _BLANK_AFTER_OPERATOR.sub(r"\1", text)
        text = _BLANK_AFTER_TILDE.sub("~", text).replace("^ ", "^")
        bounds = [bound for term in text.split(" ") if term for bound in _read_term(term, lowest)]
    if _NONE in bounds:
        return (_NONE,)
    # `>=0.0.0` is node-semver's any; it counts when an alternative also names a pre-release of 0.0.0.
    everything = _comparator(">=", (), lowest)
    return tuple(dict.fromkeys(bound for bound in bounds if bound != everything))


def _read_hyphen_range(low: _Partial, high: _Partial, lowest: str | None) -> list[_Comparator]:
    bounds = []
    if low.is_full:
        _refuse_prefix(low)
    if not low.is_any:
        bounds.append(low.compared(">=", low.prerelease or lowest))
    if high.is_full:
        if high.prerelease is None:
            _refuse_prefix(high)
        bounds.append(high.compared("<=", high.prerelease))
    elif not high.is_any:
        bounds.append(high.next("<", len(high.numbers) - 1, "0"))
    return bounds


def _read_term(term: str, lowest: str | None) -> list[_Comparator]:
    """The comparators of one word: a comparator, a caret or tilde range, an x-range or a version."""
    match = _TERM.fullmatch(term)
    if match is None:
        raise _UnreadableError(_what_is_wrong(term))
    operator, *groups = match.groups()
    version = _Partial.of(*groups)
    if operator == "^" or operator.startswith("~"):
        if version.is_any:
            return []
        kept = _kept_by_caret(version) if operator == "^" else min(1, len(version.numbers) - 1)
        prerelease = version.prerelease if version.is_full else lowest
        return [version.compared(">=", prerelease), version.next("<", kept, "0")]
    if version.closed_again:
        raise _UnreadableError(f"{term!r} has a number after an open one")
    if version.is_full:
        _refuse_prefix(version)
        return [version.compared(operator or "=", version.prerelease)]
    return _read_x_range(operator or "=", version, lowest)


def _read_x_range(operator: str, version: _Partial, lowest: str | None) -> list[_Comparator]:
    if version.is_any:
        return [_NONE] if operator in {"<", ">"} else []
    last = len(version.numbers) - 1
    match operator:
        case "<":
            return [version.compared("<", "0")]
        case "<=":
            return [version.next("<", last, "0")]
        case ">":
            return [version.next(">=", last, lowest)]
        case ">=":
            return [version.compared(">=", lowest)]
        case _:
            return [version.compared(">=", lowest), version.next("<", last, "0")]


def _kept_by_caret(version: _Partial) -> int:
    """Index of the last number that a caret range keeps: the leftmost not zero, or the last there is."""
    return next((i for i, n in enumerate(version.numbers) if n), len(version.numbers) - 1)


def _refuse_prefix(version: _Partial) -> None:
    if version.prefix not in {"", "v"}:
        number = ".".join(map(str, version.numbers))
        raise _UnreadableError(f"{version.prefix!r} before {number} is not an operator; one = is enough")


def _union(alternatives: list[_Alternative]) -> tuple[_Alternative, ...]:
    """All alternatives, without those that nothing satisfies; one that is any stands for all of them."""
    if () in alternatives:
        return ((),)
    return tuple(a for a in alternatives if a != (_NONE,)) or (alternatives[0],)


def _names_prerelease_of(key: PrecedenceKey, alternative: _Alternative) -> bool:
    return any(not c.key[3] and c.key[:3] == key[:3] for c in alternative)


def _what_is_wrong(term: str) -> str:
    """One line on a word that cannot be read; the hints are for what people write most often."""
    hints = (
        (not term.isascii(), "a character that is not ASCII"),
        ("," in term, "a comma; write a blank between comparators, as in >=1 <3"),
        ("|" in term, "a single |; alternatives are joined by ||"),
        (term.startswith("!"), "a 'not', which ranges do not know; write <1.2.3 || >1.2.3 instead"),
        (term == "-", "a hyphen that is not between two versions and nothing else, as in 1.2 - 2.3.4"),
        (not term.strip("<>=~^v"), "no version"),
        (_LEADING_ZERO.search(term), "a number that begins with 0"),
    )
    hint = next((hint for applies, hint in hints if applies), None)
    shown = repr(one_line(term, 60))
    return f"{shown} has {hint}" if hint else f"{shown} is not a comparator such as ^1.2, >=1.0.0 or 1.x"
