"""Databases for tests that mean to use one, not to see one made: that takes longer than most of these tests."""

import tempfile
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from controller import database
from controller.database import open_database, sqlite_url, writing


def opened(file: Path) -> Engine:
    """The database in this file; one that is not there yet has this version's tables, as every revision made them."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_empty())
    return open_database(sqlite_url(file))


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to the tables of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        open_database(sqlite_url(file)).dispose()  # whoever closes it last brings all that was written into the file
        assert [left.name for left in Path(folder).iterdir()] == [file.name]
        return file.read_bytes()
