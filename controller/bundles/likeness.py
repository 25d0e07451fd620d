"""Which old content a new one most likely comes from: by path, by path without version numbers, by what is inside."""

import posixpath
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from schemas.manifest import FileEntry, Manifest

_CHANGING: Final = re.compile(
    r"\d+(?:\.\d+)+(?:[a-z]+\d*)?|(?<=[._-])[0-9a-f]{6,64}(?=[._-])|(?<=[._-])[\w-]{8}(?=\.\w+$)"
)
"""What changes in names that otherwise stay: version numbers and hashes."""
_SKETCH: Final = 64
_SKETCHED_BYTES: Final = 1024 * 1024
_MAX_CANDIDATES: Final = 4000
"""Likeness is only looked for among so many contents on either side."""
_ALIKE: Final = 0.1

Load = Callable[[str, int], bytes]


def find_sources(old: Manifest, new: Sequence[str], manifest: Manifest, load: Load) -> dict[str, str]:
    """For each of the contents `new` of `manifest`, the old one to make it from, where there is one.

    Args:
        old: the manifest to start from.
        new: sha256 of what is needed.
        manifest: the release to get to.
        load: gives the first bytes of a content, so many.
    """
    by_path = {entry.path: entry for entry in old.files}
    by_shape: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in old.files:
        by_shape[shape(entry.path)].append(entry)
    wanted = set(new)
    found: dict[str, str] = {}
    for entry in manifest.files:
        if entry.sha256 in wanted and entry.sha256 not in found:
            source = by_path.get(entry.path) or _nearest(entry, by_shape.get(shape(entry.path), ()))
            if source is not None:
                found[entry.sha256] = source.sha256
    _by_content(old, manifest, [sha256 for sha256 in new if sha256 not in found], load, found)
    return found


def shape(path: str) -> str:
    """A path without what changes from release to release."""
    return _CHANGING.sub("*", path)


def _nearest(entry: FileEntry, candidates: Sequence[FileEntry]) -> FileEntry | None:
    return min(candidates, key=lambda c: abs(c.size - entry.size), default=None)


def _by_content(old: Manifest, manifest: Manifest, lost: Sequence[str], load: Load, found: dict[str, str]) -> None:
    paths: dict[str, str] = {}
    for entry in manifest.files:
        paths.setdefault(entry.sha256, entry.path)
    stay = set(paths)
    lost = [sha256 for sha256 in lost if sha256 in paths][:_MAX_CANDIDATES]
    if not lost:
        return
    kinds = {_extension(paths[sha256]) for sha256 in lost}
    gone = {
        e.sha256: _extension(e.path)
        for e in old.files
        if e.sha256 not in stay and e.size and _extension(e.path) in kinds
    }
    holders: Mapping[tuple[str, int], list[str]] = defaultdict(list)
    for sha256, kind in list(gone.items())[:_MAX_CANDIDATES]:
        for value in _sketch(load(sha256, _SKETCHED_BYTES)):
            holders[kind, value].append(sha256)
    for sha256 in lost:
        sketch = _sketch(load(sha256, _SKETCHED_BYTES))
        votes: dict[str, int] = defaultdict(int)
        for value in sketch:
            for candidate in holders.get((_extension(paths[sha256]), value), ()):
                votes[candidate] += 1
        best = max(votes, key=lambda c: (votes[c], c), default=None)
        if best is not None and votes[best] >= _ALIKE * len(sketch):
            found[sha256] = best


def _sketch(data: bytes) -> frozenset[int]:
    """The smallest hashes of its lines, or of its words where lines are long: what two like contents share."""
    parts = data.split(b"\n")
    if len(data) > 200 * len(parts):
        parts = re.split(rb"[^\w]+", data)
    return frozenset(sorted({zlib.crc32(part) for part in parts if len(part) > 3})[:_SKETCH])


def _extension(path: str) -> str:
    return posixpath.splitext(path)[1]
