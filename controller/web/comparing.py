"""What changed between two releases: files by path and content, and which of the manifest's other parts."""

from typing import Final

import msgspec

from schemas.manifest import FileEntry, Manifest

_COMPARED: Final = {"files", "links", "directories", "version", "format", "package", "platform"}


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path. `before` and `after` are its bytes; None on the side where it is not."""

    path: str
    before: int | None
    after: int | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """From an old release to a new one.

    Attributes:
        added, removed, changed: regular files; one that only changed its mode counts as changed.
        same: how many files are as they were.
        new_bytes: of distinct contents that the old release does not have anywhere.
        parts: names of the manifest's other parts that differ, as `health` or `hooks`; `links` likewise.
    """

    added: list[FileChange]
    removed: list[FileChange]
    changed: list[FileChange]
    same: int
    new_bytes: int
    parts: list[str]


def compare(old: Manifest, new: Manifest) -> Comparison:
    """What changes on a device that goes from `old` to `new`."""
    before: dict[str, FileEntry] = {entry.path: entry for entry in old.files}
    after: dict[str, FileEntry] = {entry.path: entry for entry in new.files}
    both = before.keys() & after.keys()
    differing = sorted(path for path in both if before[path] != after[path])
    known = {entry.sha256 for entry in old.files}
    fresh = {entry.sha256: entry.size for entry in new.files if entry.sha256 not in known}
    return Comparison(
        added=[FileChange(path=path, before=None, after=after[path].size) for path in sorted(after.keys() - both)],
        removed=[FileChange(path=path, before=before[path].size, after=None) for path in sorted(before.keys() - both)],
        changed=[FileChange(path=path, before=before[path].size, after=after[path].size) for path in differing],
        same=len(both) - len(differing),
        new_bytes=sum(fresh.values()),
        parts=_parts(old, new),
    )


def _parts(old: Manifest, new: Manifest) -> list[str]:
    names = [name for name in Manifest.__struct_fields__ if name not in _COMPARED]
    if (old.links, old.directories) != (new.links, new.directories):
        names.append("links and folders")
    differs = [name for name in names if name == "links and folders" or getattr(old, name) != getattr(new, name)]
    return sorted(differs)
