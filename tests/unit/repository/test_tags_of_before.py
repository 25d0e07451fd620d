"""Releases of a database from before their tags stood in their own rows: found by tags, and shown with them."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, insert, select, text

from benchmarks.many_releases import fill
from controller.database import open_database, reading, sqlite_url, writing
from controller.repository.index import Index
from controller.repository.records import ReleaseRecord
from controller.repository.tables import release_tags, releases
from controller.repository.tag_bits import tags_text
from controller.repository.wanted import Wanted
from tests.support.database import downgrade

COUNT = 2300
"""More than two batches of what brings the database along."""
ODD = ('größe "XL"', "a\\b", "c,\td", "\N{LINE SEPARATOR}", "\x7f", "\N{SNAKE}")
"""What JSON may write in more than one way."""
INDEX = "ix_channels_of_version"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "old.db")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A database with releases of one tag, of several and of none, and with numbers that are not used any more."""
    made = open_database(url)
    fill(made, packages=20, count=COUNT)
    with writing(made) as connection:
        connection.execute(delete(releases).where(releases.c.id.between(900, 1099)))
        connection.execute(delete(release_tags).where(release_tags.c.release_id % 7 == 0))
        connection.execute(releases.update().where(releases.c.id % 7 == 0).values(tags="[]"))
        own = release_tags.c.release_id == 1
        row = connection.execute(select(release_tags).where(own)).mappings().first()
        connection.execute(delete(release_tags).where(own))
        connection.execute(insert(release_tags), [{**(row or {}), "tag": tag} for tag in ODD])
        connection.execute(releases.update().where(releases.c.id == 1).values(tags=tags_text(ODD)))
    yield made
    made.dispose()


def tags(engine: Engine) -> dict[int, str]:
    with reading(engine) as connection:
        return {row.id: row.tags for row in connection.execute(select(releases.c.id, releases.c.tags))}


def schema(engine: Engine) -> tuple[bool, bool]:
    """Whether releases have their tags, and channels the index."""
    with reading(engine) as connection:
        columns = set(connection.scalars(text("SELECT name FROM pragma_table_info('releases')")))
        indexes = set(connection.scalars(text("SELECT name FROM pragma_index_list('channels')")))
    return "tags" in columns, INDEX in indexes


def found(engine: Engine, wanted: Collection[str]) -> list[ReleaseRecord]:
    return Index(engine).search(Wanted(tags=list(wanted), limit=1000))


def test_releases_of_before_are_found_by_their_tags(engine: Engine, url: str) -> None:
    before = tags(engine)
    listed = Index(engine).search(Wanted(limit=1000))
    several = next(record.tags for record in listed if len(record.tags) > 1)
    one, both = found(engine, several[:1]), found(engine, several)
    assert len(one) > len(both) > 0
    downgrade(engine, "0009")
    assert schema(engine) == (False, False)
    engine.dispose()

    brought = open_database(url)
    assert schema(brought) == (True, True)
    assert tags(brought) == before
    assert Index(brought).search(Wanted(limit=1000)) == listed
    assert (found(brought, several[:1]), found(brought, several)) == (one, both)
    brought.dispose()
