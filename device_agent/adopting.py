"""Packages that run here although the journal does not know of them: read from the disk, and told.

That happens where the journal was damaged and begun anew. A release's folder is named after its manifest's hash and
the manifest lies beside it, so what `current` leads to says all that is needed.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_agent.durability import disk_errors
from device_agent.journal import Journal
from device_agent.layout import RENDERED_SUFFIX, PackageFolders
from device_agent.lifecycle import Outcome
from device_agent.store import ReleaseStore
from device_agent.updates import Install, Origin, Release, UpdateRequest
from schemas.errors import FlotillaError
from schemas.ids import uuid7
from schemas.layout import release_folder
from schemas.manifest import decode_manifest


def adopt(journal: Journal, store: ReleaseStore, *, now: datetime, random_bytes: Callable[[int], bytes]) -> list[str]:
    """Journal what is installed but not journaled, with an update of origin `repair` for each; a line for each.

    Blocks.

    Raises:
        DeviceError: `disk.*`.
    """
    known = {*journal.installs(), *(update.package for update in journal.unfinished())}
    lines = []
    for package in store.packages():
        if package in known or (running := store.running(package)) is None:
            continue
        found = _releases(store.package(package))
        current = found.pop(running, None)
        if current is None:
            lines.append(f"{package}: the current link leads to {running}, of which there is no whole manifest")
            continue
        previous = max(found.values(), key=lambda release: release.installed_at, default=None)
        install = Install(package=package, current=current, previous=previous)
        _tell(journal, install, now=now, update=uuid7(int(now.timestamp() * 1000), random_bytes(10)))
        lines.append(f"{package} {current.version} runs here and the journal did not know of it; it does now")
    return lines


def _tell(journal: Journal, install: Install, *, now: datetime, update: str) -> None:
    request = UpdateRequest(package=install.package, version=install.current.version, origin=Origin.REPAIR, retries=0)
    journal.begin(request, Outcome.ACCEPT, update=update, at=now)
    detail: dict[str, Any] = {"repaired": "journal", "already_installed": True}
    journal.advance(update, Outcome.DONE, at=now, detail=detail, install=install)


def _releases(folders: PackageFolders) -> dict[str, Release]:
    """The whole releases of a package, by their folders' names."""
    found = {}
    with disk_errors(f"look for releases in {folders.releases}"):
        for path in sorted(folders.manifests.glob("*.json")):
            if path.name.endswith(RENDERED_SUFFIX):
                continue
            release = _release(folders, path)
            if release is not None:
                found[folders.release(release.version, release.manifest).name] = release
    return found


def _release(folders: PackageFolders, path: Path) -> Release | None:
    plain = path.read_bytes()
    sha256 = hashlib.sha256(plain).hexdigest()
    try:
        manifest = decode_manifest(plain)
        tree = folders.releases / release_folder(manifest.version, sha256)
    except (FlotillaError, ValueError):
        return None
    if path.name != f"{tree.name}.json" or not tree.is_dir():
        return None
    at = datetime.fromtimestamp(tree.lstat().st_ctime, UTC)
    return Release(version=manifest.version, manifest=sha256, installed_at=at)
