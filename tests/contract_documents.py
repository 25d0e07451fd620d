"""Writes the documents that are made from the code: `make contract`. A test holds them against it."""

from pathlib import Path

from device_agent.lifecycle import refresh_document
from schemas.documents import contract_documents

LIFECYCLE = Path(__file__).parents[1] / "docs" / "lifecycle.md"
FOLDER = Path(__file__).parents[1] / "docs" / "contract"


def main() -> None:
    """Write every document anew and remove those that are no longer made."""
    documents = contract_documents()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.iterdir():
        if path.name not in documents and path.name != "README.md":
            path.unlink()
    for name, text in documents.items():
        (FOLDER / name).write_text(text)
    LIFECYCLE.write_text(refresh_document(LIFECYCLE.read_text()))


if __name__ == "__main__":
    main()
