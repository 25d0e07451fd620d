"""What changed between two releases: files by path and content, and which of the manifest's other parts."""

from typing import Final

import msgspec

from controller.repository.bundle_maker import BundleMaker
from controller.repository.bundle_views import BundleView
from controller.repository.by_version import releases_of
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from schemas.errors import OperatorError, one_line
from schemas.manifest import FileEntry, Manifest
from schemas.names import wrong_platform

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


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases side by side, and the bundle that leads from one to the other, if there is one."""

    old: ReleaseRecord
    new: ReleaseRecord
    files: Comparison
    bundle: BundleView | None


def difference(
    repository: PackageRepository, bundle_maker: BundleMaker, name: str, old: str, new: str, *, platform: str = ""
) -> Difference:
    """What changed from one version of a package to another; blocks.

    Args:
        repository: that holds both.
        bundle_maker: knows which bundles lead there.
        name: of the package.
        old: a version, as somebody wrote it; `new` likewise.
        platform: which releases of them; an empty one is the first that both are there for.

    Raises:
        PublisherError: `version.bad`, or `release.unknown` where the repository has no such version.
        OperatorError: `input.bad` where they are not both there for the platform, or have none in common.
    """
    olds = {record.platform: record for record in releases_of(repository, name, old)}
    news = {record.platform: record for record in releases_of(repository, name, new)}
    both = sorted(olds.keys() & news.keys())
    if not both:
        raise OperatorError("input.bad", f"{name} {old} and {new} are not there for the same platform")
    if platform and platform not in both:
        said = wrong_platform(platform) or f"{name} {old} and {new} are not both there for {one_line(platform, 60)}"
        raise OperatorError("input.bad", f"platform: {said}; both are there for {', '.join(both)}")
    before, after = (some[platform or both[0]] for some in (olds, news))
    ways = bundle_maker.state(after).bundles
    return Difference(
        old=before,
        new=after,
        files=compare(repository.manifest(before), repository.manifest(after)),
        bundle=next((way for way in ways if way.manifest == before.manifest and way.kept), None),
    )


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
