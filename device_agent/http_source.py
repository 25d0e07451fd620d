"""Releases from repositories that any web server can serve."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from device_agent.durability import write_file
from device_agent.fetcher import HttpFetcher, MemorySink, Patience, StoppedError
from device_agent.seams import OnBytes, SignedManifest, WantedObject
from device_agent.signed_manifest import candidate_names, check_packed, decode, not_found
from device_agent.trust import SignedTarget, TrustStore
from device_agent.unpacking import PART_FROM_BYTES, AbandonedError, Download, clear_downloads
from device_agent.workers import run_in_threads
from schemas.errors import DeviceError, NetworkError
from schemas.layout import METADATA, object_path, target_path

WORKERS: Final = 3
"""Enough to hide the round trips of small files; more would only cost memory."""

_MANIFESTS_KEPT: Final = 4
_MANIFEST_SUFFIX: Final = ".manifest.zst"


class HttpSource:
    """A `ReleaseSource`. One call at a time.

    Args:
        bases: repositories' URLs in the order in which to try them.
        root: the agent's root folder; metadata and partial downloads are kept in it.
        trusted_root: root metadata.
        now: the device's clock.
    """

    def __init__(
        self,
        bases: Sequence[str],
        *,
        root: Path,
        trusted_root: bytes,
        now: Callable[[], datetime],
        patience: Patience | None = None,
    ) -> None:
        self._downloads = root / "downloads"
        self._trust = TrustStore(root / "metadata", trusted_root, now)
        self._http = HttpFetcher(bases, patience=patience, connections=WORKERS)

    async def resolve(self, package: str, version: str, platform: str) -> SignedManifest:
        """See `ReleaseSource`."""
        names = candidate_names(package, version, platform)
        http = self._http = self._http.usable()
        work = partial(self._resolve, http, package, version, platform, names)
        try:
            (signed,) = await run_in_threads([work], name=f"resolve {package}", stop=http.stop)
        except StoppedError as error:
            raise _closed() from error
        return signed

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes) -> None:
        """See `ReleaseSource`."""
        if not wanted:
            return
        http = self._http = self._http.usable()
        batch = _Batch(wanted, http, self._downloads, on_bytes)
        await run_in_threads([batch.clear], name="clear downloads", stop=batch.stop)
        workers = [batch.work] * min(WORKERS, len(wanted))
        await run_in_threads(workers, name="fetch", stop=batch.stop)

    async def close(self) -> None:
        """See `ReleaseSource`."""
        self._http.close()

    def _resolve(
        self, http: HttpFetcher, package: str, version: str, platform: str, names: list[str]
    ) -> SignedManifest:
        wire = 0

        def read(base: str, name: str, limit: int) -> bytes:
            nonlocal wire
            sink = MemorySink()
            http.get_from(base, f"{METADATA}/{name}", sink, limit=limit)
            wire += sink.offset
            return bytes(sink.data)

        def find(base: str) -> SignedTarget:
            target = self._trust.find(names, partial(read, base), base)
            if target is None:
                raise not_found(package, version, platform, base)
            return target

        def get(target: SignedTarget, base: str) -> bytes:
            nonlocal wire
            sink = MemorySink()
            http.get_from(base, target_path(target.sha256, target.name), sink, limit=target.length)
            wire += sink.offset
            check_packed(bytes(sink.data), target, base)
            return bytes(sink.data)

        target = http.try_each(find)
        kept = self._downloads / (target.sha256 + _MANIFEST_SUFFIX)
        packed = _read_kept(kept, target)
        if packed is None:
            packed = http.try_each(partial(get, target))
            self._keep(kept, packed)
        return decode(packed, target, package, version, wire)

    def _keep(self, path: Path, packed: bytes) -> None:
        """So that a restart need not fetch it again. A disk that refuses shows soon enough elsewhere."""
        with suppress(OSError):
            self._downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(path, packed, 0o600)
            others = sorted(self._downloads.glob("*" + _MANIFEST_SUFFIX), key=lambda p: p.stat().st_mtime)
            for old in others[:-_MANIFESTS_KEPT]:
                old.unlink(missing_ok=True)


class _Batch:
    """The contents of one `fetch`, worked on by several threads."""

    def __init__(self, wanted: Sequence[WantedObject], http: HttpFetcher, downloads: Path, on_bytes: OnBytes) -> None:
        self._wanted = list(reversed(wanted))
        self._http = http
        self._folder = downloads
        self._on_bytes = on_bytes
        self._turn = threading.Lock()
        self._stopped = False
        self._active: set[Download] = set()
        # One large content at a time: each lies on the disk packed and unpacked for a moment.
        self._large = threading.Lock()

    def clear(self) -> None:
        """Remove what earlier batches left and this one cannot use."""
        clear_downloads(self._folder, {want.sha256 for want in self._wanted})

    def stop(self) -> None:
        """No thread writes anything after this."""
        with self._turn:
            self._stopped = True
            active = list(self._active)
        self._http.stop()
        for download in active:
            download.abandon()

    def work(self) -> None:
        """Fetch until nothing is left or somebody says stop."""
        try:
            while (want := self._next()) is not None:
                if want.size < PART_FROM_BYTES:
                    self._get(want)
                else:
                    with self._large:
                        self._get(want)
        except (StoppedError, AbandonedError) as error:
            if not self._stopped:
                raise _closed() from error

    def _next(self) -> WantedObject | None:
        with self._turn:
            return self._wanted.pop() if self._wanted and not self._stopped else None

    def _get(self, want: WantedObject) -> None:
        download = Download(want, self._folder, self._on_bytes)
        with self._turn:
            if self._stopped:
                return
            self._active.add(download)
        try:
            download.resume()
            if not (download.is_complete and _finishes(download)):
                self._http.get(object_path(want.sha256), download, limit=packed_limit(want.size))
        finally:
            download.abandon()
            with self._turn:
                self._active.discard(download)


def _finishes(download: Download) -> bool:
    """Whether what an earlier download left is all there is, and right."""
    try:
        download.finish()
    except DeviceError as error:
        if not error.code.startswith("verify."):
            raise
        download.restart()
        return False
    return True


def _closed() -> NetworkError:
    return NetworkError("fetch.unreachable", "the fetch was stopped, because its source was closed")


def packed_limit(size: int) -> int:
    """Most bytes that a content may take packed: zstd's own bound (ZSTD_COMPRESSBOUND) and some more."""
    return size + size // 128 + 64 * 1024


def _read_kept(path: Path, target: SignedTarget) -> bytes | None:
    try:
        with path.open("rb") as file:
            packed = file.read(target.length + 1)
        check_packed(packed, target, "kept manifest")
    except (OSError, DeviceError):
        return None
    return packed
