"""Searches read about as much as they answer, however many releases there are; old databases get what that takes."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from benchmarks.many_releases import BEGUN, CHANNELS, PLATFORMS, TAGS, fill
from controller.database import open_database, reading, searching, sqlite_url
from controller.repository.index import Index
from controller.repository.ordering import newest_first, version_key
from controller.repository.records import ReleaseRecord
from controller.repository.wanted import Wanted
from schemas.ranges import Range
from tests.support.database import downgrade, opened

COUNT = 6000
RANGE = Range("<1.1.0-0 || 1.2.0-rc.5")
STEPS = 1000
"""The database counts its own instructions in thousands."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = opened(tmp_path_factory.mktemp("many") / "flotilla.db")
    fill(made, packages=200, count=COUNT)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def everything(engine: Engine) -> list[ReleaseRecord]:
    """All there is, in order, read without any index but the order's."""
    found: list[ReleaseRecord] = []
    while True:
        page = Index(engine).search(Wanted(limit=1000, after=found[-1].key if found else None))
        found += page
        if len(page) < 1000:
            return found


def fits(record: ReleaseRecord, wanted: Wanted) -> bool:
    """What a search is to do, one release at a time."""
    return (
        (wanted.name is None or record.package == wanted.name)
        and (wanted.version_range is None or wanted.version_range.contains(record.version))
        and (wanted.platform is None or record.platform in (wanted.platform, "any"))
        and set(wanted.tags) <= set(record.tags)
        and (wanted.channel is None or wanted.channel in record.channels)
        and (wanted.since is None or record.created_at >= wanted.since)
        and (wanted.until is None or record.created_at < wanted.until)
    )


def random_question(chance: random.Random, everything: list[ReleaseRecord]) -> dict[str, Any]:
    maybe = {
        "name": chance.choice(everything).package,
        "version_range": Range(chance.choice(["^1.2", "<1.3.0-rc.3", ">=1.1 <1.4 || >=2", "1.1.x", "*", "9.x"])),
        "platform": chance.choice(PLATFORMS),
        "tags": chance.sample(TAGS[:40], chance.choice([1, 1, 2])),
        "channel": chance.choice(CHANNELS),
        "since": BEGUN + timedelta(days=chance.choice([1, 300, 600])),
        "until": BEGUN + timedelta(days=chance.choice([302, 650])),
        "after": chance.choice(everything).key,
    }
    return {key: value for key, value in maybe.items() if chance.random() < 0.3}


@pytest.mark.parametrize("seed", range(40))
def test_every_way_finds_what_looking_at_each_release_finds(
    engine: Engine, everything: list[ReleaseRecord], seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(5):
        question = random_question(chance, everything)
        wanted = Wanted(limit=chance.choice([1, 7, 60]), **question)
        keys = [record.key for record in everything]
        begin = keys.index(wanted.after) + 1 if wanted.after else 0
        expected = [record for record in everything[begin:] if fits(record, wanted)][: wanted.limit]
        assert Index(engine).search(wanted) == expected, question


@pytest.mark.parametrize(
    "question",
    [
        {"name": "package-00007"},
        {"name": "package-00007", "version_range": Range("^1.1")},
        {"name": "package-00007", "channel": "beta"},
        {"after": "package-00150@1.0.0@any"},
        {"platform": "any", "after": "package-00150@1.0.0@any"},
        {"platform": "linux-none", "after": "package-00150@1.0.0@any"},
        {"platform": "linux-armv7", "after": "package-00150@1.0.0@any"},
        {"tags": ["tag-3"], "after": "package-00150@1.0.0@any"},
        {"tags": ["tag-190"]},
        {"tags": ["tag-5", "tag-6"]},
        {"channel": "beta", "after": "package-00150@1.0.0@any"},
        {"since": BEGUN + timedelta(days=300), "until": BEGUN + timedelta(days=301)},
        {"since": BEGUN + timedelta(days=300), "until": BEGUN + timedelta(days=301), "tags": ["tag-0"]},
        {"name": "package-0019*"},
        {"version_range": Range("^4.1")},
        {"version_range": Range("<1.0.1-0 || 4.1.0-rc.1 || >=5")},
    ],
)
def test_a_search_reads_little(engine: Engine, question: dict[str, Any]) -> None:
    """The bound is far below the 6 000 releases: reading them all takes over 60 000 instructions.

    Looking up each release with one of two tags, rather than comparing their bits in the index, takes more too.
    """
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, STEPS // 10)

    looking = searching(engine)
    event.listen(looking, "checkout", watch)
    try:
        assert Index(engine).search(Wanted(limit=20, **question))
    finally:
        event.remove(looking, "checkout", watch)
        with looking.connect() as connection:
            connection.connection.dbapi_connection.set_progress_handler(None, 0)  # type: ignore[union-attr]
    assert counted * STEPS // 10 < 5_500


def test_the_turned_key_sorts_the_other_way_round() -> None:
    versions = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.10.0", "10.0.0"]
    keys = [newest_first(version_key(version)) for version in versions]
    assert keys == sorted(keys, reverse=True)
    assert len(set(keys)) == len(keys)


def test_a_database_from_before_is_brought_along(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "old.db")
    engine = open_database(url)
    fill(engine, packages=5, count=40)
    before = Index(engine).search(Wanted(limit=100))
    downgrade(engine, "0002")
    with reading(engine) as connection:
        columns = set(connection.scalars(text("SELECT name FROM pragma_table_info('releases')")))
    assert "newest_first" not in columns
    engine.dispose()
    engine = open_database(url)
    assert Index(engine).search(Wanted(limit=100)) == before
    assert Index(engine).search(Wanted(tags=before[0].tags))[0] == before[0]
    in_range = [record for record in before if RANGE.contains(record.version)]
    assert Index(engine).search(Wanted(version_range=RANGE)) == in_range
    engine.dispose()
