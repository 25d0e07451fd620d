"""Serves the repository folder to agents: byte ranges, and headers that let caches keep what never changes."""

import hashlib
from pathlib import Path
from typing import Final

from anyio import to_thread
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send
from starlette.datastructures import Headers
from starlette.responses import FileResponse, PlainTextResponse, Response

from controller.repository.package_repository import PackageRepository
from controller.repository.storage import is_immutable

PATH: Final = "/repo"
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
_ASK_AGAIN: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_TYPE: Final = "application/octet-stream"


def repository_files(repository: PackageRepository) -> ASGIRouteHandler:
    """An ASGI mount for GET and HEAD of the repository's files; everything else there is 404."""

    @asgi(PATH, is_mount=True, copy_scope=True)
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # a mount gets the path below it, with a slash at both ends
        path = scope["path"].strip("/")
        found = await to_thread.run_sync(repository.open_file, path) if scope["method"] in ("GET", "HEAD") else None  # type: ignore[typeddict-item]  # a mount only gets HTTP scopes
        answer: Response
        if found is None:
            # the next root is asked for until there is one, so that no cache may remember that there was none
            answer = PlainTextResponse("not in the repository\n", status_code=404, headers=_ASK_AGAIN)
        elif is_immutable(path):
            answer = FileResponse(found, media_type=_TYPE, headers=_FOR_EVER)
        else:
            seen = Headers(raw=list(scope["headers"])).get("if-none-match")
            answer = await to_thread.run_sync(_whole, found, seen)
        await answer(scope, receive, send)  # type: ignore[arg-type]  # both frameworks speak ASGI

    return serve


def _whole(path: Path, seen: str | None) -> Response:
    """A small file that may be replaced at any moment: read at once, so that length and content belong together."""
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_ASK_AGAIN, "ETag": tag}
    if seen == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPE, headers=headers)
