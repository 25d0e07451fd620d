"""Packs a planned group in each way that may be good, and keeps the smallest."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from controller.bundles.contents import Contents
from controller.bundles.differences import find_difference
from controller.bundles.grouping import DIFFERENCE_SPAN, PREFIX_SPAN, Kind, Plan
from controller.bundles.packing import COLUMN_SETTINGS, pack, pack_large, pack_zstd
from schemas.bundle_format import NUMBER, ZSTD, Group, Method, Stream
from schemas.bundles import MAX_HELD, MAX_STEPS, MIB

_POOR: Final = 0.05
"""A prefix that leaves more than this of a text is worth trying a difference against."""
_QUICK_LEVEL: Final = 3
_NEAR: Final = 1.5
"""What zstd packs quickly to more than so many times a size does not get below it by taking long."""
LARGE: Final = DIFFERENCE_SPAN
"""No plan of several contents is over this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedGroup:
    """A group and its packed streams, large ones in temporary files; `plain` is the bytes of its contents."""

    kind: Kind
    group: Group
    streams: tuple[bytes | IO[bytes], ...]
    plain: int

    @property
    def size(self) -> int:
        """Bytes in the bundle."""
        return sum(stream.packed for stream in self.group.streams)


def pack_group(plan: Plan, contents: Contents) -> PackedGroup:
    """The smallest of what can be done with `plan`; a content too large to be held is packed plain, as a stream."""
    size = sum(contents.new_size(p) for p in plan.targets)
    if size > LARGE:
        return _large(plan, contents, size)
    return min(_candidates(plan, contents), key=lambda packed: packed.size)


def _candidates(plan: Plan, contents: Contents) -> Iterator[PackedGroup]:
    new = b"".join(contents.new_bytes(p) for p in plan.targets)
    if not plan.sources:
        yield _plain(plan, contents, new)
        return
    old = b"".join(contents.old_bytes(p, apart=plan.kind is Kind.DEFLATED) for p in plan.sources)
    smallest = None
    fits = len(old) + len(new) <= PREFIX_SPAN
    if fits and (plan.kind is not Kind.COMPILED or len(new) < MIB):
        smallest = _prefixed(plan, contents, old, new)
        yield smallest
    if plan.kind is not Kind.DEFLATED and _may_differ_little(plan.kind, smallest, len(new)):
        packed = _difference(plan, contents, old, new)
        if packed is not None:
            yield packed
            smallest = packed
    if smallest is None or len(pack_zstd(new, level=_QUICK_LEVEL)) < _NEAR * smallest.size:
        yield _plain(plan, contents, new)


def _may_differ_little(kind: Kind, prefixed: PackedGroup | None, size: int) -> bool:
    if prefixed is None or kind is Kind.COMPILED:
        return True
    # what is packed differs everywhere behind its first change
    return kind is Kind.TEXT and prefixed.size > _POOR * size


def _plain(plan: Plan, contents: Contents, new: bytes) -> PackedGroup:
    # no LZMA here: without a source there is much to unpack, and LZMA is the slower one
    data = pack_zstd(new)
    group = _group(plan, contents, Method.PLAIN, (), (Stream(ZSTD, len(data), len(new)),))
    return PackedGroup(kind=plan.kind, group=group, streams=(data,), plain=len(new))


def _large(plan: Plan, contents: Contents, size: int) -> PackedGroup:
    with contents.open(contents.needed[plan.targets[0]][0]) as file:
        packed = pack_large(file, size, contents.scratch)
    stream = Stream(ZSTD, packed.tell(), size)
    group = _group(plan, contents, Method.PLAIN, (), (stream,))
    return PackedGroup(kind=plan.kind, group=group, streams=(packed,), plain=size)


def _prefixed(plan: Plan, contents: Contents, old: bytes, new: bytes) -> PackedGroup:
    data = pack_zstd(new, prefix=old)
    stream = Stream(ZSTD, len(data), len(new))
    group = _group(plan, contents, Method.PREFIX, plan.sources, (stream,), prefix=len(old))
    return PackedGroup(kind=plan.kind, group=group, streams=(data,), plain=len(new))


def _difference(plan: Plan, contents: Contents, old: bytes, new: bytes) -> PackedGroup | None:
    found = find_difference(old, new)
    columns = [pack(plain, COLUMN_SETTINGS) for plain in found.columns]
    packed = [*columns, pack(found.extra), pack(found.difference)]
    if sum(len(p.data) for p in packed[:-1]) > MAX_HELD or len(found.columns[0]) > NUMBER * MAX_STEPS:
        return None
    streams = tuple(Stream(p.codec, len(p.data), p.plain) for p in packed)
    group = _group(plan, contents, Method.DIFFERENCE, plan.sources, streams)
    return PackedGroup(kind=plan.kind, group=group, streams=tuple(p.data for p in packed), plain=len(new))


def _group(
    plan: Plan,
    contents: Contents,
    method: Method,
    sources: tuple[int, ...],
    streams: tuple[Stream, ...],
    *,
    prefix: int = 0,
) -> Group:
    apart = plan.kind is Kind.DEFLATED
    return Group(
        method=method,
        sources=tuple(contents.old_piece(p, apart=apart) for p in sources),
        targets=tuple(contents.new_piece(p) for p in plan.targets),
        prefix=prefix,
        streams=streams,
    )
