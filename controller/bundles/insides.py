"""Chooses the contents that are taken apart: those whose inside spares most bytes for what it costs a device.

Deflating again is the slowest of all that a device does with a bundle, so what gains little by it is left as it is:
most gzip files of a release differ from those of the last in a date alone. And it may take no more of a device's time
than the rest of the bundle leaves of what unpacking the whole release would take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controller.bundles.deflated import GZIP, ZIP, Apart, Prover, take_apart
from controller.bundles.grouping import PREFIX_SPAN
from controller.bundles.packing import pack_zstd
from schemas.bundle_format import Piece, Section
from schemas.bundles import INFLATED_FREE, MAX_ALL_SECTIONS, MAX_GNU_SECTIONS, MAX_INFLATED, Content
from schemas.manifest import Manifest, total_size

_QUICK_LEVEL: Final = 6
"""Of zstd, to guess what a content costs in either way."""
_LEAST_SPARED: Final = 96
_MOST_LEFT: Final = 0.8
"""What the inside may cost at most, as a part of what the content costs as it is."""


# What things take on one core of the machine that they were measured on. Other machines are slower in all of them.
START_S: Final = 0.01
"""Starting to unpack an archive."""
UNPACK_FILE_S: Final = 70e-6
UNPACK_BYTE_S: Final = 8e-9
MAKE_CONTENT_S: Final = 150e-6
MAKE_BYTE_S: Final = 10e-9
"""Making a content from a bundle: its file, and each of its bytes."""
CHECK_S: Final = 0.02
"""Making sure that it deflates as the maker did."""
DEFLATE_BYTE_S: Final = 20e-9
"""Inflating the old and deflating the new, in two lanes."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A content and its source, as they are taken apart.

    Attributes:
        new, old: as the index names them.
        new_size, old_size: bytes that a group sees of them.
    """

    new: Piece
    old: Piece
    new_size: int
    old_size: int


def time_to_spend(needed: Sequence[Content], new: Manifest) -> float:
    """Seconds for which a device may deflate, so that a bundle takes it no longer than unpacking the whole release."""
    whole = START_S + len(new.files) * UNPACK_FILE_S + total_size(new) * UNPACK_BYTE_S
    made = len(needed) * MAKE_CONTENT_S + sum(size for _, size in needed) * MAKE_BYTE_S
    return whole - made - CHECK_S


def choose_insides(
    needed: Sequence[Content],
    sources: Sequence[Content],
    origin: Mapping[int, int],
    read: Callable[[str], bytes],
    seconds: float,
) -> list[Inside]:
    """The best of what can be taken apart, within what a reader of bundles does and what a device has time for.

    Args:
        needed, sources: the lists of contents.
        origin: position of a needed content to that of the old content it is made from.
        read: gives a content by its sha256.
        seconds: how long a device may deflate.
    """
    found: list[_Candidate] = []
    for position, source in origin.items():
        (sha256, size), (old_sha256, old_size) = needed[position], sources[source]
        if size + old_size > PREFIX_SPAN or size < _LEAST_SPARED:
            continue
        new = read(sha256)
        if new.startswith((GZIP, ZIP)):
            one = _candidate(position, new, source, read(old_sha256))
            if one is not None:
                found.append(one)
    found.sort(key=lambda one: one.spared / one.plain, reverse=True)
    limits = _Limits(plain=MAX_INFLATED * sum(size for _, size in needed) + INFLATED_FREE, seconds=seconds)
    prover = Prover()
    return [inside for one in found if limits.allow(one) and (inside := _proven(one, needed, sources, read, prover))]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A content that would spare bytes if it could be put back; `plain` is the bytes of its streams."""

    position: int
    source: int
    as_it_is: int
    spared: int
    plain: int
    new_sections: int
    old_sections: int


def _candidate(position: int, new: bytes, source: int, old: bytes) -> _Candidate | None:
    as_it_is = len(pack_zstd(new, prefix=old, level=_QUICK_LEVEL))
    if as_it_is < _LEAST_SPARED:
        return None
    before, after = take_apart(old), take_apart(new)
    if before is None or after is None or len(before.inner) + len(after.inner) > PREFIX_SPAN:
        return None
    spared = as_it_is - _guess(before, after)
    if not _is_worth_it(spared, as_it_is):
        return None
    return _Candidate(
        position=position,
        source=source,
        as_it_is=as_it_is,
        spared=spared,
        plain=sum(section.plain for section in after.sections) or 1,
        new_sections=len(after.sections),
        old_sections=len(before.sections),
    )


def _is_worth_it(spared: int, as_it_is: int) -> bool:
    return spared >= _LEAST_SPARED and spared >= as_it_is * (1 - _MOST_LEFT)


def _proven(
    one: _Candidate,
    needed: Sequence[Content],
    sources: Sequence[Content],
    read: Callable[[str], bytes],
    prover: Prover,
) -> Inside | None:
    new = read(needed[one.position][0])
    before, after = take_apart(read(sources[one.source][0])), take_apart(new)
    proven = prover.prove(new, after) if after is not None else None
    if before is None or after is None or proven is None:
        return None
    if len(proven.sections) < len(after.sections) and not _is_worth_it(
        one.as_it_is - _guess(before, proven), one.as_it_is
    ):
        return None
    return Inside(
        new=Piece(position=one.position, sections=proven.sections, tail=proven.tail),
        old=Piece(position=one.source, sections=tuple(Section(s.literal) for s in before.sections)),
        new_size=len(proven.inner),
        old_size=len(before.inner),
    )


def _guess(old: Apart, new: Apart) -> int:
    return len(pack_zstd(new.inner, prefix=old.inner, level=_QUICK_LEVEL))


class _Limits:
    """What is left of what all contents together may take; what cannot be proven in the end counts too."""

    def __init__(self, *, plain: int, seconds: float) -> None:
        self._plain = min(plain, max(0, int(seconds / DEFLATE_BYTE_S)))
        self._new_sections = self._old_sections = MAX_ALL_SECTIONS
        self._by_gnu = MAX_GNU_SECTIONS

    def allow(self, one: _Candidate) -> bool:
        """Whether there is room for it, which is then taken."""
        # which streams GNU gzip made is not known yet: it makes files of one stream
        by_gnu = one.new_sections == 1
        if (
            one.plain > self._plain
            or one.new_sections > self._new_sections
            or one.old_sections > self._old_sections
            or by_gnu > self._by_gnu
        ):
            return False
        self._plain -= one.plain
        self._new_sections -= one.new_sections
        self._old_sections -= one.old_sections
        self._by_gnu -= by_gnu
        return True
