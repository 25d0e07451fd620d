"""Which ways lead to a release from what is on this device: looks at manifests and contents, `routes` chooses."""

import hashlib
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from device_agent import offers, routes
from device_agent.durability import disk_errors
from device_agent.layout import RENDERED_SUFFIX
from device_agent.routes import Offer, Route
from device_agent.seams import SignedManifest, WantedBundle, WantedObject
from device_agent.store import ReleaseStore
from device_agent.updates import Install
from schemas.bundles import BundleEntry, BundleIndex, needed
from schemas.errors import PublisherError
from schemas.manifest import Manifest, decode_manifest


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
        sizes = [want.size for want in missing]
        if index is None or not missing:
            return routes.choose(routes.objects_cost(sizes), []), None
        lacking = {want.sha256 for want in missing}
        exact, files = None, dict[str, Path]()
        usable = list(_full(index, signed.sha256)) if bundles else []
        for entry, path, old in self._starts(index, manifests):
            yields = {sha256 for sha256, _ in needed(old, signed.manifest)}
            if yields == lacking:
                exact = entry.objects.packed + entry.objects.count * routes.REQUEST_BYTES
            bundle = offers.entry_path(signed.sha256, entry)
            if bundles and lacking <= yields and self._has_all(old):
                usable.append(Offer(path=bundle, size=entry.size, start=entry.source, version=old.version))
                files[bundle] = path
        objects = routes.objects_cost(sizes, ratio=offers.packed_ratio(index), exact=exact)
        route = routes.choose(objects, usable)
        if route.offer is None:
            return route, None
        offer = route.offer
        return route, WantedBundle(path=offer.path, size=offer.size, old=files.get(offer.path), new=signed.sha256)

    def _starts(self, index: BundleIndex, manifests: Sequence[Path]) -> Iterator[tuple[BundleEntry, Path, Manifest]]:
        """The bundles that start from a release whose manifest is here."""
        entries = {entry.source: entry for entry in index.bundles if entry.source is not None}
        for path in manifests:
            # a file's name has the first digits of the hash, so that not every manifest is read
            if any(source[:8] in path.name for source in entries):
                with disk_errors(f"read {path}"):
                    plain = path.read_bytes()
                entry = entries.get(hashlib.sha256(plain).hexdigest())
                if entry is not None and (old := _decoded(plain)) is not None:
                    yield entry, path, old

    def _has_all(self, manifest: Manifest) -> bool:
        """Whether all contents of a release are in the object store, to all appearances: what is made is checked."""
        whole: set[str] = set()
        for entry in manifest.files:
            with suppress(OSError):
                found = self._store.objects.path(entry).lstat()
                if stat.S_ISREG(found.st_mode) and found.st_size == entry.size:
                    whole.add(entry.sha256)
        return whole.issuperset(entry.sha256 for entry in manifest.files)


def _full(index: BundleIndex, to: str) -> Iterator[Offer]:
    for entry in index.bundles:
        if entry.source is None:
            yield Offer(path=offers.entry_path(to, entry), size=entry.size)


def _decoded(plain: bytes) -> Manifest | None:
    try:
        return decode_manifest(plain)
    except PublisherError:
        return None
