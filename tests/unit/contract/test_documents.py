"""The documents under docs/contract are what the code says."""

from pathlib import Path

import pytest

from device_agent.lifecycle import refresh_document
from schemas.documents import contract_documents
from tests.contract_documents import FOLDER, WITH_DIAGRAM


def test_the_contract_documents_are_current() -> None:
    written = {path.name: path.read_text() for path in FOLDER.iterdir() if path.name != "README.md"}
    assert written == contract_documents(), "run `make contract` and commit the result"


@pytest.mark.parametrize("path", WITH_DIAGRAM, ids=lambda path: path.name)
def test_the_diagrams_are_drawn_from_the_table(path: Path) -> None:
    text = path.read_text()
    assert "stateDiagram-v2" in text
    assert text == refresh_document(text), "run `make contract` and commit the result"
