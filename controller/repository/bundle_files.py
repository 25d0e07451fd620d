"""Bundles in the repository's folder: where they lie, the list of those that lead to a release, what is left over.

bundles/{sha256 of the release's plain manifest}/index.json     the list: replaced whole, never cached
bundles/{…}/from-{plain manifest}.{own hash}.bundle             immutable, as is all the rest
bundles/{…}/full.{own hash}.bundle
bundles/{…}/from-{plain manifest}.{own hash}.manifest
bundles/{…}/.tried.json                                         what was not worth keeping, or failed; not served
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from controller.packaging.whole_file import whole_file
from controller.repository.files import CHUNK, disk_errors, size_of, sync_folder
from controller.repository.records import Problem
from controller.repository.storage import Storage, remove_if_older
from schemas.bundles import MAX_BUNDLE_INDEX_BYTES, BundleEntry, BundleIndex, ObjectsCost
from schemas.layout import BUNDLE_FILE_PATTERN, BUNDLE_INDEX, BUNDLES, bundle_folder
from schemas.names import SHA256_PATTERN, matches

FULL: Final = "full"
"""How a bundle that starts from nothing is called in `Tried`."""
_TRIED: Final = ".tried.json"
_WAIT_S: Final = 3600.0
_LONGEST_WAIT_S: Final = 7 * 24 * 3600.0
_MAX_REASON: Final = 500


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that could not be made.

    Attributes:
        reason: of the last attempt, for people.
        attempts: how many there were.
        at: when the last was (seconds since 1970).
    """

    reason: str
    attempts: int
    at: float

    @property
    def again_at(self) -> float:
        """When it may be tried again by itself: the first failure may be chance, those after it cost more and more."""
        if self.attempts < 2:
            return self.at
        return self.at + min(_LONGEST_WAIT_S, _WAIT_S * (1 << min(self.attempts - 2, 20)))


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What is not to be made again, or not yet. A source is a plain manifest, or `full`.

    Attributes:
        larger: source to the bytes of a bundle, and of the objects that are no larger.
        failed: source to what went wrong.
    """

    larger: dict[str, tuple[int, int]] = {}
    failed: dict[str, Failure] = {}


_index = msgspec.json.Decoder(BundleIndex)
_tried = msgspec.json.Decoder(Tried)


class BundleFiles:
    """The files below `bundles/`. All methods block and raise `OperatorError`, `disk.full` or `disk.io`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._root = storage.folder / BUNDLES

    def folder(self, to: str) -> Path:
        """Where everything is that leads to the release with this plain manifest."""
        return self._storage.folder / bundle_folder(to)

    def index(self, to: str) -> BundleIndex | None:
        """The list, without what is not there; None where there is none that can be read."""
        folder = self.folder(to)
        try:
            with (folder / BUNDLE_INDEX).open("rb") as file:
                found = _index.decode(file.read(MAX_BUNDLE_INDEX_BYTES + 1))
        except (OSError, msgspec.MsgspecError):
            return None
        there = [entry for entry in found.bundles if _is_there(folder, entry)]
        return msgspec.structs.replace(found, bundles=there) if found.manifest == to else None

    def tried(self, to: str) -> Tried:
        """What is not to be made again."""
        try:
            return _tried.decode((self.folder(to) / _TRIED).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return Tried()

    def begin(self, to: str, objects: ObjectsCost) -> None:
        """Make the folder and an empty list, where there is none: it tells what the objects weigh."""
        folder = self.folder(to)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if self.index(to) is None:
            self._write_index(BundleIndex(manifest=to, objects=objects))

    def put(self, to: str, entry: BundleEntry, files: Collection[Path]) -> None:
        """Put a bundle's files in place, then name them in the list. A file's name is already what it will be.

        Args:
            files: on the file system of the repository, flushed.
        """
        folder = self.folder(to)
        urls = {f"{bundle_folder(to)}/{file.name}": file for file in files}
        with disk_errors(folder), self._storage.putting(urls):
            for file in files:
                file.replace(folder / file.name)
            sync_folder(folder)
        index = self.index(to)
        if index is None:
            raise ValueError("begin comes before put")
        others = [one for one in index.bundles if one.source != entry.source]
        self._write_index(msgspec.structs.replace(index, bundles=[*others, entry]))
        tried = self.tried(to)
        if (entry.source or FULL) in tried.failed:
            self._write_tried(to, _without(tried, entry.source or FULL))

    def note_larger(self, to: str, source: str | None, size: int, objects: int) -> None:
        """A bundle that was made is no smaller than the objects: it is not kept, and not made again."""
        tried = _without(self.tried(to), source or FULL)
        larger = {**tried.larger, source or FULL: (size, objects)}
        self._write_tried(to, msgspec.structs.replace(tried, larger=larger))

    def note_failed(self, to: str, source: str | None, reason: str, moment: float) -> None:
        """A bundle could not be made: it is tried again later and later."""
        tried = self.tried(to)
        before = tried.failed.get(source or FULL)
        attempts = before.attempts + 1 if before else 1
        failure = Failure(reason=reason[:_MAX_REASON], attempts=attempts, at=moment)
        with disk_errors(self.folder(to)):
            self.folder(to).mkdir(parents=True, exist_ok=True)
        self._write_tried(to, msgspec.structs.replace(tried, failed={**tried.failed, source or FULL: failure}))

    def forget_failures(self, to: str) -> None:
        """What failed may be tried again at once."""
        tried = self.tried(to)
        if tried.failed:
            self._write_tried(to, msgspec.structs.replace(tried, failed={}))

    def collect(self, needed: Collection[str], moment: float) -> tuple[int, int]:
        """Remove what leads to releases that are gone, and files that no list names any more.

        Args:
            needed: plain manifests of the releases that are there.
            moment: what changed after it stays (seconds since 1970).

        Returns:
            How many files, and how many bytes.
        """
        count = freed = 0
        for folder in self._folders():
            to = folder.name
            index = self.index(to) if to in needed else None
            named = {BUNDLE_INDEX, _TRIED} if to in needed else set()
            for entry in index.bundles if index else ():
                named.update(name for name, _ in _parts(entry))
            for path in folder.iterdir():
                if path.name not in named:
                    removed = remove_if_older(path, moment)
                    count, freed = count + removed[0], freed + removed[1]
            if to not in needed:
                with suppress(OSError):
                    folder.rmdir()
        return count, freed

    def statistics(self) -> tuple[int, int]:
        """How many bundles and manifest differences there are, and their bytes."""
        sizes = [size_of(path) for path in self._files()]
        return len(sizes), sum(sizes)

    def verify(self, needed: Collection[str]) -> list[Problem]:
        """What is damaged or missing. A device does not trust a bundle either, and goes another way."""
        found = [
            _problem(path, "does not have the hash in its name; remove it, it is made again")
            for path in self._files()
            if _hash_of(path)[:16] != path.name.rsplit(".", 2)[1]
        ]
        for folder in self._folders():
            try:
                index = _index.decode((folder / BUNDLE_INDEX).read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, msgspec.MsgspecError):
                found.append(_problem(folder / BUNDLE_INDEX, "cannot be read; remove it, it is made again"))
                continue
            if index.manifest != folder.name:
                found.append(_problem(folder / BUNDLE_INDEX, "is of another release; remove it, it is made again"))
            found.extend(
                _problem(folder / entry.name, "is named in the list and not there as it was made")
                for entry in (index.bundles if folder.name in needed else ())
                if not _is_there(folder, entry)
            )
        return found

    def _write_index(self, index: BundleIndex) -> None:
        content = msgspec.json.encode(index)
        url = f"{bundle_folder(index.manifest)}/{BUNDLE_INDEX}"
        with self._storage.putting({url: content}), whole_file(self.folder(index.manifest) / BUNDLE_INDEX) as file:
            file.write(content)

    def _write_tried(self, to: str, tried: Tried) -> None:
        with whole_file(self.folder(to) / _TRIED) as file:
            file.write(msgspec.json.encode(tried))

    def _folders(self) -> Iterator[Path]:
        if self._root.is_dir():
            yield from (path for path in sorted(self._root.iterdir()) if matches(SHA256_PATTERN, path.name))

    def _files(self) -> Iterator[Path]:
        for folder in self._folders():
            with suppress(FileNotFoundError):  # removed since it was listed
                yield from (path for path in sorted(folder.iterdir()) if re.search(BUNDLE_FILE_PATTERN, path.name))


def _without(tried: Tried, source: str) -> Tried:
    failed = {key: failure for key, failure in tried.failed.items() if key != source}
    return msgspec.structs.replace(tried, failed=failed)


def _parts(entry: BundleEntry) -> list[tuple[str, int]]:
    """The files of a bundle, by name and size."""
    patch = [(entry.manifest_name, entry.manifest.size)] if entry.manifest and entry.manifest_name else []
    return [(entry.name, entry.size), *patch]


def _is_there(folder: Path, entry: BundleEntry) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in _parts(entry))
    except OSError:
        return False


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _problem(path: Path, what: str) -> Problem:
    return Problem(code="data.bad", where=f"{BUNDLES}/{path.parent.name}/{path.name}", message=what)
