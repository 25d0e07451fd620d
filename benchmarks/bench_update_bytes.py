"""What an update costs a device that has the release before, byte for byte: `python -m benchmarks.bench_update_bytes`.

A real repository is served over loopback, and the agent's own source fetches from it: signed metadata, the list of
bundles, the manifest (as its difference) and the contents (by the route that the agent chooses). What the server gave
is counted, bodies only; heads are some 300 bytes a request more.
"""

import argparse
import asyncio
import io
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.common import CONSOLE, print_table, state_machine
from benchmarks.wheels import PAIRS, Pair, unpacked
from controller.database import open_database, sqlite_url
from controller.packaging.package_creator import PackageCreator
from controller.repository.bundle_worker import Work
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from device_agent.http_source import HttpSource
from device_agent.seams import AtHand, Way
from device_agent.steps.routing import Router
from device_agent.store import ReleaseStore
from schemas.routes import Route

PACKAGE: Final = "bench"
PLATFORM: Final = "linux-x86_64"


class Device:
    """As much of an agent as fetching and staging take."""

    def __init__(self, root: Path, base: str, trusted_root: bytes) -> None:
        self._store = ReleaseStore(root)
        self._router = Router(self._store)
        self._source = HttpSource([base], root=root, trusted_root=trusted_root, now=lambda: datetime.now(UTC))

    async def install(self, version: str) -> tuple[Route, str]:
        """Fetch and stage a release; gives the route that was taken, and why it was left if it was."""
        manifests = self._router.manifests(PACKAGE, None)
        signed = await self._source.resolve(PACKAGE, version, PLATFORM, AtHand(manifests=manifests))
        missing = self._store.objects.missing(signed.manifest)
        route, bundle = self._router.route(signed, missing, manifests, bundles=True)
        fell_back = await self._source.fetch(missing, lambda _plain, _wire: None, Way(bundle=bundle))
        self._store.objects.complete(signed.manifest)
        self._store.stage(signed.manifest, signed.sha256, signed.plain, lambda _folder: None)
        return route, fell_back

    async def close(self) -> None:
        """Close connections."""
        await self._source.close()


class Handler(SimpleHTTPRequestHandler):
    """Counts what it gives."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    given: Counter[str]

    def __init__(self, *args: Any, given: Counter[str], directory: str) -> None:
        self.given = given
        super().__init__(*args, directory=directory)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file."""
        data = source.read()
        self.given[kind_of(self.path)] += len(data)
        outputfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def kind_of(path: str) -> str:
    """What a file is, for the table."""
    if path.startswith("/metadata/"):
        return "metadata"
    if path.endswith("/index.json"):
        return "list"
    if path.endswith(".manifest") or path.startswith("/targets/"):
        return "manifest"
    return "bundle" if path.endswith(".bundle") else "objects"


@contextmanager
def served(folder: Path, given: "Counter[str]") -> Iterator[str]:
    """Serve a folder on a free loopback port."""
    handler = partial(Handler, given=given, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


def add(repository: PackageRepository, pair: tuple[str, ...], version: str, kept: Path, scratch: Path) -> ReleaseRecord:
    """Build and add a release of unpacked wheels."""
    source = scratch / version
    source.mkdir()
    unpacked(pair, kept, source)
    (source / "flotilla.toml").write_text(f'[package]\nname = "{PACKAGE}"\nversion = "{version}"\n')
    return repository.add(PackageCreator(source).build(platform=PLATFORM, out=scratch).path)


def measure(pair: Pair, kept: Path, workers: int) -> list[str]:
    """One row of the table."""
    given: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as name:
        folder = Path(name)
        engine = open_database(sqlite_url(folder / "flotilla.db"))
        repository = PackageRepository(folder / "repository", engine)
        add(repository, pair.old, "1.0.0", kept, folder)
        with served(repository.folder, given) as base:
            device = Device(folder / "device", base, repository.trusted_root())
            asyncio.run(device.install("1.0.0"))
            begun = time.monotonic()
            make(repository, add(repository, pair.new, "2.0.0", kept, folder), workers)
            made_s = time.monotonic() - begun
            given.clear()
            begun = time.monotonic()
            route, fell_back = asyncio.run(device.install("2.0.0"))
            seconds = time.monotonic() - begun
        engine.dispose()
    total = given.total()
    note = f"{route.kind.value}{' then objects: ' + fell_back if fell_back else ''}"
    kinds = [str(given[kind]) for kind in ("bundle", "objects", "manifest", "list", "metadata")]
    verdict = "yes" if total <= pair.update else "NO"
    return [pair.name, *kinds, str(total), str(pair.update), verdict, note, f"{made_s:.0f}", f"{seconds:.1f}"]


def make(repository: PackageRepository, record: ReleaseRecord, workers: int) -> None:
    """Make the bundle from the release before, as the controller's worker does."""
    job = repository.bundles.missing(record, last=1, workers=workers)
    if job is not None:
        from_before = [source for source in job.sources if source is not None]
        Work(msgspec.structs.replace(job, sources=from_before), io.BytesIO()).run()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder to keep the fetched wheels in")
    parser.add_argument("--pair", type=int, action="append", help="only this pair (1 to 5); may be repeated")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make a bundle")
    options = parser.parse_args()
    state_machine()
    with tempfile.TemporaryDirectory(prefix="flotilla-wheels-") as scratch:
        kept = options.wheels or Path(scratch)
        rows = []
        for number, pair in enumerate(PAIRS, start=1):
            if not options.pair or number in options.pair:
                rows.append(measure(pair, kept, options.workers))
                CONSOLE.print(" ".join(rows[-1]))
    columns = ["update", "bundle", "objects", "manifest", "list", "metadata", "in all", "bar", "within", "route"]
    print_table("Bytes that a device with the release before fetches", [*columns, "make s", "update s"], rows)


if __name__ == "__main__":
    main()
