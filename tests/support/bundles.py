"""Releases that bundles are good for, and their bundles made in this process.

releases = Releases(tmp_path)
first = releases.add("1.0.0", pages(1))
second = releases.add("1.1.0", pages(2))
make_bundles(releases.repository, second)
"""

import hashlib
import io
import random
from pathlib import Path

import msgspec

from controller.repository.bundle_jobs import Line, lines
from controller.repository.bundle_worker import Work
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from schemas.bundles import BundleIndex
from schemas.layout import bundle_index_path

_WORDS = [hashlib.sha256(str(number).encode()).hexdigest()[:7] for number in range(400)]


def pages(edition: int, *, count: int = 8, lines_each: int = 120) -> dict[str, bytes | str]:
    """Text files of which editions have nearly all in common, but hardly one file as a whole."""
    made: dict[str, bytes | str] = {}
    for number in range(count):
        chance = random.Random(number)  # the same in every run
        text = [" ".join(chance.choice(_WORDS) for _ in range(8)) for _ in range(lines_each)]
        text[number % lines_each] = f"edition {edition} of page {number}"
        made[f"pages/{number}.txt"] = "\n".join(text)
    made["same.txt"] = "in every edition\n" * 20
    return made


def make_bundles(repository: PackageRepository, record: ReleaseRecord, *, last: int = 3) -> list[Line]:
    """Make what is missing; gives what the process that makes bundles would say."""
    job = repository.bundles.missing(record, last=last)
    if job is None:
        return []
    out = io.BytesIO()
    Work(job, out).run()
    return [lines.decode(line) for line in out.getvalue().splitlines()]


def index_file(repository: PackageRepository, record: ReleaseRecord) -> Path:
    """The list of the bundles that lead to a release."""
    return repository.folder / bundle_index_path(record.manifest)


def index_of(repository: PackageRepository, record: ReleaseRecord) -> BundleIndex:
    """The same, read."""
    return msgspec.json.decode(index_file(repository, record).read_bytes(), type=BundleIndex)


def bundle_files(repository: PackageRepository, record: ReleaseRecord, pattern: str) -> list[Path]:
    """Files that lead to a release, by their names' pattern."""
    return sorted(index_file(repository, record).parent.glob(pattern))
