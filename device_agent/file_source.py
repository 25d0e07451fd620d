"""Releases from a file that `flotilla export` made: the same signatures, no network."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from device_agent.archive import Archive
from device_agent.seams import NOTHING_AT_HAND, ONE_BY_ONE, AtHand, OnBytes, SignedManifest, WantedObject, Way
from device_agent.signed_manifest import candidate_names, check_packed, decode, not_found
from device_agent.trust import TrustStore
from device_agent.unpacking import AbandonedError, Content, clear_downloads
from device_agent.workers import run_in_threads
from schemas.layout import METADATA, OBJECTS, target_path


class FileSource:
    """A `ReleaseSource`. One call at a time.

    Args:
        path: the exported file.
        root: the agent's root folder; metadata and temporary files are kept in it.
        trusted_root: root metadata.
        now: the device's clock.
    """

    def __init__(self, path: Path, *, root: Path, trusted_root: bytes, now: Callable[[], datetime]) -> None:
        self._path = path
        self._downloads = root / "downloads"
        self._trust = TrustStore(root / "metadata", trusted_root, now)

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        """See `ReleaseSource`. A file costs nothing, so there is no limit."""
        del at_hand
        work = partial(self._resolve, package, version, platform)
        (signed,) = await run_in_threads([work], name=f"resolve {package}", stop=lambda: None)
        return signed

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        """See `ReleaseSource`. There are no bundles in a file."""
        del way
        stopped = threading.Event()
        work = partial(self._fetch, wanted, on_bytes, stopped)
        await run_in_threads([work], name="fetch", stop=stopped.set)
        return ""

    async def close(self) -> None:
        """See `ReleaseSource`; the file is open during calls only."""

    def _resolve(self, package: str, version: str, platform: str) -> SignedManifest:
        names = candidate_names(package, version, platform)
        with _opened(self._path) as archive:
            wire = 0

            def read(name: str, limit: int) -> bytes:
                nonlocal wire
                data = archive.read(f"{METADATA}/{name}", limit)
                wire += len(data)
                return data

            target = self._trust.find(names, read, archive.name)
            if target is None:
                raise not_found(package, version, platform, archive.name)
            packed = archive.read(target_path(target.sha256, target.name), target.length)
            check_packed(packed, target, archive.name)
            return decode(packed, target, package, version, wire + len(packed))

    def _fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, stopped: threading.Event) -> None:
        clear_downloads(self._downloads, {want.sha256 for want in wanted})
        with _opened(self._path) as archive:
            for want in wanted:
                content = Content(want, self._downloads)
                try:
                    self._unpack(archive, want, content, on_bytes, stopped)
                finally:
                    content.discard()

    def _unpack(
        self, archive: Archive, want: WantedObject, content: Content, on_bytes: OnBytes, stopped: threading.Event
    ) -> None:
        for packed in archive.chunks(f"{OBJECTS}/{want.sha256}.zst"):
            if stopped.is_set():
                raise AbandonedError
            before = content.plain
            content.add(packed)
            on_bytes(content.plain - before, len(packed))
        if stopped.is_set():
            raise AbandonedError
        content.finish()


@contextmanager
def _opened(path: Path) -> Iterator[Archive]:
    archive = Archive(path)
    try:
        yield archive
    finally:
        archive.close()
