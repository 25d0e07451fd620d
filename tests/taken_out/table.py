"""The table of promises: the `.toml` files beside this one, a file for each part of the project."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
TABLE: Final = Path(__file__).parent


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text of a file that is taken out, and what comes in its place; the text must occur exactly once."""

    file: str
    old: str
    new: str


class Promise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One promise, how the code that keeps it is taken out, and who must notice.

    Attributes:
        name: a few words with hyphens, of its own in the whole table.
        says: the sentence.
        tests: ids as pytest has them, each of which must fail; without parameters, for at least one of them.
        also: further changes, where one alone leaves the promise kept by other code.
    """

    name: str
    says: str
    file: str
    old: str
    new: str
    tests: list[str]
    also: list[Change] = []

    @property
    def changes(self) -> list[Change]:
        """All of them."""
        return [Change(file=self.file, old=self.old, new=self.new), *self.also]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the table.

    Attributes:
        about: what its promises are about, and where they were made.
    """

    about: str
    promise: list[Promise]


def parts() -> dict[str, Part]:
    """The files of the table by their names without `.toml`."""
    return {path.stem: msgspec.toml.decode(path.read_bytes(), type=Part) for path in sorted(TABLE.glob("*.toml"))}


def changed(promise: Promise, root: Path = ROOT) -> Mapping[str, str]:
    """The text that each file has without the code.

    Raises:
        ValueError: a file does not have the text exactly once; one line.
    """
    texts: dict[str, str] = {}
    for change in promise.changes:
        text = texts.get(change.file) or (root / change.file).read_text()
        count = text.count(change.old)
        if count != 1:
            raise ValueError(f"{promise.name}: {change.file} has the text {count} times: {change.old.strip()[:60]!r}")
        texts[change.file] = text.replace(change.old, change.new)
    return texts
