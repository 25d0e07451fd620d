"""The repository's folder: what lies where, how contents get into it, and which URLs lead to a file.

Contents are written to a staging folder of their own, flushed together and then renamed into place, so
that an object that can be seen is whole and on the disk, whatever happens to the process or the power.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from controller.packaging.whole_file import whole_file
from controller.repository.files import disk_errors, flush, sync_folder, try_lock
from controller.repository.packing import plain_size
from controller.repository.place import Place, place_of
from controller.repository.storage_paths import is_immutable, is_served
from schemas.layout import METADATA, OBJECTS, TARGETS, object_path, target_path

__all__ = ["Staging", "Storage", "is_immutable", "remove_if_older"]

_STAGING: Final = ".staging"
_STAGING_TRIES: Final = 100
_PART: Final = re.compile(r"\..*\.part")


class Storage:
    """The files below one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Make the folders where they are missing. Raises `OperatorError`, `disk.full` or `disk.io`."""
        self.folder = folder
        self.metadata = folder / METADATA
        self.targets = folder / TARGETS
        self.objects = folder / OBJECTS
        self._staging = folder / _STAGING
        with disk_errors(folder):
            for part in (self.metadata, self.targets, self.objects, self._staging):
                part.mkdir(parents=True, exist_ok=True)
        self.place: Place | None = place_of(folder)

    def open_file(self, url_path: str) -> Path | None:
        """The file that a URL path below the base leads to; None where it leads to none that is served."""
        if not is_served(url_path):
            return None
        path = self.folder / url_path
        return path if path.is_file() and not path.is_symlink() else None

    def object_file(self, sha256: str) -> Path:
        """Where the object with this plain hash belongs."""
        return self.folder / object_path(sha256)

    def target_file(self, sha256: str, name: str) -> Path:
        """Where the signed manifest with this (packed) hash and target name belongs."""
        return self.folder / target_path(sha256, name)

    def object_size(self, sha256: str, size: int) -> int | None:
        """The packed size of an object that is there and says that it holds `size` bytes, else None."""
        try:
            with self.object_file(sha256).open("rb") as file:
                return os.fstat(file.fileno()).st_size if plain_size(file.read(32)) == size else None
        except OSError:
            return None

    def reuse(self, sha256: str, size: int) -> int | None:
        """As `object_size`, and garbage collection keeps its hands off it for its grace period."""
        packed = self.object_size(sha256, size)
        if packed is not None:
            try:
                os.utime(self.object_file(sha256))
            except FileNotFoundError:
                return None
        return packed

    def write_target(self, sha256: str, name: str, packed: bytes) -> None:
        """Store a signed manifest. Raises `OperatorError`, `disk.full`, `disk.io` or `storage.*`."""
        with self.putting({target_path(sha256, name): packed}):
            self._write_target(sha256, name, packed)

    @contextmanager
    def putting(self, files: Mapping[str, Path | bytes]) -> Iterator[None]:
        """Put files, by their paths below the base URL, where the repository is kept; the block puts them here.

        Raises:
            OperatorError: `storage.*`, before the block.
        """
        if self.place is None:
            yield
            return
        with self.place.putting():
            self.place.put_files(files)
            yield

    def reconcile(self) -> None:
        """Under the repository's lock, before anything is signed: see `Place.reconcile`."""
        if self.place is not None:
            self.place.reconcile()

    def _write_target(self, sha256: str, name: str, packed: bytes) -> None:
        with whole_file(self.target_file(sha256, name)) as file:
            file.write(packed)

    def all_objects(self) -> Iterator[tuple[str, Path]]:
        """Every object that is there: its plain hash and its file."""
        for folder in sorted(self.objects.iterdir()):
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    if self.open_file(f"{OBJECTS}/{folder.name}/{path.name}") is not None:
                        yield path.name.removesuffix(".zst"), path

    @contextmanager
    def staging(self) -> Iterator["Staging"]:
        """A folder of one's own to write objects in; it is gone after the block."""
        with disk_errors(self._staging):
            folder, descriptor = self._make_staging()
        try:
            yield Staging(self, folder)
        finally:
            with suppress(OSError):
                shutil.rmtree(folder)
            os.close(descriptor)

    def _make_staging(self) -> tuple[Path, int]:
        """A new folder and the descriptor that keeps it locked; see `_remove_if_dead` for who else looks at it."""
        for _ in range(_STAGING_TRIES):
            folder = self._staging / secrets.token_hex(8)
            folder.mkdir()
            with suppress(FileNotFoundError):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                # Until the lock is held, another process may take the folder for a dead one's.
                if try_lock(descriptor) and folder.exists():
                    return folder, descriptor
                os.close(descriptor)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def remove_leftovers(self, parts_before: float) -> tuple[int, int]:
        """Remove what killed processes left: staging folders that nobody holds and old unfinished files.

        Args:
            parts_before: unfinished files not changed since this time (seconds since 1970) are removed.

        Returns:
            How many files, and how many bytes.
        """
        count = freed = 0
        with suppress(FileNotFoundError):
            for folder in self._staging.iterdir():
                removed = _remove_if_dead(folder)
                count, freed = count + removed[0], freed + removed[1]
        for folder in (self.metadata, self.targets):
            for path in folder.iterdir():
                if _PART.fullmatch(path.name):
                    removed = remove_if_older(path, parts_before)
                    count, freed = count + removed[0], freed + removed[1]
        if self.place is not None and parts_before > 0:
            removed = self.place.collect(parts_before)
            count, freed = count + removed[0], freed + removed[1]
        return count, freed


class Staging:
    """Objects that are being written. `write` may be called from several threads at once."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder

    @property
    def folder(self) -> Path:
        """For other files that are being made; it is on the file system of the repository."""
        return self._folder

    def write(self, sha256: str, packed: bytes) -> None:
        """Write an object that is packed already. Raises `OSError`."""
        (self._folder / sha256).write_bytes(packed)

    def open(self, sha256: str) -> BinaryIO:
        """A new file to pack an object into. Raises `OSError`."""
        return (self._folder / sha256).open("wb")

    def publish(self, hashes: Iterable[str]) -> None:
        """Put the written objects in their places: durable, whole, and over any that are damaged.

        Raises:
            OSError: the disk is full or reported an error; objects that are in place already stay, unused.
        """
        staged = {self._folder / sha256: self._storage.object_file(sha256) for sha256 in hashes}
        if not staged:
            return
        flush(self._folder, staged)
        folders = {destination.parent for destination in staged.values()}
        for folder in folders:
            folder.mkdir(exist_ok=True)
        with self._storage.putting({object_path(path.name): path for path in staged}):
            for source, destination in staged.items():
                source.replace(destination)
        flush(self._storage.objects, (*folders, self._storage.objects))


def remove_if_older(path: Path, moment: float) -> tuple[int, int]:
    """Remove a file unless it changed after `moment` (seconds since 1970): (1, its bytes), or (0, 0)."""
    try:
        status = path.stat()
        if status.st_mtime > moment:
            return 0, 0
        path.unlink()
    except FileNotFoundError:
        return 0, 0
    return 1, status.st_size


def _remove_if_dead(folder: Path) -> tuple[int, int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0, 0
    try:
        if not try_lock(descriptor):
            return 0, 0
        sizes = [path.stat().st_size for path in folder.iterdir()]
        shutil.rmtree(folder)
        sync_folder(folder.parent)
    except FileNotFoundError:
        return 0, 0
    finally:
        os.close(descriptor)
    return len(sizes), sum(sizes)
