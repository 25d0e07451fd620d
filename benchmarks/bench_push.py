"""What a push writes and how long it takes, by what the repository holds already.

python -m benchmarks.bench_push [--pushes N]

Makes repositories with real signed metadata and index rows for very many releases, without packing any, and
pushes small packages to them. Bytes are what the process wrote (/proc/self/io), its database included, and the
sizes of the metadata files that are new; a device reads snapshot and role at each update, and targets where a
package was new.
"""

import hashlib
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import insert

from benchmarks.common import CONSOLE, print_table, state_machine
from benchmarks.many_releases import version_of
from controller.database import open_database, sqlite_url, writing
from controller.packaging.package_file import write_package
from controller.repository.index import release_values
from controller.repository.keys import KeyStore
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from controller.repository.signing import Edition, Lifetimes
from controller.repository.tables import STORED, releases
from schemas.layout import package_file_name, target_name
from schemas.manifest import MANIFEST_FORMAT, FileEntry, Manifest

PUSHED: Final = "pushed"
CASES: Final = (
    ("releases of 9 other packages", 9, 10, 1),
    ("", 9, 1_000, 1),
    ("", 9, 10_000, 1),
    ("releases of many packages", 100, 1_000, 1),
    ("", 500, 2_500, 1),
    ("", 1_999, 10_000, 1),
    ("releases of the package itself", 9, 10, 100),
    ("", 9, 10, 1_000),
    ("", 9, 10, 10_000),
)
"""What grows, number of other packages, of their releases, and of releases of the package that is pushed to."""


@click.command()
@click.option("--pushes", type=click.IntRange(3), default=10, show_default=True, help="In each repository.")
def main(pushes: int) -> None:
    """Measure pushes into repositories of many sizes."""
    state_machine()
    rows = []
    for title, packages, others, own in CASES:
        with tempfile.TemporaryDirectory() as folder:
            repository = _filled(Path(folder), packages, others, own)
            measured = [_push(repository, Path(folder), own + number) for number in range(pushes)]
            new_package = _push(repository, Path(folder), 0, package="brand-new")
        middle = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        rows.append(
            (
                title,
                f"{packages + 1}",
                f"{others + own}",
                f"{own}",
                *(f"{middle[key]:.0f}" for key in ("role", "snapshot", "timestamp", "written")),
                f"{middle['ms']:.0f}",
                f"{new_package['targets']:.0f}",
                f"{new_package['ms']:.0f}",
            )
        )
        CONSOLE.print(f"{packages + 1} packages, {others + own} releases: done")
    columns = ("grows", "packages", "releases", "own", "role B", "snapshot B", "timestamp B", "all written B", "ms")
    print_table(
        f"median of {pushes} pushes of a small release; last two columns: a new package",
        (*columns, "targets B", "ms"),
        rows,
    )


def _filled(folder: Path, packages: int, others: int, own: int) -> PackageRepository:
    engine = open_database(sqlite_url(folder / "flotilla.db"))
    repository = PackageRepository(folder / "repository", engine)
    now = datetime.now(UTC)
    names = [f"package-{number:05d}" for number in range(packages)]
    wanted = [(names[number % packages], number // packages) for number in range(others)]
    wanted += [(PUSHED, number) for number in range(own)]
    trusted = TrustedMetadata(repository.folder / "metadata")
    edition = Edition(trusted, KeyStore(folder / "keys"), Lifetimes(), now)
    rows: list[dict[str, Any]] = []
    for package, number in wanted:
        version = version_of(number)
        digest = hashlib.sha256(f"{package} {version}".encode()).hexdigest()
        manifest = _manifest(package, version, digest)
        custom = {"manifest": digest, "size": 1000}
        edition.put(package, target_name(package, version, "any"), 500, digest, custom)
        values = release_values(manifest, manifest_sha256=digest, target=digest, packed=500, now=now)
        rows.append({**values, "state": STORED})
    edition.publish()
    with writing(engine) as connection:
        for start in range(0, len(rows), 1000):
            connection.execute(insert(releases), rows[start : start + 1000])
    return repository


def _push(repository: PackageRepository, folder: Path, number: int, package: str = PUSHED) -> dict[str, float]:
    content = f"release {number} of {package}".encode()
    version = version_of(number)
    manifest = _manifest(package, version, hashlib.sha256(content).hexdigest(), len(content))
    file = folder / package_file_name(package, version, "any")
    source = folder / "content"
    source.write_bytes(content)
    write_package(file, manifest, lambda _: source.open("rb"))
    metadata = repository.folder / "metadata"
    before = {path.name for path in metadata.iterdir()}
    written, begun = _written(), time.perf_counter()
    repository.add(file)
    elapsed, written = time.perf_counter() - begun, _written() - written
    sizes = {path.name: path.stat().st_size for path in metadata.iterdir() if path.name not in before}
    found = {"role": 0.0, "snapshot": 0.0, "targets": 0.0}
    for name, size in sizes.items():
        found[{"snapshot.json": "snapshot", "targets.json": "targets"}.get(name.partition(".")[2], "role")] += size
    found["timestamp"] = (metadata / "timestamp.json").stat().st_size
    return {**found, "written": float(written), "ms": elapsed * 1000}


def _manifest(package: str, version: str, digest: str, size: int = 1000) -> Manifest:
    files = [FileEntry(path="a", size=size, sha256=digest, mode=0o644)]
    return Manifest(format=MANIFEST_FORMAT, package=package, version=version, platform="any", files=files)


def _written() -> int:
    """Bytes that this process has handed to write calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))


if __name__ == "__main__":
    main()
