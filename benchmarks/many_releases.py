"""Fills an index with very many releases, by the rows that storing one makes, and without packing any."""

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from sqlalchemy import Engine, insert

from controller.database import to_db, writing
from controller.repository.index import release_values, tag_values
from controller.repository.tables import STORED, channels, release_tags, releases
from schemas.manifest import MANIFEST_FORMAT, FileEntry, Manifest

BEGUN: Final = datetime(2024, 1, 1, tzinfo=UTC)
DAYS: Final = 700
PLATFORMS: Final = ("any", "linux-aarch64", "linux-armv7", "linux-x86_64")
CHANNELS: Final = ("stable", "beta", "nightly", "lab")
TAGS: Final = tuple(f"tag-{number}" for number in range(200))
"""The lower its number, the more releases have it: the first is on half of them, the last on about one in 10 000."""
_AT_ONCE: Final = 2000


def fill(engine: Engine, *, packages: int, count: int, seed: int = 1) -> list[str]:
    """Put `count` releases of `packages` packages into an empty index; returns the packages' names.

    One package in a hundred has ten times as many releases as the others.
    """
    chance = random.Random(seed)
    names = [f"package-{number:05d}" for number in range(packages)]
    weights = [10 if number % 100 == 0 else 1 for number in range(packages)]
    owners = names + chance.choices(names, weights, k=count - packages)
    versions = dict.fromkeys(names, 0)
    rows = _rows(owners, versions, chance)
    row_id = 0
    while some := list(islice(rows, _AT_ONCE)):
        tags: list[dict[str, Any]] = []
        for row, names_of_tags in some:
            row_id += 1
            row["id"] = row_id
            tags += tag_values(row_id, row, names_of_tags)
        with writing(engine) as connection:
            connection.execute(insert(releases), [row for row, _ in some])
            if tags:
                connection.execute(insert(release_tags), tags)
    _point_channels(engine, versions, chance)
    return names


def version_of(number: int) -> str:
    """The versions of every package: each third is a pre-release of the next minor."""
    major, minor, patch = 1 + number // 60, number // 3 % 20, number % 3
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}.0-rc.{1 + number % 7}"


def _rows(
    owners: list[str], versions: dict[str, int], chance: random.Random
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    for package in owners:
        version = version_of(versions[package])
        versions[package] += 1
        digest = hashlib.sha256(f"{package} {version}".encode()).hexdigest()
        tags = sorted({TAGS[int(len(TAGS) * chance.random() ** 3)] for _ in range(3)})
        manifest = Manifest(
            format=MANIFEST_FORMAT,
            package=package,
            version=version,
            platform=chance.choices(PLATFORMS, (6, 2, 1, 1))[0],
            description="One of very many releases",
            tags=tags,
            files=[FileEntry(path="a", size=1000, sha256=digest, mode=0o644)],
        )
        stored = BEGUN + timedelta(days=DAYS * chance.random())
        values = release_values(manifest, manifest_sha256=digest, target=digest, packed=500, now=stored)
        yield {**values, "state": STORED}, tags


def _point_channels(engine: Engine, versions: dict[str, int], chance: random.Random) -> None:
    rows = [
        {"package": package, "channel": channel, "version": version_of(chance.randrange(count)), "set_at": to_db(BEGUN)}
        for package, count in versions.items()
        for channel in CHANNELS
    ]
    with writing(engine) as connection:
        connection.execute(insert(channels), rows)
