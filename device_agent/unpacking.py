"""Contents on their way to the disk: unpacked as they arrive, checked, and in place only when they are right."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from device_agent.faults import disk_fault
from device_agent.seams import OnBytes, WantedObject
from device_agent.zstd import ZstdError, new_decompressor
from schemas.errors import DeviceError, PublisherError
from schemas.layout import MAX_MANIFEST_BYTES

CHUNK: Final = 256 * 1024
PART_FROM_BYTES: Final = 1024 * 1024
"""Smaller contents are fetched anew after an interruption of the agent: keeping them twice costs more."""

_PART: Final = ".part"
UNFINISHED: Final = ".tmp"
"""How the names of files end that are being written."""


class AbandonedError(Exception):
    """The download was given up; nothing more of it is wanted."""


class Content:
    """One content being unpacked into a temporary file. `finish` checks it and puts it in place.

    Args:
        folder: where the temporary file is, on the file system of the destination.
    """

    def __init__(self, wanted: WantedObject, folder: Path) -> None:
        self._wanted = wanted
        self._unfinished = folder / f"{wanted.destination.name}{UNFINISHED}"
        self._decompressor = new_decompressor()
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.plain = 0

    @property
    def is_whole(self) -> bool:
        """Whether the packed content has come to its end."""
        return self._decompressor.eof

    def add(self, packed: bytes) -> None:
        """Unpack and write.

        Raises:
            DeviceError: `verify.digest`, `verify.size`, or `disk.*`.
        """
        if self._decompressor.eof and packed:
            raise self._wrong("verify.size", "is followed by something else")
        more = True
        while more:
            try:
                plain = self._decompressor.decompress(packed, max_length=CHUNK)
            except ZstdError as error:
                raise self._wrong("verify.digest", "cannot be unpacked") from error
            packed = b""
            self.plain += len(plain)
            if self.plain > self._wanted.size:
                raise self._wrong("verify.size", f"has more than its {self._wanted.size} bytes")
            self._hash.update(plain)
            self._write(plain)
            more = not self._decompressor.eof and not self._decompressor.needs_input
        if self._decompressor.unused_data:
            raise self._wrong("verify.size", "is followed by something else")

    def finish(self) -> None:
        """Check the whole and put it in place. Raises as `add` does."""
        if not self._decompressor.eof or self.plain != self._wanted.size:
            raise self._wrong("verify.size", f"has {self.plain} bytes instead of {self._wanted.size}")
        if self._hash.hexdigest() != self._wanted.sha256:
            raise self._wrong("verify.digest", "has another hash")
        try:
            self._write(b"")
            self._close()
            self._wanted.destination.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished.replace(self._wanted.destination)
        except OSError as error:
            raise disk_fault(error, f"store content {self._wanted.sha256[:12]}") from error

    def discard(self) -> None:
        """Leave nothing."""
        self._close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    def _write(self, plain: bytes) -> None:
        try:
            if self._file is None:
                self._unfinished.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self._unfinished.open("wb", buffering=0)
            view = memoryview(plain)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise disk_fault(error, f"store content {self._wanted.sha256[:12]}") from error

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _wrong(self, code: str, what: str) -> DeviceError:
        return DeviceError(
            code, f"content {self._wanted.sha256[:12]}… {what}: the repository or the way to it is damaged"
        )


class Download:
    """A content that is being fetched, over as many connections as it takes; used by one thread at a time.

    Large ones keep what has come in `{folder}/{sha256}.zst.part`, from which a later download goes on, in this process
    or the next. Any thread may `abandon` it: nothing is written after that.

    Args:
        folder: for partial and temporary files.
        on_bytes: told what arrives, each plain byte once however often it is fetched.
    """

    def __init__(self, wanted: WantedObject, folder: Path, on_bytes: OnBytes) -> None:
        self._wanted = wanted
        self._folder = folder
        self._on_bytes = on_bytes
        self._turn = threading.Lock()
        self._abandoned = False
        self._part_path = folder / part_name(wanted.sha256) if wanted.size >= PART_FROM_BYTES else None
        self._part: BinaryIO | None = None
        self._content = Content(wanted, folder)
        self._told = 0
        self.offset = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to fetch."""
        return self._content.is_whole

    def resume(self) -> None:
        """Take in what an earlier download left; what cannot be used is dropped. Raises `DeviceError` `disk.*`."""
        if self._part_path is None:
            return
        try:
            for packed in _chunks(self._part_path):
                self._add(packed)
        except DeviceError as error:
            if not error.code.startswith("verify."):
                raise
            self.restart()

    def take(self, packed: bytes) -> None:
        """What has arrived. Raises `DeviceError` `verify.*` or `disk.*`, `AbandonedError`."""
        with self._turn:
            self._check_wanted()
            if self._part_path is not None:
                try:
                    if self._part is None:
                        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                        self._part = self._part_path.open("ab", buffering=0)
                        self._part.truncate(self.offset)
                    self._part.write(packed)
                except OSError as error:
                    raise disk_fault(error, f"store what has come of content {self._wanted.sha256[:12]}") from error
        self._add(packed, wire=len(packed))

    def restart(self) -> None:
        """Forget what has come."""
        with self._turn:
            self._check_wanted()
            self._content.discard()
            self._content = Content(self._wanted, self._folder)
            self._drop_part()
            self.offset = 0

    def finish(self) -> None:
        """Check the whole and put it in place. Raises `DeviceError` `verify.*` or `disk.*`, `AbandonedError`."""
        with self._turn:
            self._check_wanted()
            self._content.finish()
            self._drop_part()

    def abandon(self) -> None:
        """Give up, keeping what a later download can go on from."""
        with self._turn:
            self._abandoned = True
            self._content.discard()
            if self._part is not None:
                with contextlib.suppress(OSError):
                    self._part.close()
                self._part = None

    def _add(self, packed: bytes, wire: int = 0) -> None:
        with self._turn:
            self._check_wanted()
            self._content.add(packed)
            self.offset += len(packed)
            fresh = max(0, self._content.plain - self._told)
            self._told += fresh
        if fresh or wire:
            self._on_bytes(fresh, wire)

    def _drop_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._part_path is not None:
            with contextlib.suppress(OSError):
                self._part_path.unlink(missing_ok=True)

    def _check_wanted(self) -> None:
        if self._abandoned:
            raise AbandonedError


def part_name(sha256: str) -> str:
    """The name of a partial download."""
    return f"{sha256}.zst{_PART}"


def clear_downloads(folder: Path, keep: set[str]) -> None:
    """Remove temporary files and partial downloads of contents other than those of the hashes in `keep`."""
    kept = {part_name(sha256) for sha256 in keep}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.endswith((UNFINISHED, ".new")) or (path.name.endswith(_PART) and path.name not in kept):
                path.unlink(missing_ok=True)


def unpack_manifest(packed: bytes, what: str) -> bytes:
    """A manifest's plain bytes, at most `MAX_MANIFEST_BYTES`. Raises `PublisherError` (it was signed like this)."""
    decompressor = new_decompressor()
    try:
        plain = decompressor.decompress(packed, max_length=MAX_MANIFEST_BYTES + 1)
    except ZstdError as error:
        raise PublisherError("manifest.bad", f"the manifest of {what} cannot be unpacked") from error
    if len(plain) > MAX_MANIFEST_BYTES:
        raise PublisherError("package.limit", f"the manifest of {what} is over {MAX_MANIFEST_BYTES} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise PublisherError("manifest.bad", f"the manifest of {what} is cut short or followed by something else")
    return plain


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_fault(error, f"read {path.name}") from error
