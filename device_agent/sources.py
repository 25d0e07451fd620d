"""Where releases come from. Cheap to import: what an update needs is loaded when one comes."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from device_agent.bandwidth import Bandwidth
from device_agent.faults import disk_fault
from device_agent.seams import (
    NOTHING_AT_HAND,
    ONE_BY_ONE,
    AtHand,
    OnBytes,
    ReleaseSource,
    SignedManifest,
    SourceFactory,
    WantedObject,
    Way,
    Whence,
)
from schemas.errors import NetworkError, TrustError
from schemas.layout import FileHead

MAX_ROOT_BYTES: Final = 512_000
"""As in the TUF client."""


def source_factory(
    *,
    root: Path,
    trusted_root: Callable[[], bytes],
    repositories: Sequence[str],
    now: Callable[[], datetime],
    max_bytes_per_s: int | None = None,
) -> SourceFactory:
    """Makes sources for an agent.

    Args:
        root: its root folder.
        trusted_root: gives the root metadata, e.g. by `read_trusted_root`; called with each source.
        repositories: the configured base URLs, tried before an announcement's.
        now: its clock.
        max_bytes_per_s: the most that all sources together may take of the line.

    Returns:
        A function that takes an announcement's base URLs, or the path of one exported file, and raises nothing: what
        is wrong shows with the first call of the source.
    """

    bandwidth = Bandwidth(max_bytes_per_s) if max_bytes_per_s else None

    def make(whence: Whence) -> ReleaseSource:
        if isinstance(whence, Path):
            return _LoadedLater(lambda: _file_source(whence, root, trusted_root(), now))
        bases = list(dict.fromkeys([*repositories, *whence]))
        if not bases:
            return Nowhere()
        return _LoadedLater(lambda: _http_source(bases, root, trusted_root(), now, bandwidth))

    return make


def read_trusted_root(path: Path) -> bytes:
    """The trusted root file's content; `TrustError` (`trust.root`) where there is none that can be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ROOT_BYTES + 1)
    except FileNotFoundError as error:
        raise TrustError(
            "trust.root", f"there is no trusted root at {path}; write one with `flotilla root` and copy it there"
        ) from error
    except OSError as error:
        raise disk_fault(error, f"read the trusted root {path}") from error
    if len(data) > MAX_ROOT_BYTES:
        raise TrustError("trust.root", f"{path} is over {MAX_ROOT_BYTES} bytes; it is no trusted root")
    return data


def exported_head(path: Path) -> FileHead:
    """What an exported file says it holds, to know what to ask its source for.

    Raises:
        PublisherError: `package.format`.
        TrustError: `trust.unsigned`, where it is an unsigned package file.
        DeviceError: `disk.io`.
    """
    from device_agent.archive import Archive  # noqa: PLC0415  # loaded when it is needed

    archive = Archive(path)
    archive.close()
    return archive.head


class Nowhere:
    """The source where neither the configuration nor an announcement names a repository."""

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        """See `ReleaseSource`; raises `NetworkError` (`fetch.unreachable`)."""
        del version, platform, at_hand
        raise NetworkError(
            "fetch.unreachable",
            f"{package}: this device has heard no announcement that says where to fetch it from; "
            "check the package's name, or set repositories in agent.toml",
        )

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        """See `ReleaseSource`; raises `NetworkError` (`fetch.unreachable`)."""
        del wanted, on_bytes, way
        raise NetworkError("fetch.unreachable", "there is no repository address; set repositories in agent.toml")

    async def close(self) -> None:
        """There is nothing to close."""


class _LoadedLater:
    """Makes the real source in a thread at the first call: loading takes a while on a small board."""

    def __init__(self, make: Callable[[], ReleaseSource]) -> None:
        self._make = make
        self._source: ReleaseSource | None = None

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        return await (await self._loaded()).resolve(package, version, platform, at_hand)

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        return await (await self._loaded()).fetch(wanted, on_bytes, way)

    async def close(self) -> None:
        if self._source is not None:
            await self._source.close()

    async def _loaded(self) -> ReleaseSource:
        if self._source is None:
            self._source = await asyncio.to_thread(self._make)
        return self._source


def _http_source(
    bases: Sequence[str], root: Path, trusted_root: bytes, now: Callable[[], datetime], bandwidth: Bandwidth | None
) -> ReleaseSource:
    from device_agent.http_source import HttpSource  # noqa: PLC0415  # loaded when it is needed
    from device_agent.trust import check_root  # noqa: PLC0415  # the same

    check_root(trusted_root)
    return HttpSource(bases, root=root, trusted_root=trusted_root, now=now, bandwidth=bandwidth)


def _file_source(path: Path, root: Path, trusted_root: bytes, now: Callable[[], datetime]) -> ReleaseSource:
    from device_agent.file_source import FileSource  # noqa: PLC0415  # loaded when it is needed
    from device_agent.trust import check_root  # noqa: PLC0415  # the same

    check_root(trusted_root)
    return FileSource(path, root=root, trusted_root=trusted_root, now=now)
