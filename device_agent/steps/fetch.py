"""Check and fetch: what is the release, may it come here, is there room; then get what the device lacks."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from device_agent.clock import Clock
from device_agent.journal import Journal
from device_agent.lifecycle import Outcome
from device_agent.requirements import check_downgrade, check_requirements
from device_agent.seams import SignedManifest, SourceFactory, WantedObject
from device_agent.steps.move import Move
from device_agent.store import ReleaseStore
from device_agent.threads import in_thread
from device_agent.updates import DeviceProfile, Install, Origin, Update
from schemas.errors import DeviceError
from schemas.manifest import Manifest
from schemas.messages import ErrorReport, Progress

SLACK_BYTES: Final = 16 * 1024 * 1024
"""Room left over for logs, the database and state while an update is under way."""
SLACK_INODES: Final = 64
PROGRESS_INTERVAL_S: Final = 1.0
PROGRESS_SHARE: Final = 100
"""A progress event is worth its flush to the card when this share of the whole (1/100) has come since the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A release that may come, and what of it is not here yet."""

    signed: SignedManifest
    missing: list[WantedObject]

    @property
    def size(self) -> int:
        """Bytes of content to get."""
        return sum(want.size for want in self.missing)


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
    ) -> None:
        self._journal = journal
        self._store = store
        self._sources = sources
        self._profile = profile
        self._clock = clock

    async def check(self, update: Update) -> tuple[Move, Prepared | None]:
        """Decide on an accepted update. Nothing has been touched when this raises.

        Raises:
            TrustError, NetworkError, PublisherError: as the source does.
            DeviceError: `requires.*`, `disk.full`.
        """
        installs = await in_thread(self._journal.installs)
        install = installs.get(update.package)
        before = {"before": install}
        if update.goes_back:
            return _way_back(update, install), None
        check_downgrade(update.request, install)
        prepared = await self.prepare(update)
        sha256 = prepared.signed.sha256
        if install is not None and install.current.manifest == sha256:
            return Move(outcome=Outcome.DONE, detail={"already_installed": True}, changes=before), None
        profile = await in_thread(self._profile)
        check_requirements(prepared.signed.manifest, profile, installs)
        await in_thread(self._check_room, prepared)
        start = Move(
            outcome=Outcome.START,
            progress=Progress(bytes_done=0, bytes_total=prepared.size),
            detail={"objects": len(prepared.missing)},
            changes={**before, "manifest": sha256},
        )
        return start, prepared

    async def prepare(self, update: Update) -> Prepared:
        """Find out what the release is and which of its contents are missing. Raises as `check` does."""
        profile = await in_thread(self._profile)
        source = self._sources(update.request.repository)
        try:
            signed = await source.resolve(update.package, update.version, profile.platform)
        finally:
            await source.close()
        missing = await in_thread(self._store.objects.missing, signed.manifest)
        return Prepared(signed=signed, missing=missing)

    async def fetch(self, update: Update, prepared: Prepared) -> int:
        """Get what is missing; tells how far it is, at most once a second. Gives the bytes on the wire.

        Raises:
            NetworkError: `fetch.*`.
            DeviceError: `verify.*`, `disk.*`.
        """
        count = _Count()
        if prepared.missing:
            source = self._sources(update.request.repository)
            teller = asyncio.create_task(self._tell(update, prepared.size, count), name=f"progress of {update.package}")
            try:
                await source.fetch(prepared.missing, count.add)
            finally:
                teller.cancel()
                await asyncio.wait([teller])
                await source.close()
            if not teller.cancelled():
                teller.result()
        await in_thread(self._store.objects.complete, prepared.signed.manifest)
        return count.wire + prepared.signed.wire_bytes

    async def _tell(self, update: Update, total: int, count: "_Count") -> None:
        told = 0
        while True:
            await self._clock.sleep(PROGRESS_INTERVAL_S)
            done = min(count.plain, total)
            if done - told >= max(1, total // PROGRESS_SHARE):
                told = done
                progress = Progress(bytes_done=done, bytes_total=total)
                await in_thread(self._journal.tell, update.id, at=self._clock.now(), progress=progress)

    def _check_room(self, prepared: Prepared) -> None:
        manifest, missing = prepared.signed.manifest, prepared.missing
        room = self._store.room()
        needed = needed_bytes(prepared, room.block)
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


def _way_back(update: Update, install: Install | None) -> Move:
    reverts = update.request.origin is Origin.REVERT
    gone = install is None or install.current.version != update.version
    if install is None or gone or (install.previous is None and not reverts):
        other = f"{update.package} {update.version} is not what there is to go back from any more"
        return Move(outcome=Outcome.CANCEL, error=ErrorReport(code="conflict.superseded", message=other))
    reverted = ErrorReport(code="conflict.reverted", message="the rollout was reverted")
    return Move(outcome=Outcome.GO_BACK, error=reverted if reverts else None, changes={"before": install})


def needed_bytes(prepared: Prepared, block: int) -> int:
    """Free bytes that an update asks for: what is missing in whole blocks, its tree, and slack.

    The largest content counts twice: it may lie packed and unpacked for a moment.
    """
    manifest = prepared.signed.manifest
    blocks = sum(-(-want.size // block) for want in prepared.missing)
    tree = len(manifest.directories) + len(manifest.links) + len(manifest.templates) + len(manifest.state)
    largest = max((want.size for want in prepared.missing), default=0)
    return (blocks + tree) * block + largest + 2 * len(prepared.signed.plain) + SLACK_BYTES


def _needed_inodes(manifest: Manifest, missing: list[WantedObject]) -> int:
    folders = {entry.path.rpartition("/")[0] for entry in manifest.files}
    return 2 * len(missing) + len(folders) + len(manifest.links) + len(manifest.templates) + SLACK_INODES


class _Count:
    """Bytes that have come, added to from any thread."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.plain = 0
        self.wire = 0

    def add(self, plain: int, wire: int) -> None:
        with self._mutex:
            self.plain += plain
            self.wire += wire
