"""Real releases to measure updates with: pairs of wheels by name and version, fetched with pip and unpacked."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FETCH_S: Final = 600.0
_PLATFORMS: Final = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An update of a tree of installed wheels.

    Attributes:
        old, new: what pip is asked for, e.g. `Django==5.1.1`.
        bundle: most bytes that the bundle may have.
        update: most bytes that a device with the old release may fetch in all.
    """

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    bundle: int
    update: int


PAIRS: Final = (
    Pair(name="Django 5.1.1 → 5.1.2", old=("Django==5.1.1",), new=("Django==5.1.2",), bundle=41_000, update=47_000),
    Pair(name="Django 5.1.4 → 5.2", old=("Django==5.1.4",), new=("Django==5.2",), bundle=215_000, update=240_000),
    Pair(name="numpy 2.1.1 → 2.1.2", old=("numpy==2.1.1",), new=("numpy==2.1.2",), bundle=75_000, update=80_000),
    Pair(
        name="plotly + scipy + pandas",
        old=("plotly==5.24.0", "scipy==1.14.0", "pandas==2.2.2"),
        new=("plotly==5.24.1", "scipy==1.14.1", "pandas==2.2.3"),
        bundle=3_300_000,
        update=3_330_000,
    ),
    Pair(
        name="botocore + awscli",
        old=("botocore==1.35.20", "awscli==1.34.20"),
        new=("botocore==1.35.40", "awscli==1.35.6"),
        bundle=3_550_000,
        update=3_600_000,
    ),
)


def unpacked(requirements: tuple[str, ...], kept: Path, destination: Path) -> None:
    """Fetch wheels for CPython 3.11 on x86-64 unless they are kept from before, and unpack them.

    Raises:
        subprocess.CalledProcessError: where pip cannot get one; it has said why.
    """
    for requirement in requirements:
        folder = kept / requirement
        if not list(folder.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--python-version", "3.11", "--implementation", "cp", "--dest", str(folder)]
            command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
            subprocess.run([*command, requirement], check=True, timeout=_FETCH_S)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(destination)
