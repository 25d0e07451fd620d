"""Which releases stay besides the running one and the one before it: as many as fit the owner's limit. Pure."""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from device_agent.updates import Update
from schemas.manifest import FileEntry, Manifest
from schemas.messages import Phase

_BAD = frozenset({Phase.ROLLED_BACK, Phase.FAILED})


class Kept(NamedTuple):
    """A release on the device."""

    package: str
    version: str
    manifest: str


def proven(history: Iterable[Update]) -> list[Update]:
    """The updates whose releases have proven themselves and were not left as bad since, the newest first.

    Args:
        history: all updates, newest first; the newest word about a release counts.
    """
    judged: set[Kept] = set()
    good = []
    for update in history:
        release = _release_of(update)
        if release is None or release in judged:
            continue
        if update.phase is Phase.SUCCEEDED and not update.goes_back:
            good.append(update)
        elif update.phase not in _BAD:
            continue  # it came to nothing, and says nothing about the release
        judged.add(release)
    return good


def keep_more(
    history: Iterable[Update], needed: Collection[Kept], manifest_of: Callable[[Kept], Manifest | None], limit: int
) -> list[Kept]:
    """What stays though nobody needs it, the newest first, as long as it fits.

    Args:
        history: all updates, newest first.
        needed: what stays in any case; the contents of these cost nothing more.
        manifest_of: gives None for a release that is not here any more.
        limit: bytes of contents that only what is kept here has, on the whole device.
    """
    if limit <= 0:
        return []
    there = {entry.sha256 for release in needed for entry in _files(manifest_of(release))}
    kept: list[Kept] = []
    for update in proven(history):
        release = Kept(update.package, update.version, update.manifest or "")
        manifest = manifest_of(release) if release not in needed else None
        if manifest is None:
            continue
        own = {entry.sha256: entry.size for entry in manifest.files if entry.sha256 not in there}
        if sum(own.values()) <= limit:
            limit -= sum(own.values())
            there |= own.keys()
            kept.append(release)
    return kept


def _files(manifest: Manifest | None) -> Iterable[FileEntry]:
    return manifest.files if manifest is not None else ()


def _release_of(update: Update) -> Kept | None:
    """The release that the update brought, or left."""
    manifest = update.manifest
    if update.goes_back:
        manifest = update.before.current.manifest if update.before is not None else None
    return Kept(update.package, update.version, manifest) if manifest else None
