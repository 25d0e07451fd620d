"""Makes a bundle: finds what each new content was made from, groups them, packs each group in the smallest way."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from controller.bundles.candidates import PackedGroup, pack_group
from controller.bundles.contents import Contents, Load
from controller.bundles.gnu_gzip import deflate_gnu
from controller.bundles.grouping import Kind, Plan, plan_groups
from controller.bundles.likeness import find_sources
from controller.bundles.packing import pack_zstd
from schemas.bundle_format import Header, encode_index
from schemas.bundles import needed, sources
from schemas.deflate import check_value
from schemas.manifest import Manifest

Progress = Callable[[int, int], None]

_IN_MEMORY: Final = 64 * 1024 * 1024
"""Packed streams beyond this go to the disk, beside the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeGroup:
    """What became of a group, for people.

    Attributes:
        kind: what the contents are.
        method: how they are made.
        contents: how many.
        plain: their bytes.
        packed: bytes in the bundle.
    """

    kind: str
    method: str
    contents: int
    plain: int
    packed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeBundle:
    """A finished bundle."""

    size: int
    sha256: str
    seconds: float
    groups: tuple[MadeGroup, ...]


def make_bundle(
    old: Manifest | None,
    new: Manifest,
    content: Load,
    destination: Path,
    *,
    progress: Progress | None = None,
    workers: int = 1,
    inside: bool = True,
) -> MadeBundle:
    """Write the bundle that leads from `old`, or from nothing, to `new`.

    Takes at most 1 GiB of memory. The file is put in place when it is whole.

    Args:
        content: gives a content of either release by its sha256, as bytes or as a file that is then closed.
        destination: the file.
        progress: told the bytes that are packed, and of how many.
        workers: threads that pack groups at the same time (the packers let go of Python's lock).
        inside: whether content that is itself deflated is taken apart, where it can be put back exactly.

    Raises:
        OSError: where contents cannot be read or the bundle cannot be written.
    """
    began = time.monotonic()
    contents = Contents(needed(old, new), sources(old, new), content, inside=inside, scratch=destination.parent)
    total = sum(size for _, size in contents.needed) or 1
    done = 0
    packed: list[PackedGroup] = []
    plans = _plans(contents, old, new)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(destination.parent)) as streams:
        with ThreadPoolExecutor(workers) as pool:
            for plan, group in zip(plans, pool.map(lambda plan: pack_group(plan, contents), plans), strict=True):
                # in the order of the file, and not kept: a bundle may be larger than the memory
                for block in _blocks(group.streams):
                    streams.write(block)
                packed.append(replace(group, streams=()))
                done += sum(contents.needed[p][1] for p in plan.targets)
                if progress is not None:
                    progress(done, total)
        index = encode_index([p.group for p in packed])
        packed_index = pack_zstd(index)
        settings = {s.setting for p in packed for piece in p.group.targets for s in piece.sections}
        header = Header(
            needed=len(contents.needed),
            sources=len(contents.sources),
            deflate_check=check_value(settings, _deflate_gnu),
            index_packed=len(packed_index),
            index_plain=len(index),
        )
        size, sha256 = _write(destination, [header.encode(), packed_index, streams])
    made = tuple(
        MadeGroup(
            kind=p.kind.value,
            method=p.group.method.name.lower(),
            contents=len(p.group.targets),
            plain=p.plain,
            packed=p.size,
        )
        for p in packed
    )
    return MadeBundle(size=size, sha256=sha256, seconds=time.monotonic() - began, groups=made)


def _plans(contents: Contents, old: Manifest | None, new: Manifest) -> list[Plan]:
    origin: dict[int, int] = {}
    if old is not None:
        place = {sha256: position for position, (sha256, _) in enumerate(contents.sources)}
        wanted = [sha256 for sha256, _ in contents.needed]
        found = find_sources(old, wanted, new, contents.start)
        origin = {p: place[found[sha256]] for p, sha256 in enumerate(wanted) if sha256 in found}
    contents.look_inside(origin, new)
    kinds: dict[int, Kind] = {p: contents.kind(p) for p in range(len(contents.needed))}
    return plan_groups(
        contents.needed,
        contents.sources,
        kinds=kinds,
        origin=origin,
        new_size=contents.new_size,
        old_size=contents.old_size,
    )


def _deflate_gnu(level: int, plain: bytes) -> bytes:
    packed = deflate_gnu(level, plain)
    if packed is None:
        raise OSError("gzip worked when contents were taken apart, and does no more")
    return packed


def _write(destination: Path, parts: Iterable[bytes | IO[bytes]]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=destination.parent, prefix=f".{destination.name}.", delete=False) as file:
        unfinished = Path(file.name)
        try:
            for part in _blocks(parts):
                file.write(part)
                digest.update(part)
                size += len(part)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            unfinished.replace(destination)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    return size, digest.hexdigest()


def _blocks(parts: Iterable[bytes | IO[bytes]]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with part:
            part.seek(0)
            while block := part.read(1024 * 1024):
                yield block
