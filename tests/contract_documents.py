"""Writes the documents that are made from the code: `make contract`. A test holds them against it."""

from pathlib import Path

from device_agent.lifecycle import refresh_document
from schemas.documents import contract_documents

ROOT = Path(__file__).parents[1]
WITH_DIAGRAM = (ROOT / "docs" / "lifecycle.md", ROOT / "README.md")
FOLDER = ROOT / "docs" / "contract"


def main() -> None:
    """Write every document anew and remove those that are no longer made."""
    documents = contract_documents()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name not in documents and path.name != "README.md":
            path.unlink()
    for name, text in documents.items():
        (FOLDER / name).write_text(text)
    for path in WITH_DIAGRAM:
        path.write_text(refresh_document(path.read_text()))


if __name__ == "__main__":
    main()
