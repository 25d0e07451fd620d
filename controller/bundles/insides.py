"""Chooses the contents that are taken apart: those whose inside spares most bytes for what it costs a device.

Deflating again is the slowest of all that a device does with a bundle, so what gains little by it is left as it is:
most gzip files of a release differ from those of the last in a date alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from controller.bundles.deflated import GZIP, ZIP, Apart, Prover, take_apart
from controller.bundles.grouping import PREFIX_SPAN
from controller.bundles.packing import pack_zstd
from schemas.bundle_format import Piece, Section
from schemas.bundles import INFLATED_FREE, MAX_ALL_SECTIONS, MAX_GNU_SECTIONS, MAX_INFLATED, Content
from schemas.deflate import GNU_GZIP

_QUICK_LEVEL: Final = 6
"""Of zstd, to guess what a content costs in either way."""
_LEAST_SPARED: Final = 96
_MOST_LEFT: Final = 0.8
"""What the inside may cost at most, as a part of what the content costs as it is."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A content and its source, as they are taken apart.

    Attributes:
        new, old: as the index names them.
        new_size, old_size: bytes that a group sees of them.
        plain: bytes to be deflated.
        spared: about how many bytes smaller the bundle is for it.
    """

    new: Piece
    old: Piece
    new_size: int
    old_size: int
    plain: int
    spared: int

    @property
    def by_gnu(self) -> int:
        """Streams that are deflated by GNU gzip."""
        return sum(section.setting >= GNU_GZIP for section in self.new.sections)


def choose_insides(
    needed: list[Content], sources: list[Content], origin: Mapping[int, int], read: Callable[[str], bytes]
) -> list[Inside]:
    """The best of what can be taken apart, within what a reader of bundles does.

    Args:
        needed, sources: the lists of contents.
        origin: position of a needed content to that of the old content it is made from.
        read: gives a content by its sha256.
    """
    prover = Prover()
    found: list[Inside] = []
    for position, source in origin.items():
        (sha256, size), (old_sha256, old_size) = needed[position], sources[source]
        if size + old_size > PREFIX_SPAN or size < _LEAST_SPARED:
            continue
        new = read(sha256)
        if not new.startswith((GZIP, ZIP)):
            continue
        one = _inside(position, new, source, read(old_sha256), prover)
        if one is not None:
            found.append(one)
    return list(_within_limits(found, sum(size for _, size in needed)))


def _inside(position: int, new: bytes, source: int, old: bytes, prover: Prover) -> Inside | None:
    as_it_is = len(pack_zstd(new, prefix=old, level=_QUICK_LEVEL))
    if as_it_is < _LEAST_SPARED:
        return None
    before, after = take_apart(old), take_apart(new)
    if before is None or after is None or len(before.inner) + len(after.inner) > PREFIX_SPAN:
        return None
    spared = as_it_is - _guess(before, after)
    if spared < _LEAST_SPARED or spared < as_it_is * (1 - _MOST_LEFT):
        return None
    proven = prover.prove(new, after)
    if proven is None:
        return None
    if len(proven.sections) < len(after.sections):
        spared = as_it_is - _guess(before, proven)
    return Inside(
        new=Piece(position=position, sections=proven.sections, tail=proven.tail),
        old=Piece(position=source, sections=tuple(Section(s.literal) for s in before.sections)),
        new_size=len(proven.inner),
        old_size=len(before.inner),
        plain=sum(section.plain for section in proven.sections),
        spared=spared,
    )


def _guess(old: Apart, new: Apart) -> int:
    return len(pack_zstd(new.inner, prefix=old.inner, level=_QUICK_LEVEL))


def _within_limits(found: Iterable[Inside], needed_bytes: int) -> Iterable[Inside]:
    plain = MAX_INFLATED * needed_bytes + INFLATED_FREE
    new_sections = old_sections = MAX_ALL_SECTIONS
    gnu = MAX_GNU_SECTIONS
    for one in sorted(found, key=lambda one: one.spared / (one.plain + 1), reverse=True):
        if one.spared < _LEAST_SPARED:
            continue
        if (
            one.plain <= plain
            and len(one.new.sections) <= new_sections
            and len(one.old.sections) <= old_sections
            and one.by_gnu <= gnu
        ):
            plain -= one.plain
            new_sections -= len(one.new.sections)
            old_sections -= len(one.old.sections)
            gnu -= one.by_gnu
            yield one
