"""A release's tags as one text, for its own row, and as one number, for the rows of its tags.

By that number a search along one tag sees in the index itself which rows may have the others too.
Superimposed coding (Mooers, 1948): each tag sets a few bits, a release has those of all its tags. What lacks one of
the bits lacks the tag; what has them all is looked up. Of releases with three tags one in a hundred has them by chance.
"""

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

_BITS: Final = 63
"""Of the 64 of a signed whole number, all but the sign."""


def tag_bits(tags: Iterable[str]) -> int:
    """The bits of all the tags, from 0 to 2**63 - 1. Rows hold it: a change needs a revision that fills them anew."""
    bits = 0
    for tag in tags:
        value = zlib.crc32(tag.encode())
        bits |= 1 << (value & 0xFFFF) % _BITS | 1 << (value >> 16) % _BITS
    return bits


def tags_text(tags: Iterable[str]) -> str:
    """All the tags sorted, as a JSON list in which each stands on a line of its own; see `tag_line`."""
    return f"[{','.join(map(tag_line, sorted(set(tags))))}]"


def tag_line(tag: str) -> str:
    """What a text of tags holds if, and only if, this tag is one of them: JSON has no line end within a string."""
    return f"\n{msgspec.json.encode(tag).decode()}\n"
