"""Which ways lead to a release from what is here: looks at manifests and contents, `schemas.routes` chooses."""

import hashlib
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from device_agent import offers
from device_agent.durability import disk_errors
from device_agent.layout import RENDERED_SUFFIX
from device_agent.seams import SignedManifest, WantedBundle, WantedObject
from device_agent.store import ReleaseStore
from device_agent.updates import Install
from schemas.bundles import BundleIndex
from schemas.errors import PublisherError
from schemas.manifest import Manifest, decode_manifest
from schemas.routes import Route, Start, route_to


class Router:
    """See the module. All methods block and raise `DeviceError` `disk.io`."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store

    def manifests(self, package: str, install: Install | None) -> tuple[Path, ...]:
        """Files with the plain manifests of the package's releases that are here: current, previous, then others."""
        folders = self._store.package(package)
        with disk_errors(f"look for the manifests of {package}"):
            if not folders.manifests.is_dir():
                return ()
            releases = [install.current, install.previous] if install else []
            first = [folders.manifest(release.version, release.manifest) for release in releases if release]
            found = {path for path in folders.manifests.glob("*.json") if not path.name.endswith(RENDERED_SUFFIX)}
        return (*(path for path in first if path in found), *sorted(found - set(first)))

    def route(
        self, signed: SignedManifest, missing: Sequence[WantedObject], manifests: Sequence[Path], *, bundles: bool
    ) -> tuple[Route, WantedBundle | None]:
        """The cheapest way, and what the source is to be told of its bundle.

        Args:
            missing: what has to come.
            manifests: as `manifests` gives them.
            bundles: whether any may be taken.
        """
        index = offers.read_index(signed.index, signed.sha256)
        files: dict[str, Path] = {}
        starts = self._starts(index, manifests, files) if index is not None else iter(())
        contents = [(want.sha256, want.size) for want in missing]
        route = route_to(signed.manifest, index, contents, starts, bundles=bundles)
        if route.offer is None:
            return route, None
        offer = route.offer
        old = files.get(offer.start) if offer.start is not None else None
        return route, WantedBundle(path=offer.path, size=offer.size, old=old, new=signed.sha256)

    def _starts(self, index: BundleIndex, manifests: Sequence[Path], files: dict[str, Path]) -> Iterator[Start]:
        """The releases here that a bundle starts from; notes the file of each manifest, by its hash."""
        sources = {entry.source for entry in index.bundles if entry.source is not None}
        for path in manifests:
            # a file's name has the first digits of the hash, so that not every manifest is read
            if any(source[:8] in path.name for source in sources):
                with disk_errors(f"read {path}"):
                    plain = path.read_bytes()
                sha256 = hashlib.sha256(plain).hexdigest()
                if sha256 in sources and (old := _decoded(plain)) is not None:
                    files[sha256] = path
                    yield Start(sha256=sha256, manifest=old, whole=partial(self._has_all, old))

    def _has_all(self, manifest: Manifest) -> bool:
        """Whether all contents of a release are in the object store, to all appearances: what is made is checked."""
        whole: set[str] = set()
        for entry in manifest.files:
            with suppress(OSError):
                found = self._store.objects.path(entry).lstat()
                if stat.S_ISREG(found.st_mode) and found.st_size == entry.size:
                    whole.add(entry.sha256)
        return whole.issuperset(entry.sha256 for entry in manifest.files)


def _decoded(plain: bytes) -> Manifest | None:
    try:
        return decode_manifest(plain)
    except PublisherError:
        return None
