"""Check and fetch: what is the release, may it come here, is there room; then get what the device lacks."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from device_agent.budget import Spending
from device_agent.clock import Clock
from device_agent.interruption import in_interruptible_thread
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.requirements import check_downgrade, check_requirements
from device_agent.seams import AtHand, ReleaseSource, SignedManifest, SourceFactory, WantedBundle, WantedObject, Way
from device_agent.steps.move import Move, leave
from device_agent.steps.repair import RepairStep
from device_agent.steps.routing import Router
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import DeviceProfile, Install, Origin, Update
from schemas.errors import DeviceError, one_line
from schemas.manifest import Manifest
from schemas.messages import Progress
from schemas.requirements import needed_bytes
from schemas.routes import Route

SLACK_INODES: Final = 64
PROGRESS_INTERVAL_S: Final = 1.0
PROGRESS_SHARE: Final = 100
"""A progress event is worth its flush to the card when this share of the whole (1/100) has come since the last."""
BUNDLE_ATTEMPTS: Final = 2
"""Later attempts take single objects, whatever it was that kept the earlier ones from their end."""

_ENDED: Final = frozenset({"interrupted.fetch", "internal.error"})
"""How it is called when the process that fetches has ended in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A release that may come, what of it is not here yet, and the way in which that is to come.

    Attributes:
        bundle: what the source is told of the route's bundle; None where the route is single objects.
    """

    signed: SignedManifest
    missing: list[WantedObject]
    route: Route
    bundle: WantedBundle | None
    spending: Spending

    @property
    def size(self) -> int:
        """Bytes of content to get."""
        return sum(want.size for want in self.missing)

    @property
    def expected(self) -> int:
        """Bytes on the wire that the update should take, with what it took to find out about the release."""
        return self.signed.wire_bytes + self.route.cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """How it went.

    Attributes:
        fell_back: why not all came by the bundle, if so.
    """

    prepared: Prepared
    fell_back: str = ""

    @property
    def detail(self) -> dict[str, Any]:
        """For the event: the route and what it cost."""
        prepared, route = self.prepared, self.prepared.route
        told: dict[str, Any] = {
            "route": route.kind.value,
            "wire_bytes": prepared.spending.wire,
            "expected_bytes": prepared.expected,
            "objects": len(prepared.missing),
        }
        if route.offer is not None and route.offer.version is not None:
            told["from"] = route.offer.version
        return {**told, "fell_back": one_line(self.fell_back)} if self.fell_back else told


class FetchStep:
    """See the module."""

    def __init__(
        self,
        *,
        journal: Journal,
        store: ReleaseStore,
        sources: SourceFactory,
        profile: Callable[[], DeviceProfile],
        clock: Clock,
        max_bytes: int | None = None,
        repair: RepairStep,
    ) -> None:
        """
        Args:
            repair: does the whole work of an update that only mends what is installed.
            max_bytes: most that an update may fetch, metadata included, unless its request says otherwise.
        """
        self._repair = repair
        self._journal = journal
        self._store = store
        self._router = Router(store)
        self._max_bytes = max_bytes
        self._sources = sources
        self._profile = profile
        self._clock = clock

    async def check(self, update: Update) -> tuple[Move, Prepared | None]:
        """Decide on an accepted update. Nothing has been touched when this raises.

        Raises:
            TrustError, NetworkError, PublisherError: as the source does.
            DeviceError: `requires.*`, `disk.full`; `fetch.metered`: it would take too many bytes.
        """
        if update.request.origin is Origin.REPAIR:
            return await self._repair.run(update), None
        installs = await in_thread(self._journal.installs)
        install = installs.get(update.package)
        before = {"before": install}
        if update.goes_back:
            return leave(update, install), None
        check_downgrade(update.request, install)
        prepared = await self.prepare(update)
        sha256 = prepared.signed.sha256
        if install is not None and install.current.manifest == sha256:
            return Move(outcome=Outcome.DONE, detail={"already_installed": True}, changes=before), None
        await self._admit(update, prepared, installs)
        start = Move(
            outcome=Outcome.START,
            progress=Progress(bytes_done=0, bytes_total=prepared.size),
            detail={"objects": len(prepared.missing)},
            changes={**before, "manifest": sha256},
        )
        return start, prepared

    async def prepare_again(self, update: Update) -> Prepared:
        """After a restart in the middle: what was decided before may not hold any more. Raises as `check` does."""
        prepared = await self.prepare(update)
        await self._admit(update, prepared, await in_thread(self._journal.installs))
        return prepared

    async def _admit(self, update: Update, prepared: Prepared, installs: Mapping[str, Install]) -> None:
        profile = await in_thread(self._profile)
        check_requirements(prepared.signed.manifest, profile, installs, update.request.group)
        await in_interruptible_thread(self._check_room, prepared)
        prepared.spending.check(prepared.route.cost)

    async def prepare(self, update: Update) -> Prepared:
        """Find out what the release is, which of its contents are missing, and how they are to come.

        Raises as `check` does.
        """
        profile = await in_thread(self._profile)
        whence = update.request.whence
        spending = Spending(update, self._max_bytes, free=isinstance(whence, Path))  # a file costs nothing
        install = (await in_thread(self._journal.installs)).get(update.package)
        at_hand = AtHand(
            manifests=await in_thread(self._router.manifests, update.package, install),
            max_bytes=spending.left,
            on_bytes=spending.add,
        )
        source = self._sources(whence)
        try:
            signed = await source.resolve(update.package, update.version, profile.platform, at_hand)
        finally:
            await source.close()
            await self._note(update, spending)
        spending.settle(signed.wire_bytes)
        missing = await in_interruptible_thread(self._store.objects.missing, signed.manifest)
        bundles = update.attempt <= BUNDLE_ATTEMPTS
        route, bundle = await in_thread(lambda: self._router.route(signed, missing, at_hand.manifests, bundles=bundles))
        return Prepared(signed=signed, missing=missing, route=route, bundle=bundle, spending=spending)

    async def fetch(self, update: Update, prepared: Prepared) -> Fetched:
        """Get what is missing; tells how far it is, at most once a second.

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: `verify.*`, `disk.*`; `fetch.metered`, `fetch.limit`: too many bytes.
        """
        fell_back = ""
        if prepared.missing:
            prepared.spending.check(prepared.route.cost)
            source = self._sources(update.request.whence)
            teller = asyncio.create_task(self._tell(update, prepared), name=f"progress of {update.package}")
            try:
                fell_back = await _fetch(source, prepared)
            finally:
                teller.cancel()
                await asyncio.wait([teller])
                await source.close()
                await self._note(update, prepared.spending)
            if not teller.cancelled():
                teller.result()
        await in_interruptible_thread(self._store.objects.complete, prepared.signed.manifest)
        return Fetched(prepared=prepared, fell_back=fell_back)

    async def _note(self, update: Update, spending: Spending) -> None:
        """Where bytes count, they count over all attempts, whatever ends one."""
        if spending.is_limited:
            await in_thread(self._journal.change, update.id, fetched_bytes=spending.total)

    async def _tell(self, update: Update, prepared: Prepared) -> None:
        told, total = 0, prepared.size
        while True:
            await self._clock.sleep(PROGRESS_INTERVAL_S)
            await self._note(update, prepared.spending)
            done = min(prepared.spending.plain, total)
            if done - told >= max(1, total // PROGRESS_SHARE):
                told = done
                progress = Progress(bytes_done=done, bytes_total=total)
                await in_thread(self._journal.tell, update.id, at=self._clock.now(), progress=progress)

    def _check_room(self, prepared: Prepared) -> None:
        manifest, missing = prepared.signed.manifest, prepared.missing
        room = self._store.room()
        sizes = [want.size for want in missing]
        needed = needed_bytes(manifest, sizes, plain=len(prepared.signed.plain), block=room.block)
        if room.free < needed or room.inodes < _needed_inodes(manifest, missing):
            # contents of releases that came to nothing may be in the way
            self._store.objects.collect(keep=[manifest, *self._store.manifests()])
            room = self._store.room()
        name = f"{manifest.package} {manifest.version}"
        if room.free < needed:
            raise DeviceError(
                "disk.full", f"{name} needs {needed} bytes free, there are {room.free}; make room and retry"
            )
        if room.inodes < _needed_inodes(manifest, missing):
            raise DeviceError("disk.full", f"{name} needs more files than the disk has room for ({room.inodes})")


async def _fetch(source: ReleaseSource, prepared: Prepared) -> str:
    """By the chosen route; why not all came by the bundle, if so."""
    missing, spending = prepared.missing, prepared.spending
    try:
        return await source.fetch(missing, spending.add, Way(bundle=prepared.bundle, max_bytes=spending.left))
    except DeviceError as error:
        if prepared.bundle is None or error.code not in _ENDED:
            raise
        # a bundle that is made to end who reads it must not keep the device from the release
        fell_back = f"{error.code}: {error.message}"
    rest = [want for want in missing if not want.destination.exists()]
    await source.fetch(rest, spending.add, Way(max_bytes=spending.left))
    return fell_back


def _needed_inodes(manifest: Manifest, missing: list[WantedObject]) -> int:
    folders = {entry.path.rpartition("/")[0] for entry in manifest.files}
    return 2 * len(missing) + len(folders) + len(manifest.links) + len(manifest.templates) + SLACK_INODES
