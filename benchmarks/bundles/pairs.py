"""Pairs of releases: fetched from the package index by name and version, or folders."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from schemas.manifest import FileEntry, Manifest

PIP = [
    *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"),
    *("--implementation", "cp", "--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A step to measure: what to get from where, the most bytes of the bundle, and the best that was known."""

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    bar: int | None = None
    goal: int | None = None
    total: int | None = None


PAIRS = (
    Pair(name="django-patch", old=("Django==5.1.1",), new=("Django==5.1.2",), bar=41_000, goal=39_124, total=47_000),
    Pair(name="django-minor", old=("Django==5.1.4",), new=("Django==5.2",), bar=215_000, goal=211_438, total=240_000),
    Pair(name="numpy", old=("numpy==2.1.1",), new=("numpy==2.1.2",), bar=75_000, goal=71_070, total=80_000),
    Pair(
        name="science",
        old=("plotly==5.24.0", "scipy==1.14.0", "pandas==2.2.2"),
        new=("plotly==5.24.1", "scipy==1.14.1", "pandas==2.2.3"),
        bar=3_300_000,
        goal=3_097_336,
        total=3_330_000,
    ),
    Pair(
        name="aws",
        old=("botocore==1.35.20", "awscli==1.34.20"),
        new=("botocore==1.35.40", "awscli==1.35.6"),
        bar=3_550_000,
        goal=3_537_803,
        total=3_600_000,
    ),
)


def cache() -> Path:
    """Where wheels and trees are kept: `FLOTILLA_BENCH_CACHE`, or a temporary folder."""
    given = os.environ.get("FLOTILLA_BENCH_CACHE")
    return Path(given) if given else Path(tempfile.gettempdir()) / "flotilla-bench"


def tree(requirements: tuple[str, ...]) -> Path:
    """The folder itself, or the unpacked wheels that the requirements name."""
    if len(requirements) == 1 and Path(requirements[0]).is_dir():
        return Path(requirements[0])
    folder = cache() / "trees" / hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheels, unpacked = Path(temporary) / "wheels", Path(temporary) / "tree"
        unpacked.mkdir()
        subprocess.run([*PIP, "-d", str(wheels), *requirements], check=True, timeout=1800)
        for wheel in sorted(wheels.iterdir()):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
        unpacked.rename(folder)
    return folder


def files(folder: Path) -> dict[str, Path]:
    """Each content of a tree by its sha256."""
    return {_sha256(path): path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def manifest(folder: Path, version: str) -> Manifest:
    """The manifest of a tree."""
    entries = [
        FileEntry(path=str(path.relative_to(folder)), size=path.stat().st_size, sha256=_sha256(path))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    entries.sort(key=lambda entry: entry.path)
    return Manifest(format=1, package="benchmark", version=version, platform="any", files=entries)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
