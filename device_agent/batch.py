"""Contents fetched one by one, by several threads over connections that are kept alive."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from device_agent.fetcher import HttpFetcher, StoppedError
from device_agent.meter import Meter, get_metered
from device_agent.seams import OnBytes, WantedObject
from device_agent.unpacking import PART_FROM_BYTES, AbandonedError, Download, clear_downloads
from schemas.errors import DeviceError, NetworkError
from schemas.layout import object_path


class Batch:
    """The contents of one `fetch`, worked on by several threads."""

    def __init__(
        self, wanted: Sequence[WantedObject], http: HttpFetcher, downloads: Path, on_bytes: OnBytes, meter: Meter
    ) -> None:
        self._wanted = list(reversed(wanted))
        self._http = http
        self._meter = meter
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
                raise closed() from error

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
                self._http.try_each(
                    partial(
                        get_metered,
                        self._http,
                        path=object_path(want.sha256),
                        sink=download,
                        limit=packed_limit(want.size),
                        meter=self._meter,
                    ),
                    progress=lambda: download.offset,
                )
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


def closed() -> NetworkError:
    """What to raise where a source was closed in the middle of its work."""
    return NetworkError("fetch.unreachable", "the fetch was stopped, because its source was closed")


def packed_limit(size: int) -> int:
    """Most bytes that a content may take packed: zstd's own bound (ZSTD_COMPRESSBOUND) and some more."""
    return size + size // 128 + 64 * 1024
