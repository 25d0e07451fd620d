"""Puts the contents of a step into groups of like ones, each with the old contents that it is made from."""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from schemas.bundles import MIB, Content

PREFIX_SPAN: Final = 16 * MIB
"""Most bytes of both sides of a group with a prefix. Readers allow more; this keeps a device's process below 96 MiB."""
DEFLATED_SPAN: Final = 4 * MIB
"""The same where contents are taken apart: while one group is deflated, a device inflates the next one's sources."""
DIFFERENCE_SPAN: Final = 40 * MIB
"""Most bytes of old, and of new contents of a difference: twenty times that is the memory for making it."""
PLAIN_SPAN: Final = 64 * MIB
_MAGIC_COMPILED: Final = (
    b"\x7fELF",
    b"!<arch>\n",
    b"MZ",
    b"\xcf\xfa\xed\xfe",
    b"\xce\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\0asm",
    b"\xd0\r\r\n",
)
_MAGIC_PACKED: Final = (
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"\x89PNG",
    b"\xff\xd8\xff",
)


class Kind(enum.Enum):
    """What a content is, as far as it matters for packing."""

    TEXT = "text"
    COMPILED = "compiled"
    PACKED = "packed"
    DEFLATED = "deflated"


class OldSize(Protocol):
    """Bytes of a source as a group sees it."""

    def __call__(self, position: int, /, *, apart: bool) -> int:
        """Of the source of this position, taken apart where it can be or as it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Contents to pack together.

    Attributes:
        kind: of the contents.
        sources: positions of old contents.
        targets: positions of new contents.
    """

    kind: Kind
    sources: tuple[int, ...]
    targets: tuple[int, ...]


def kind_of(head: bytes) -> Kind:
    """What begins with `head` (16 bytes are enough)."""
    if head.startswith(_MAGIC_COMPILED) or head[2:4] == b"\r\n":
        return Kind.COMPILED
    return Kind.PACKED if head.startswith(_MAGIC_PACKED) else Kind.TEXT


def plan_groups(
    needed: Sequence[Content],
    sources: Sequence[Content],
    *,
    kinds: Mapping[int, Kind],
    origin: Mapping[int, int],
    new_size: Callable[[int], int],
    old_size: OldSize,
) -> list[Plan]:
    """All needed contents, in groups whose spans are within the limits.

    Args:
        needed, sources: the lists of contents.
        kinds: position of a needed content to what it is.
        origin: position of a needed content to that of the old content it is made from, where there is one.
        new_size, old_size: bytes of a content as a group sees it (taken apart or not).
    """
    plans: list[Plan] = []
    for kind in Kind:
        size_of_old = functools.partial(old_size, apart=kind is Kind.DEFLATED)
        members = [p for p in range(len(needed)) if kinds[p] is kind]
        if not sources:
            plans += _cut(kind, members, {}, new_size, size_of_old, limit=PLAIN_SPAN, together=False)
        elif kind is Kind.COMPILED:
            plans += _cut(kind, members, origin, new_size, size_of_old, limit=DIFFERENCE_SPAN, together=False)
        else:
            limit = DEFLATED_SPAN if kind is Kind.DEFLATED else PREFIX_SPAN
            plans += _cut(kind, members, origin, new_size, size_of_old, limit=limit, together=True)
    return plans


def _cut(
    kind: Kind,
    members: Sequence[int],
    origin: Mapping[int, int],
    new_size: Callable[[int], int],
    old_size: Callable[[int], int],
    *,
    limit: int,
    together: bool,
) -> list[Plan]:
    """Groups in order of position: neighbours in the tree are alike. `together`: the limit is for both sides' sum."""
    plans: list[Plan] = []
    targets: list[int] = []
    olds: dict[int, None] = {}
    new_bytes = old_bytes = 0

    def close() -> None:
        nonlocal new_bytes, old_bytes
        if targets:
            plans.append(Plan(kind, tuple(sorted(olds)), tuple(targets)))
        targets.clear()
        olds.clear()
        new_bytes = old_bytes = 0

    for position in members:
        size = new_size(position)
        source = origin.get(position)
        more = old_size(source) if source is not None and source not in olds else 0
        spent = (new_bytes + size + old_bytes + more) if together else max(new_bytes + size, old_bytes + more)
        if targets and spent > limit:
            close()
            more = old_size(source) if source is not None else 0
        alone = (size + more if together else max(size, more)) > limit
        if alone:
            close()
            if (kind is Kind.DEFLATED and size + more > PREFIX_SPAN) or max(size, more) > DIFFERENCE_SPAN:
                source, more = None, 0
        targets.append(position)
        new_bytes += size
        if source is not None:
            olds[source] = None
            old_bytes += more
        if alone:
            close()
    close()
    return plans
