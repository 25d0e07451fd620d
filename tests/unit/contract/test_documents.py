"""The documents under docs/contract are what the code says."""

from schemas.documents import contract_documents
from tests.contract_documents import FOLDER


def test_the_contract_documents_are_current() -> None:
    written = {path.name: path.read_text() for path in FOLDER.iterdir() if path.name != "README.md"}
    assert written == contract_documents(), "run `make contract` and commit the result"
