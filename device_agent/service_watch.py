"""Looks after the services of what is installed, also long after their update has succeeded.

Whoever keeps services running restarts them by their own rules. This tells when one is down for good or keeps ending:
in the log, and in the report's fact `services`, which is there as long as that lasts. And it starts what could not be
started at all when the agent began, e.g. because a disk came late.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from device_agent.clock import Clock
from device_agent.logs import line, logger
from device_agent.seams import ReleaseContext
from device_agent.start import has_changed_things
from device_agent.threads import in_thread
from device_agent.updates import Install, Update
from schemas.errors import FlotillaError, one_line
from schemas.manifest import Manifest, Service

FIRST_RETRY_S: Final = 10.0
MAX_RETRY_S: Final = 600.0


class Journaled(Protocol):
    """The part of the journal that this needs."""

    def installs(self) -> dict[str, Install]:
        """Every installed package, by name."""
        ...

    def unfinished(self) -> list[Update]:
        """Updates without a last word."""
        ...


def installs_at_rest(journal: Journaled) -> dict[str, Install]:
    """What is installed, without packages whose services an update sees to: also while another of its set goes back."""
    changing = {update.package for update in journal.unfinished() if has_changed_things(update)}
    return {package: install for package, install in journal.installs().items() if package not in changing}


class WatchedServices(Protocol):
    """The part of a service manager that this needs."""

    @property
    def look_s(self) -> float:
        """How often it may be asked, seconds between; more seldom where that costs a process."""
        ...

    async def failed(self, package: str, services: Sequence[Service], /) -> str:
        """See `ServiceManager`."""
        ...

    async def start(self, services: Sequence[Service], context: ReleaseContext, /) -> None:
        """See `ServiceManager`."""
        ...

    def lost(self, package: str, services: Sequence[Service], /) -> bool:
        """Whether one of them was never started, so that no rule restarts it."""
        ...


class ServiceWatch:
    """See the module.

    Attributes:
        trouble: package to what is wrong with its services, one line each.
    """

    def __init__(
        self,
        *,
        services: WatchedServices,
        installs: Callable[[], dict[str, Install]],
        manifest: Callable[[str, str, str], Manifest],
        context: Callable[[Manifest], ReleaseContext],
        busy: Callable[[str], bool],
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            installs: what is installed and to be looked after, see `installs_at_rest`; blocks.
            manifest: of package, version and manifest hash; blocks.
            context: of a release that runs; blocks.
            busy: whether an update of the package is under way, which looks after its services itself.
            changed: called when `trouble` begins or ends.
        """
        self.trouble: dict[str, str] = {}
        self._services = services
        self._installs = installs
        self._manifest = manifest
        self._context = context
        self._busy = busy
        self._clock = clock
        self._changed = changed
        self._known: dict[str, tuple[Install, list[Service]]] = {}
        self._stale = True
        self._retries: dict[str, tuple[float, float]] = {}

    def refresh(self) -> None:
        """What is installed may have changed."""
        self._stale = True

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except FlotillaError as error:
                logger().debug(line("services", error))  # the disk or systemd refuses; others tell of that
            await self._clock.sleep(self._services.look_s)

    async def look(self) -> None:
        """Look once. Raises `DeviceError` where nothing can be found out."""
        if self._stale:
            self._stale = False
            try:
                self._known = await in_thread(self._read)
            except BaseException:
                self._stale = True
                raise
        for package in set(self.trouble) - set(self._known):
            self._note(package, "")
        for package, (install, services) in self._known.items():
            if not services or self._busy(package):
                continue
            trouble = await self._services.failed(package, services)
            if self._busy(package):
                continue  # an update has begun meanwhile
            self._note(package, f"{package} {install.current.version}: {trouble}" if trouble else "")
            if trouble and self._services.lost(package, services):
                await self._start(install)

    def summary(self) -> str:
        """All that is wrong in one line; empty while all is well."""
        return one_line("; ".join(self.trouble[package] for package in sorted(self.trouble)))

    def _read(self) -> dict[str, tuple[Install, list[Service]]]:
        known = {}
        for package, install in self._installs().items():
            before = self._known.get(package)
            current = install.current
            if before is not None and before[0].current == current:
                known[package] = (install, before[1])
            else:
                services = self._manifest(package, current.version, current.manifest).services
                known[package] = (install, list(services))
        return known

    async def _start(self, install: Install) -> None:
        package, current, now = install.package, install.current, self._clock.monotonic()
        due, pause = self._retries.get(package, (now, FIRST_RETRY_S))
        if now < due:
            return
        self._retries[package] = (now + pause, min(MAX_RETRY_S, 2 * pause))
        try:
            manifest = await in_thread(self._manifest, package, current.version, current.manifest)
            context = await in_thread(self._context, manifest)
            if not self._busy(package):
                await self._services.start(manifest.services, context)
        except FlotillaError as error:
            self.trouble[package] = f"{package} {current.version}: {one_line(error)}"
        else:
            self._retries.pop(package, None)

    def _note(self, package: str, trouble: str) -> None:
        before = self.trouble.pop(package, "")
        if trouble:
            self.trouble[package] = trouble
        if bool(before) == bool(trouble):
            return  # how often it has ended by now is nothing new
        if trouble:
            logger().warning(line("services", trouble, package=package))
        else:
            logger().info(line("services", "well again", package=package))
            self._retries.pop(package, None)
        self._changed()
