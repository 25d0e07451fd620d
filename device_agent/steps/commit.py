"""Commit: what the release before needed and this one does not goes away; then only two releases are kept."""

from collections.abc import Iterable, Sequence

from device_agent.clearing import bound_downloads, clear_unfinished
from device_agent.clock import Clock
from device_agent.install_path import InstallPaths
from device_agent.journal import MAX_UPDATES, Journal
from device_agent.retention import Kept, keep_more
from device_agent.seams import ServiceManager
from device_agent.snapshots import Snapshots
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import Install, Update
from schemas.errors import DeviceError, FlotillaError, one_line
from schemas.manifest import Manifest, Service


class CommitStep:
    """See the module."""

    def __init__(
        self,
        *,
        journal: Journal,
        store: ReleaseStore,
        services: ServiceManager,
        paths: InstallPaths,
        clock: Clock,
        keep_bytes: int = 0,
    ) -> None:
        self._clock = clock
        self._keep_bytes = keep_bytes
        self._snapshots = Snapshots(store)
        self._journal = journal
        self._store = store
        self._services = services
        self._paths = paths

    async def settle(self, update: Update, new: Manifest) -> dict[str, str]:
        """Before the last word: services and links that only the release before had are removed.

        Gives details for the event. Trouble here is told and does not undo a release that has proven itself.
        """
        old = update.before.current if update.before else None
        if old is None:
            return {}
        try:
            before = await in_thread(self._store.manifest, update.package, old.version, old.manifest)
            await self._services.remove(update.package, only_in(before, new))
            await in_thread(self._paths.remove, before, new)
        except DeviceError as error:
            return {"left_behind": one_line(error)}
        return {}

    async def sweep(self, *, collect: bool) -> None:
        """Keep each package's current and previous release, what an unfinished update needs, and as many more as fit.

        The rest is removed.

        Args:
            collect: remove contents that no release has, too. Left out after a failed fetch, so that trying
                again need not fetch everything again.

        Raises:
            DeviceError: `disk.io`.
        """
        await in_thread(self._sweep, collect)

    def _sweep(self, collect: bool) -> None:
        installs, unfinished = self._journal.installs(), self._journal.unfinished()
        keep: dict[str, list[tuple[str, str]]] = {}
        for package, version, sha256 in self._kept(installs.values(), unfinished):
            keep.setdefault(package, []).append((version, sha256))
        now = self._clock.now()
        for package in self._store.packages():
            self._store.sweep(package, keep.get(package, []))
            self._snapshots.sweep(package, {update.id for update in unfinished})
            self._store.drop_copies(package, now)
        self._store.empty_trash()
        clear_unfinished(self._store.folders)
        if not unfinished:
            bound_downloads(self._store.folders.root, now)
        if collect and not unfinished:
            self._store.objects.collect(keep=self._store.manifests())

    def _kept(self, installs: Iterable[Install], unfinished: Sequence[Update]) -> set[Kept]:
        needed = _needed(installs, unfinished)
        if not self._keep_bytes:
            return needed
        history = self._journal.history(limit=MAX_UPDATES)
        return needed | set(keep_more(history, needed, self._manifest_of, self._keep_bytes))

    def _manifest_of(self, release: Kept) -> Manifest | None:
        try:
            self._store.check_tree(*release)
            return self._store.manifest(*release)
        except FlotillaError:
            return None


def _needed(installs: Iterable[Install], unfinished: Sequence[Update]) -> set[Kept]:
    needed = set()
    # a rollback gives back what was installed before, with what that could go back to
    for install in [*installs, *(update.before for update in unfinished if update.before)]:
        for release in (install.current, install.previous):
            if release is not None:
                needed.add(Kept(install.package, release.version, release.manifest))
    for update in unfinished:
        if update.manifest is not None:
            needed.add(Kept(update.package, update.version, update.manifest))
        if update.request.to is not None:
            needed.add(Kept(update.package, update.request.to.version, update.request.to.manifest))
    return needed


def only_in(one: Manifest, other: Manifest | None) -> list[Service]:
    """The services of `one` that `other` has none of the same name for."""
    names = {service.name for service in other.services} if other else set()
    return [service for service in one.services if service.name not in names]
