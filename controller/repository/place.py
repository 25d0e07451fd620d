"""Keeps a repository at a URL: everything that is served lies there too, before anything refers to it.

The controller works in its own folder, as without a place; that folder is a whole copy. Each step puts a file at the
place first and into the folder after, with one exception: versioned metadata is put into the folder first, so that
what an interrupted edition left at the place can be told from what another controller wrote. The timestamp, which
makes an edition seen, is replaced at the place under the condition that nobody else has replaced it; so two controllers
can never both win, and the one that loses has changed nothing that anybody reads. See docs/repository.md.

    {name}.place beside the folder: the URL, and hashes of versioned metadata that may lie at the place unfinished
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.exceptions import RepositoryError

from controller.packaging.whole_file import whole_file
from controller.repository.blobs import Blob, BlobStore, open_blobs
from controller.repository.files import disk_errors, locked
from controller.repository.metadata import TrustedMetadata, parse_metadata, read_roots, verified_roots
from controller.repository.storage_paths import TIMESTAMP_PATH, is_immutable, is_served
from controller.repository.tuf_api import Timestamp
from schemas.errors import FlotillaError, OperatorError, one_line
from schemas.layout import MAX_METADATA_BYTES, METADATA

_PARALLEL: Final = 8
_LOCK_WAIT_S: Final = 60.0
_POLL_S: Final = 0.05
_TIMESTAMP: Final = TIMESTAMP_PATH.removeprefix(f"{METADATA}/")


class _State(msgspec.Struct, kw_only=True):
    """What the file beside the folder holds.

    Attributes:
        pending: name of versioned metadata to hashes (SHA-256) that this controller may have put under it.
    """

    url: str
    pending: dict[str, list[str]] = {}


_states: Final = msgspec.json.Decoder(_State)


class Place:
    """Where a folder's repository is kept. Safe to use from several threads; see each method for who may call it."""

    def __init__(self, folder: Path, url: str, blobs: BlobStore) -> None:
        self.url = url
        self._folder = folder
        self._blobs = blobs
        self._state_file = _state_file(folder)
        self._tag: str | None = None

    # Putting

    def put_files(self, files: Mapping[str, Path | bytes]) -> None:
        """Put files under their keys, several at once."""
        with ThreadPoolExecutor(max_workers=_PARALLEL, thread_name_prefix="put") as pool:
            for _ in pool.map(lambda item: self._blobs.put(*item), files.items()):
                pass

    def put(self, key: str, content: bytes) -> None:
        """Put one small file."""
        self._blobs.put(key, content)

    def put_root(self, name: str, content: bytes) -> None:
        """Put a version of the root that is in the folder already. Under the repository's lock."""
        if self._blobs.put_new(f"{METADATA}/{name}", content) is None:
            found = self._blobs.get(f"{METADATA}/{name}", MAX_METADATA_BYTES)
            if found is None or found[0] != content:
                raise self._conflict(f"{METADATA}/{name}")

    def put_edition(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Put an edition's metadata, the timestamp last. Under the repository's lock, after `reconcile`.

        Raises:
            OperatorError: `storage.conflict`: somebody else has put metadata; nothing has changed that is read.
        """
        state = self._state()
        for name, content in files:
            if name != _TIMESTAMP:
                state.pending.setdefault(name, []).append(_hash(content))
        self._save(state)
        for name, content in files:
            if name != _TIMESTAMP:
                self._put_versioned(name, content, state.pending[name])
        for name, content in files:
            if name == _TIMESTAMP:
                self._put_timestamp(content)
        state.pending.clear()
        self._save(state)

    @contextmanager
    def putting(self) -> Iterator[None]:
        """Around putting files and placing them in the folder: `collect` keeps out meanwhile."""
        with self._flock(fcntl.LOCK_SH):
            yield

    # Looking after it

    def reconcile(self) -> None:
        """Find the place as the folder has it, or finish what was interrupted. Under the repository's lock.

        Raises:
            OperatorError: `storage.conflict`, `storage.unreachable`.
        """
        path = self._folder / TIMESTAMP_PATH
        found = self._blobs.get(TIMESTAMP_PATH, MAX_METADATA_BYTES)
        if found is None:
            raise OperatorError(
                "storage.conflict",
                f"{self.url}: is empty, though releases were put there; fill it with `repository upload`",
            )
        content, tag = found
        if content != path.read_bytes():
            if not self._is_ours(content):
                raise self._conflict(TIMESTAMP_PATH)
            with whole_file(path) as file:
                file.write(content)
        self._tag = tag
        roots = read_roots(self._folder / METADATA)
        if self._blobs.get(f"{METADATA}/{len(roots)}.root.json", MAX_METADATA_BYTES) is None:
            self.put_root(f"{len(roots)}.root.json", roots[-1])

    def collect(self, before: float) -> tuple[int, int]:
        """Remove what the folder no longer has and was put before a moment (seconds since 1970, the place's clock).

        Under the repository's lock. What is none of the repository's stays.

        Returns:
            How many files, and how many bytes.
        """
        with self._flock(fcntl.LOCK_EX):
            gone = [
                blob
                for blob in self._blobs.list()
                if blob.modified < before and is_served(blob.key) and not (self._folder / blob.key).exists()
            ]
            self._blobs.delete(blob.key for blob in gone)
        return len(gone), sum(blob.size for blob in gone)

    def differences(self) -> Iterator[tuple[str, str]]:
        """Reads everything: (key, what is wrong with it at the place), compared with the folder."""
        # first, as what is here was put there before
        current = set(TrustedMetadata(self._folder / METADATA).file_names().values())
        here = [(key, path) for key, path in _served_files(self._folder) if _is_published(key, current)]
        there = {blob.key: blob for blob in self._blobs.list()}
        for key, path in here:
            problem = self._difference(path, there.get(key), key)
            if problem and path.exists():
                yield key, problem

    def upload(self) -> int:
        """Put whatever is missing or different, the timestamp last; gives the number of files.

        Under the repository's lock.
        """
        wrong = {key for key, _ in self.differences()}
        self.put_files({key: self._folder / key for key in wrong if is_immutable(key)})
        for key in sorted(wrong):
            if not is_immutable(key) and key != TIMESTAMP_PATH:
                self._blobs.put(key, (self._folder / key).read_bytes())
        if TIMESTAMP_PATH in wrong:
            content = (self._folder / TIMESTAMP_PATH).read_bytes()
            found = self._blobs.get(TIMESTAMP_PATH, MAX_METADATA_BYTES)
            self._tag = found[1] if found is not None else None
            self._put_timestamp(content)
        return len(wrong)

    def restore(self) -> int:
        """Fill an empty folder with what is at the place, the timestamp last; gives the number of files."""
        keys = [blob.key for blob in self._blobs.list() if is_served(blob.key) and blob.key != TIMESTAMP_PATH]
        with ThreadPoolExecutor(max_workers=_PARALLEL, thread_name_prefix="restore") as pool:
            for _ in pool.map(self._restore, keys):
                pass
        self._restore(TIMESTAMP_PATH)
        return len(keys) + 1

    def has_repository(self) -> bool:
        """Whether there is a timestamp."""
        return self._blobs.get(TIMESTAMP_PATH, MAX_METADATA_BYTES) is not None

    # Details

    def _put_versioned(self, name: str, content: bytes, ours: Iterable[str]) -> None:
        key = f"{METADATA}/{name}"
        if self._blobs.put_new(key, content) is not None:
            return
        found = self._blobs.get(key, MAX_METADATA_BYTES)
        if found is None or _hash(found[0]) not in ours:
            raise self._conflict(key)
        if found[0] != content and self._blobs.put_over(key, content, found[1]) is None:
            raise self._conflict(key)

    def _put_timestamp(self, content: bytes) -> None:
        before = self._tag
        tag = (
            self._blobs.put_new(TIMESTAMP_PATH, content)
            if before is None
            else self._blobs.put_over(TIMESTAMP_PATH, content, before)
        )
        if tag is None:
            # perhaps it is our own, and only the answer to an earlier try was lost
            found = self._blobs.get(TIMESTAMP_PATH, MAX_METADATA_BYTES)
            if found is None or found[0] != content:
                raise self._conflict(TIMESTAMP_PATH)
            tag = found[1]
        self._tag = tag

    def _is_ours(self, content: bytes) -> bool:
        """Whether a timestamp is the end of an edition of which the folder has all the rest, signed by our keys."""
        metadata = self._folder / METADATA
        try:
            new = parse_metadata(Timestamp, content, _TIMESTAMP)
            old = parse_metadata(Timestamp, (metadata / _TIMESTAMP).read_bytes(), _TIMESTAMP)
            root = verified_roots(read_roots(metadata)).signed
            root.verify_delegate(Timestamp.type, new.signed_bytes, new.signatures)
            snapshot = metadata / f"{new.signed.snapshot_meta.version}.snapshot.json"
            new.signed.snapshot_meta.verify_length_and_hashes(snapshot.read_bytes())
        except (FlotillaError, RepositoryError, OSError, ValueError):
            return False
        return new.signed.version > old.signed.version

    def _difference(self, path: Path, blob: Blob | None, key: str) -> str:
        try:
            if blob is None:
                return "is missing"
            if blob.size != path.stat().st_size:
                return f"has {blob.size} bytes instead of {path.stat().st_size}"
            digest = hashlib.sha256()
            for piece in self._blobs.read(key):
                digest.update(piece)
            with path.open("rb") as file:
                return "" if digest.digest() == hashlib.file_digest(file, "sha256").digest() else "is damaged"
        except FileNotFoundError:
            return "is missing"  # looked at once more by the caller

    def _restore(self, key: str) -> None:
        path = self._folder / key
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(path) as file:
                for piece in self._blobs.read(key):
                    file.write(piece)
        except FileNotFoundError as error:
            raise OperatorError("storage.unreachable", f"{self.url}: {key} vanished while it was read") from error

    def _state(self) -> _State:
        return _read_state(self._folder) or _State(url=self.url)

    def _save(self, state: _State) -> None:
        with whole_file(self._state_file) as file:
            file.write(msgspec.json.encode(state))

    def _conflict(self, key: str) -> OperatorError:
        return OperatorError(
            "storage.conflict",
            f"{self.url}: {key} is not what this controller put there; another controller writes to it, or one "
            "side was restored from a backup; let one controller alone write there",
        )

    @contextmanager
    def _flock(self, kind: int) -> Iterator[None]:
        path = self._folder.parent / f"{self._folder.name}.putting.lock"
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_up = time.monotonic() + _LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        text = f"{one_line(path)}: others have put files for over {_LOCK_WAIT_S:g} s; try again later"
                        raise OperatorError("data.bad", text) from None
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)


def place_of(folder: Path) -> Place | None:
    """The place that a repository's folder is kept at; None where it is kept in the folder alone.

    Raises:
        OperatorError: `data.bad`, `storage.unreachable`.
    """
    state = _read_state(folder)
    return _place(folder.resolve(), state.url) if state is not None else None


def keep_at(folder: Path, url: str) -> str:
    """Have a repository kept at a URL from now on; to be called before it is opened.

    An empty folder is filled from the place, an empty place from the folder.

    Returns:
        What was done, for a person; empty where there was nothing to do.

    Raises:
        OperatorError: `input.bad`: it is kept elsewhere already; `storage.conflict`, where folder and place hold
            different repositories; `storage.unreachable`.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f"{folder.name}.lock", _LOCK_WAIT_S):
        return _keep_at(folder, url.rstrip("/"))


def _keep_at(folder: Path, url: str) -> str:
    state = _read_state(folder)
    if state is not None and state.url != url:
        raise OperatorError("input.bad", f"--repository: {one_line(folder)} is kept at {state.url}, not at {url}")
    place = _place(folder.resolve(), url)
    has_folder, has_place = (folder / TIMESTAMP_PATH).exists(), place.has_repository()
    told = ""
    if has_folder and not has_place:
        told = f"put {place.upload()} files at {url}"
    elif has_place and not has_folder:
        told = f"fetched {place.restore()} files from {url}"
    elif has_place and state is None:
        place.reconcile()
    if state is None:
        with disk_errors(folder), whole_file(_state_file(folder)) as file:
            file.write(msgspec.json.encode(_State(url=url)))
    return told


def fill(folder: Path) -> tuple[str, int]:
    """Put whatever is missing or different where a repository is kept, the folder being right; gives URL and number.

    Raises:
        OperatorError: `input.bad`, where it is kept in the folder alone; `storage.unreachable`.
    """
    place = place_of(folder)
    if place is None:
        raise OperatorError("input.bad", f"{one_line(folder)} is kept in the folder alone; see `serve --repository`")
    with locked(folder.parent / f"{folder.name}.lock", _LOCK_WAIT_S):
        return place.url, place.upload()


@lru_cache(maxsize=16)
def _place(folder: Path, url: str) -> Place:
    return Place(folder, url, open_blobs(url))


def _state_file(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.place"


def _read_state(folder: Path) -> _State | None:
    path = _state_file(folder)
    try:
        return _states.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise OperatorError("data.bad", f"{one_line(path)}: cannot be read: {one_line(error)}") from error


def _served_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        key = path.relative_to(folder).as_posix()
        if is_served(key) and path.is_file():
            yield key, path


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_published(key: str, current: Collection[str]) -> bool:
    """False for metadata of an edition that was not finished or is superseded, which may lie in the folder alone."""
    folder, _, name = key.partition("/")
    return folder != METADATA or name == _TIMESTAMP or name.endswith(".root.json") or name in current
