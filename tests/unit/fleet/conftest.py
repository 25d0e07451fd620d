"""A database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.database import opened


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = opened(tmp_path / "flotilla.db")
    yield made
    made.dispose()
