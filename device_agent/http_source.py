"""Releases from repositories that any web server can serve."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from device_agent.bandwidth import Bandwidth
from device_agent.batch import Batch, closed
from device_agent.fetcher import HttpFetcher, Patience, StoppedError
from device_agent.meter import Meter
from device_agent.resolving import Resolver, kept_manifest
from device_agent.seams import (
    NOTHING_AT_HAND,
    ONE_BY_ONE,
    AtHand,
    OnBytes,
    SignedManifest,
    WantedBundle,
    WantedObject,
    Way,
)
from device_agent.trust import TrustStore
from device_agent.workers import run_in_threads

WORKERS: Final = 3
"""Enough to hide the round trips of small files; more would only cost memory."""


class HttpSource:
    """A `ReleaseSource`. One call at a time.

    Args:
        bases: repositories' URLs in the order in which to try them.
        root: the agent's root folder; metadata and partial downloads are kept in it.
        trusted_root: root metadata.
        now: the device's clock.
        bandwidth: what fetching may take of the line.
    """

    def __init__(
        self,
        bases: Sequence[str],
        *,
        root: Path,
        trusted_root: bytes,
        now: Callable[[], datetime],
        patience: Patience | None = None,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._root = root
        self._downloads = root / "downloads"
        self._trust = TrustStore(root / "metadata", trusted_root, now)
        self._http = HttpFetcher(bases, patience=patience, connections=WORKERS, bandwidth=bandwidth)

    async def resolve(
        self, package: str, version: str, platform: str, at_hand: AtHand = NOTHING_AT_HAND
    ) -> SignedManifest:
        """See `ReleaseSource`."""
        http = self._http = self._http.usable()
        resolver = Resolver(http, self._trust, self._downloads, at_hand)
        work = partial(resolver.resolve, package, version, platform)
        try:
            (signed,) = await run_in_threads([work], name=f"resolve {package}", stop=http.stop)
        except StoppedError as error:
            raise closed() from error
        return signed

    async def fetch(self, wanted: Sequence[WantedObject], on_bytes: OnBytes, way: Way = ONE_BY_ONE) -> str:
        """See `ReleaseSource`."""
        if not wanted:
            return ""
        meter, fell_back = Meter(way.max_bytes), ""
        if way.bundle is not None:
            fell_back = await self._fetch_bundle(wanted, on_bytes, way.bundle, meter)
            wanted = [want for want in wanted if not want.destination.exists()]
        if wanted:
            http = self._http = self._http.usable()
            batch = Batch(wanted, http, self._downloads, on_bytes, meter)
            await run_in_threads([batch.clear], name="clear downloads", stop=batch.stop)
            workers = [batch.work] * min(WORKERS, len(wanted))
            await run_in_threads(workers, name="fetch", stop=batch.stop)
        return fell_back

    async def _fetch_bundle(
        self, wanted: Sequence[WantedObject], on_bytes: OnBytes, bundle: WantedBundle, meter: Meter
    ) -> str:
        from device_agent.bundle_fetch import BundleFetch  # noqa: PLC0415  # loaded when it is needed

        http = self._http = self._http.usable()
        manifest = await asyncio.to_thread(kept_manifest, self._downloads, bundle.new)
        fetching = BundleFetch(bundle, manifest, wanted, http=http, root=self._root, meter=meter, on_bytes=on_bytes)
        (fell_back,) = await run_in_threads([fetching.work], name="fetch a bundle", stop=fetching.stop)
        return fell_back

    async def close(self) -> None:
        """See `ReleaseSource`."""
        self._http.close()
