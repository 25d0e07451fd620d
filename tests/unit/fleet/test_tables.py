"""The revision of the fleet's and the rollouts' tables makes exactly what the code declares."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Table

from controller.database import metadata, open_database, reading, sqlite_url
from controller.fleet import tables as fleet
from controller.notify import tables as notify
from controller.rollouts import tables as rollouts

OWN = {t.name for module in (fleet, notify, rollouts) for t in vars(module).values() if isinstance(t, Table)}


def test_the_revision_makes_exactly_the_declared_tables(tmp_path: Path) -> None:
    engine = open_database(sqlite_url(tmp_path / "flotilla.db"))
    with reading(engine) as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda _o, name, kind, *_: kind != "table" or name in OWN,
                "compare_type": True,
                "target_metadata": metadata,
            },
        )
        assert len(OWN) == 12
        assert compare_metadata(context, metadata) == []
    engine.dispose()
