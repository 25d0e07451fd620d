"""A bundle on its way to the disk: in one request, straight into the object store, each content once it is right."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from device_agent.batch import closed
from device_agent.bundles import BundleReader
from device_agent.durability import disk_errors
from device_agent.fetcher import HttpFetcher, StoppedError
from device_agent.layout import DeviceFolders, installed_mode
from device_agent.meter import Meter, get_metered
from device_agent.reports import defect
from device_agent.seams import OnBytes, WantedBundle, WantedObject
from device_agent.unpacking import UNFINISHED, AbandonedError
from schemas.errors import DeviceError, FlotillaError
from schemas.layout import MAX_MANIFEST_BYTES
from schemas.manifest import Manifest, decode_manifest

WORTH_A_REQUEST: Final = 64 * 1024
"""What is here already is left out by asking for the rest from there on, where it is at least so many bytes."""


class BundleFetch:
    """One bundle. `work` runs in one thread; `stop` may be called from any.

    Args:
        new: the release's plain manifest; None where it is not at hand.
        root: the agent's folder.
    """

    def __init__(
        self,
        bundle: WantedBundle,
        new: bytes | None,
        wanted: Sequence[WantedObject],
        *,
        http: HttpFetcher,
        root: Path,
        meter: Meter,
        on_bytes: OnBytes,
    ) -> None:
        self._bundle = bundle
        self._new = new
        self._wanted = {want.sha256: want for want in wanted}
        self._http = http
        self._folders = DeviceFolders(root)
        self._downloads = root / "downloads"
        self._meter = meter
        self._on_bytes = on_bytes
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Have `work` end soon; nothing is put in place after this."""
        self._stopped.set()
        self._http.stop()

    def work(self) -> str:
        """Take from the bundle what it yields; empty, or why it did not yield everything.

        Raises:
            DeviceError: `disk.*`; `fetch.limit`. Everything else is a reason to go another way.
        """
        try:
            self._take()
        except (StoppedError, AbandonedError) as error:
            if not self._stopped.is_set():
                raise closed() from error
            return ""
        except FlotillaError as error:
            if error.code.startswith("disk.") or (isinstance(error, DeviceError) and error.code == "fetch.limit"):
                raise
            return f"{error.code}: {error.message}"
        except Exception as error:  # noqa: BLE001  # a reader's defect must not keep the device from the release
            found = defect(error)
            return f"{found.code}: {found.message}"
        lacking = sum(1 for want in self._wanted.values() if not want.destination.exists())
        return f"verify.bundle: {lacking} contents are not in the bundle" if lacking else ""

    def _take(self) -> None:
        old = None if self._bundle.old is None else _manifest(_read(self._bundle.old), "the manifest that is here")
        new = _manifest(self._new, "the manifest of the release")
        sink = _BundleSink(partial(self._reader, old, new), lambda count: self._on_bytes(0, count))
        try:
            self._http.try_each(partial(self._get, sink), progress=lambda: sink.offset)
        finally:
            sink.close()

    def _get(self, sink: "_BundleSink", base: str) -> None:
        while True:
            sink.skip()
            try:
                get_metered(self._http, base, self._bundle.path, sink, limit=self._bundle.size, meter=self._meter)
            except _FurtherOnError:
                continue
            return

    def _reader(self, old: Manifest | None, new: Manifest) -> BundleReader:
        return BundleReader(
            old, new, open_source=_Sources(self._folders, old).open, store=self._store, stored=_Stored(self._wanted)
        )

    @contextlib.contextmanager
    def _store(self, sha256: str, size: int) -> Iterator[BinaryIO]:
        """A temporary file that takes its place when all of it is there, which the reader has checked by then."""
        want = self._wanted[sha256]
        unfinished = self._downloads / f"{want.destination.name}{UNFINISHED}"
        try:
            with disk_errors(f"store content {sha256[:12]}"):
                self._downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    yield file
                self._check_wanted()
                want.destination.parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(want.destination)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        self._on_bytes(size, 0)

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise AbandonedError


class _FurtherOnError(Exception):
    """The bytes that come next are not needed."""


class _BundleSink:
    """See `Sink`."""

    def __init__(self, new_reader: Callable[[], BundleReader], on_wire: Callable[[int], None]) -> None:
        self._new_reader = new_reader
        self._on_wire = on_wire
        self._reader = new_reader()
        self._may_skip = True
        self.offset = 0

    def take(self, packed: bytes) -> None:
        self.offset += len(packed)
        self._on_wire(len(packed))
        self._reader.take(packed)
        if self._may_skip and self._reader.restart_at >= self.offset + WORTH_A_REQUEST:
            raise _FurtherOnError

    def skip(self) -> None:
        """Before a request: leave out what is not needed."""
        if self._may_skip and self._reader.restart_at > self.offset:
            self._reader.go_to(self._reader.restart_at)
            self.offset = self._reader.restart_at

    def restart(self) -> None:
        self.close()
        self._reader = self._new_reader()
        # a server that does not know parts would begin anew each time
        self._may_skip = False
        self.offset = 0

    def finish(self) -> None:
        self._reader.finish()

    def close(self) -> None:
        self._reader.close()


class _Stored:
    """Contents that need not be stored: they are there, or nobody asked for them."""

    def __init__(self, wanted: Mapping[str, WantedObject]) -> None:
        self._wanted = wanted

    def __contains__(self, sha256: object) -> bool:
        want = self._wanted.get(sha256) if isinstance(sha256, str) else None
        return want is None or want.destination.exists()


class _Sources:
    """The contents of the release that a bundle starts from."""

    def __init__(self, folders: DeviceFolders, old: Manifest | None) -> None:
        self._folders = folders
        self._modes: dict[str, set[int]] = {}
        for entry in old.files if old is not None else ():
            self._modes.setdefault(entry.sha256, set()).add(installed_mode(entry.mode))

    def open(self, sha256: str) -> BinaryIO:
        """See `BundleReader`; raises `OSError`."""
        paths = [self._folders.object(sha256, mode) for mode in sorted(self._modes[sha256])]
        return next((path for path in paths if path.exists()), paths[0]).open("rb")


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
        return data if len(data) <= MAX_MANIFEST_BYTES else None
    return None


def _manifest(plain: bytes | None, what: str) -> Manifest:
    if plain is None:
        raise DeviceError("verify.bundle", f"{what} cannot be read")
    return decode_manifest(plain)
