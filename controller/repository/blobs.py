"""Where the repository is kept besides its working folder: a place for files under keys, given as a URL.

`file:///srv/share/repo` is a folder, perhaps of another machine; `s3://bucket/prefix` is in `s3`. The same tests hold
for both.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from controller.packaging.whole_file import whole_file
from controller.repository.files import CHUNK, disk_errors
from schemas.errors import OperatorError, one_line

_LOCK: Final = ".flotilla-put.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What is known of a file that is there.

    Attributes:
        key: its path below the place, with `/`.
        size: bytes.
        modified: when it was put last, seconds since 1970 by the place's own clock.
    """

    key: str
    size: int
    modified: float


class BlobStore(Protocol):
    """A place. All methods block, for a bounded time; any thread may use it.

    A put is whole or not at all, and seen by every reader when it returns.

    Raises:
        OperatorError: `storage.unreachable`, with one line that holds no secret; a folder also gives `disk.*`.
    """

    def get(self, key: str, limit: int) -> tuple[bytes, str] | None:
        """A small file and its tag, which changes with its content; None where there is none."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """A file piece by piece; raises `FileNotFoundError` where there is none."""
        ...

    def put(self, key: str, content: bytes | Path) -> None:
        """Put a file, over one that is there."""
        ...

    def put_new(self, key: str, content: bytes) -> str | None:
        """Put a file where there is none; gives its tag, or None where there is one."""
        ...

    def put_over(self, key: str, content: bytes, tag: str) -> str | None:
        """Put a file over the one with this tag; gives its tag, or None where it is another or none."""
        ...

    def list(self) -> Iterator[Blob]:
        """Everything that is there, in no order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those that are not there are no error."""
        ...


class FolderBlobs:
    """A `BlobStore` in a folder, which more than one machine may have mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, limit: int) -> tuple[bytes, str] | None:
        """See `BlobStore`."""
        with disk_errors(self._folder / key):
            try:
                with (self._folder / key).open("rb") as file:
                    content = file.read(limit + 1)
            except FileNotFoundError:
                return None
        if len(content) > limit:
            raise too_large(key, limit)
        return content, _tag(content)

    def read(self, key: str) -> Iterator[bytes]:
        """See `BlobStore`."""
        with (self._folder / key).open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def put(self, key: str, content: bytes | Path) -> None:
        """See `BlobStore`."""
        path = self._folder / key
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    while piece := source.read(CHUNK):
                        file.write(piece)

    def put_new(self, key: str, content: bytes) -> str | None:
        """See `BlobStore`."""
        with self._alone():
            if (self._folder / key).exists():
                return None
            self.put(key, content)
        return _tag(content)

    def put_over(self, key: str, content: bytes, tag: str) -> str | None:
        """See `BlobStore`."""
        path = self._folder / key
        with self._alone(), disk_errors(path), contextlib.suppress(FileNotFoundError):
            if _tag(path.read_bytes()) == tag:
                self.put(key, content)
                return _tag(content)
        return None

    def list(self) -> Iterator[Blob]:
        """See `BlobStore`."""
        for path in self._folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                key = path.relative_to(self._folder).as_posix()
                yield Blob(key=key, size=status.st_size, modified=status.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        """See `BlobStore`."""
        for key in keys:
            with disk_errors(self._folder / key):
                (self._folder / key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others who put on a condition out, as far as the file system's locks reach."""
        with disk_errors(self._folder):
            descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def open_blobs(url: str) -> BlobStore:
    """The place at a URL.

    Raises:
        OperatorError: `input.bad`, where it is none; `storage.unreachable`.
    """
    try:
        parts = urlsplit(url)
        good = parts.username is None and not parts.query and not parts.fragment and url.isprintable()
    except ValueError:
        good = False
    if good and parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return FolderBlobs(Path(unquote(parts.path)))
    if good and parts.scheme == "s3" and parts.netloc:
        from controller.repository.s3 import S3Blobs  # noqa: PLC0415  # not every controller needs the library

        return S3Blobs(url, bucket=parts.netloc, prefix=unquote(parts.path).strip("/"))
    # what is wrong with it may be a secret in it
    raise OperatorError(
        "input.bad",
        "--repository: write s3://BUCKET/PREFIX or file:///FOLDER; keys for S3 come from the environment, "
        "never from the URL",
    )


def too_large(key: str, limit: int) -> OperatorError:
    """What to raise for a small file that is none."""
    return OperatorError("data.bad", f"{one_line(key)}: is over {limit} bytes")


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
