"""Builders for tests: a real repository with real signed releases, and a plain web server for a folder.

repository = make_repository(tmp_path)
add_release(repository, "tacho", "1.0.0", {"bin/run": "#!/bin/sh\\n", "data.bin": b"..."})
with serve_folder(repository.folder) as base_url:
    ...
"""

import hashlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Self

from controller.database import open_database, sqlite_url, utc_now
from controller.packaging.package_file import write_package
from controller.repository.package_repository import PackageRepository
from controller.repository.records import ReleaseRecord
from schemas.layout import package_file_name
from schemas.manifest import MANIFEST_FORMAT, FileEntry, Manifest
from tests.support.database import opened

Content = bytes | str


def first_start(folder: Path) -> PackageRepository:
    """As `make_repository`, and the database is made too, revision by revision, unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    return PackageRepository(folder / "repository", open_database(sqlite_url(folder / "flotilla.db")))


def make_repository(folder: Path, *, clock: Callable[[], datetime] = utc_now) -> PackageRepository:
    """A repository in `folder/repository` with its keys and database beside it, as `flotilla serve` lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = opened(folder / "flotilla.db")
    return PackageRepository(folder / "repository", engine, clock=clock)


def add_release(
    repository: PackageRepository,
    name: str,
    version: str,
    files: Mapping[str, Content],
    *,
    platform: str = "any",
    modes: Mapping[str, int] | None = None,
    **manifest_fields: Any,
) -> ReleaseRecord:
    """Build a package of `files` (path to content) and add it.

    Args:
        modes: path to permission bits, where they are not 0644.
        manifest_fields: further fields of the manifest, e.g. `tags=["a"]`, `services=[Service(...)]`.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(Path(folder), name, version, files, platform=platform, modes=modes, **manifest_fields)
        return repository.add(package)


def make_package(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, Content],
    *,
    platform: str = "any",
    modes: Mapping[str, int] | None = None,
    **manifest_fields: Any,
) -> Path:
    """Write a package file of `files` (path to content) into `folder` and return its path."""
    contents = {path: _as_bytes(content) for path, content in files.items()}
    by_hash = {hashlib.sha256(content).hexdigest(): content for content in contents.values()}
    manifest = make_manifest(name, version, contents, platform=platform, modes=modes, **manifest_fields)
    destination = folder / package_file_name(name, version, platform)

    def open_content(sha256: str) -> BinaryIO:
        return io.BytesIO(by_hash[sha256])

    write_package(destination, manifest, open_content)
    return destination


def make_manifest(
    name: str,
    version: str,
    files: Mapping[str, Content],
    *,
    platform: str = "any",
    modes: Mapping[str, int] | None = None,
    **manifest_fields: Any,
) -> Manifest:
    """The manifest of a release that holds `files`."""
    modes = modes or {}
    entries = []
    for path, content in sorted(files.items()):
        raw = _as_bytes(content)
        entries.append(
            FileEntry(path=path, size=len(raw), sha256=hashlib.sha256(raw).hexdigest(), mode=modes.get(path, 0o644))
        )
    return Manifest(
        format=MANIFEST_FORMAT, package=name, version=version, platform=platform, files=entries, **manifest_fields
    )


@contextmanager
def serve_folder(path: Path) -> Iterator[str]:
    """Serve a folder on a free loopback port, with single byte ranges; gives the base URL without a last slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(path))) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


class RangeHandler(SimpleHTTPRequestHandler):
    """The standard library's handler, quiet, and with `Range: bytes=A-B`, `A-` and `-N` (RFC 9110, section 14)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def send_head(self) -> Any:
        """Answer with 206 and a part where a range is asked for, else as ever."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or asked.groups() == ("", "") or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start >= end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        return _Part(path, start, end)

    def end_headers(self) -> None:
        """Say that ranges are understood."""
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


class _Part:
    """A file object for a part of a file, as `SimpleHTTPRequestHandler` reads it."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self._left = end - start

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, empty at the part's end."""
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content, to compare before and after."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _as_bytes(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content
