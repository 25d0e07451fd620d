"""Files that come in with a request and go out with an answer: through the spool, in pieces, within limits."""

import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiofiles
import aiofiles.os
from aiofiles.threadpool.binary import AsyncBufferedReader
from anyio import fail_after, to_thread
from litestar import Request
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.response import Stream
from litestar.types import Receive, Scope, Send

from controller.http.guard import FILE_TYPE
from controller.repository.files import disk_errors, no_room, room_in
from schemas.errors import FlotillaError, OperatorError, PublisherError

MAX_UPLOAD_BYTES: Final = 16 * 1024**3
MOST_EXPORTS: Final = 4
"""Files for others that are made or sent at a time: each takes room on the disk until the last of it is sent."""
IDLE_S: Final = 60.0
"""Longest wait for the next piece of an upload."""
_PIECE: Final = 1024 * 1024


@dataclass
class UploadOperation(Operation):
    """Tells the API's description what the body is: no handler's argument does, as it is read in pieces."""

    def __post_init__(self) -> None:
        """Describe it."""
        content = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))
        self.request_body = RequestBody(content={FILE_TYPE: content}, required=True)


class Spool:
    """Where uploads wait while they are checked; emptied at start, because a killed upload is void.

    Attributes:
        folder: for files of this process alone.
        exports: how many files for others are being made or sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exports = 0

    def prepare(self) -> None:
        """Make the folder, without leftovers."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def new(self) -> Path:
        """A name for one upload."""
        return self.folder / f"{secrets.token_hex(8)}.part"


@contextlib.asynccontextmanager
async def received(request: Request[Any, Any, Any], spool: Spool) -> AsyncIterator[Path]:
    """The body in a file of the spool; what is wrong with it is told without the spool's name for it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FILE_TYPE:
        raise HTTPException(f"send the file as it is, as {FILE_TYPE}", status_code=415)
    path = spool.new()
    try:
        await _receive(request.stream(), path, request.headers.get("content-length"))
        yield path
    except FlotillaError as error:
        # whoever sends the file knows it by another name than the spool's
        message = (
            error.message.removeprefix(f"{path.name}: ").replace(str(path), "the file").replace(path.name, "the file")
        )
        raise type(error)(error.code, message) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            await aiofiles.os.remove(path)


async def spooled(spool: Spool, write: Callable[[Path], object]) -> Stream:
    """A file that is written first and then sent; its name is gone by then.

    Raises:
        OperatorError: `export.limit` where as many are made or sent as may; `disk.full`.
    """
    if spool.exports >= MOST_EXPORTS:
        raise OperatorError(
            "export.limit", f"{MOST_EXPORTS} exports are made or sent already, more are not begun; try again later"
        )
    async with contextlib.AsyncExitStack() as stack:
        spool.exports += 1
        stack.callback(_one_less, spool)
        path = spool.new()
        try:
            await to_thread.run_sync(write, path)
            # open before the name goes: the content lives as long as the answer needs it
            file = await stack.enter_async_context(aiofiles.open(path, "rb"))
        finally:
            with contextlib.suppress(FileNotFoundError):
                await aiofiles.os.remove(path)
        size = (await aiofiles.os.stat(file.fileno())).st_size
        headers = {"Content-Length": str(size), "Content-Disposition": "attachment"}
        return Export(_pieces(file), stack.pop_all(), headers)


class Export(Stream):
    """An answer that lets go of its file whichever way it ends, also where the client has gone.

    Args:
        pieces: of the file.
        ending: what is to be closed then.
        headers: of the answer.
    """

    __slots__ = ("_ending",)

    def __init__(
        self, pieces: AsyncIterator[bytes], ending: contextlib.AsyncExitStack, headers: dict[str, str]
    ) -> None:
        super().__init__(pieces, media_type=FILE_TYPE, headers=headers)
        self._ending = ending

    def to_asgi_response(self, *args: Any, **more: Any) -> Any:
        """The answer as an ASGI application."""
        answer = super().to_asgi_response(*args, **more)

        async def send_and_close(scope: Scope, receive: Receive, send: Send) -> None:
            async with self._ending:
                await answer(scope, receive, send)

        return send_and_close


async def _receive(pieces: AsyncIterator[bytes], path: Path, announced: str | None) -> None:
    """Write an upload to the spool, refusing it as soon as it is too large or the disk too small."""
    limit = min(MAX_UPLOAD_BYTES, await to_thread.run_sync(room_in, path.parent))
    if announced and announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise _too_large(int(announced), limit)
    size = 0
    try:
        with disk_errors("the upload"):
            async with aiofiles.open(path, "wb") as file:
                async for piece in _not_idle(pieces):
                    size += len(piece)
                    if size > limit:
                        raise _too_large(size, limit)
                    await file.write(piece)
    except InternalServerException as error:
        # this is how the framework says that the client has gone
        raise PublisherError("package.format", f"the upload broke off after {size} bytes") from error


async def _not_idle(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Let go of a client that sends nothing for long: its file and its place are for others."""
    while True:
        try:
            with fail_after(IDLE_S):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise PublisherError("package.format", f"the upload stood still for {IDLE_S:g} s") from error
        yield piece


def _too_large(size: int, limit: int) -> Exception:
    if limit < MAX_UPLOAD_BYTES:
        return no_room(limit, size)
    return PublisherError("package.limit", f"a package file of {size} bytes is over the limit of {MAX_UPLOAD_BYTES}")


async def _pieces(file: AsyncBufferedReader) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


def _one_less(spool: Spool) -> None:
    spool.exports -= 1
