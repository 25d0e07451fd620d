"""Sending a package file to the controller, with progress where a person watches."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from controller.client import ControllerClient
from controller.http.views import PushView
from controller.packaging import tar
from controller.packaging.inspection import RELEASE_KIND
from controller.packaging.package_reader import decode_head
from schemas.errors import FlotillaError, OperatorError, PublisherError
from schemas.layout import HEAD_MEMBER, MAX_HEAD_BYTES, SITE_KIND

_ABOUT_THE_FILE = ("package.", "manifest.", "version.", "release.")


def push_file(client: ControllerClient, path: Path, *, called: str = "") -> PushView:
    """Upload one package file; raises as `ControllerClient` does, or `OperatorError` where it cannot be read.

    Args:
        called: what errors call it, instead of the path.
    """
    is_ours, called = True, called or str(path)
    try:
        with path.open("rb") as file:
            is_ours = _check_kind(file)
            size = os.fstat(file.fileno()).st_size
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            console = Console(stderr=True)
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                task = progress.add_task(f"push {path.name}", total=size)
                reader = _Counted(file, lambda count: progress.advance(task, count))
                return client.upload(PushView, io.BufferedReader(reader, 1 << 20), size, "packages")
    except FlotillaError as error:
        if not is_ours and error.code.startswith("package."):
            what = f"{called} is no package file; `flotilla build` makes them"
            raise PublisherError("package.format", what) from error
        if error.code.startswith(_ABOUT_THE_FILE):
            raise type(error)(error.code, f"{called}: {error.message}") from error
        raise
    except OSError as error:
        raise OperatorError("input.bad", f"cannot read {path}: {error.strerror}") from error


def _check_kind(file: BinaryIO) -> bool:
    """Whether a file begins as Flotilla's do; an export is refused before anything of it is sent.

    Raises:
        PublisherError: `package.format`.
    """
    start = file.read(tar.BLOCK + MAX_HEAD_BYTES)
    file.seek(0)
    try:
        member, _ = tar.parse(start[: tar.BLOCK], "the file")
        size = min(member.size, MAX_HEAD_BYTES) if member.name == HEAD_MEMBER else 0
        head = decode_head(start[tar.BLOCK : tar.BLOCK + size], "the file")
    except FlotillaError:
        return False
    if head.kind == RELEASE_KIND:
        raise PublisherError(
            "package.format",
            "this is a release exported for devices, not a package; push the file that `flotilla build` made",
        )
    if head.kind == SITE_KIND:
        raise PublisherError(
            "package.format", "this was exported for another site, it is no package; take it in with `flotilla import`"
        )
    return True


class _Counted(io.RawIOBase):
    """Passes a file through and says how much of it has been read."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next piece."""
        with memoryview(buffer) as view:
            piece = self._file.read(len(view))
            view[: len(piece)] = piece
        self._on_bytes(len(piece))
        return len(piece)
