"""A database of its own for each test, and passwords that cost nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.database import opened
from tests.support.in_process import cheap_passwords


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = opened(tmp_path / "flotilla.db")
    with cheap_passwords():
        yield made
    made.dispose()
