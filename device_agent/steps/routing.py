"""Which ways lead to a release from what is on this device: looks at manifests and contents, `routes` chooses."""

from pathlib import Path

from device_agent import routes
from device_agent.layout import RENDERED_SUFFIX
from device_agent.routes import Route
from device_agent.seams import SignedManifest, WantedBundle, WantedObject
from device_agent.store import ReleaseStore
from device_agent.updates import Install


class Router:
    """See the module. All methods block."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store

    def manifests(self, package: str, install: Install | None) -> tuple[Path, ...]:
        """Files with the plain manifests of the package's releases that are here: current, previous, then others."""
        folders = self._store.package(package)
        if not folders.manifests.is_dir():
            return ()
        releases = [install.current, install.previous] if install else []
        first = [folders.manifest(release.version, release.manifest) for release in releases if release]
        found = {path for path in folders.manifests.glob("*.json") if not path.name.endswith(RENDERED_SUFFIX)}
        return (*(path for path in first if path in found), *sorted(found - set(first)))

    def route(
        self, signed: SignedManifest, missing: list[WantedObject], manifests: tuple[Path, ...], bundles: bool
    ) -> tuple[Route, WantedBundle | None]:
        """The cheapest way."""
        del signed, manifests, bundles
        return routes.choose(routes.objects_cost(want.size for want in missing), []), None
