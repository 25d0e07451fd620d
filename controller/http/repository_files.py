"""Serves the repository folder to agents: byte ranges, and headers that let caches keep what never changes."""

from typing import Final

from anyio import to_thread
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send
from starlette.responses import FileResponse, PlainTextResponse

from controller.repository.package_repository import PackageRepository

PATH: Final = "/repo"
# TUF's pointers are the only files that change in place
_MOVING: Final = ("metadata/timestamp.json",)


def repository_files(repository: PackageRepository) -> ASGIRouteHandler:
    """An ASGI mount for GET and HEAD of the repository's files; everything else there is 404."""

    @asgi(PATH, is_mount=True, copy_scope=True)
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # a mount gets the path below it, with a slash at both ends
        path = scope["path"].strip("/")
        found = await to_thread.run_sync(repository.open_file, path) if scope["method"] in ("GET", "HEAD") else None  # type: ignore[typeddict-item]  # a mount only gets HTTP scopes
        if found is None:
            answer: PlainTextResponse | FileResponse = PlainTextResponse("not in the repository\n", status_code=404)
        else:
            caching = "no-cache" if path in _MOVING else "public, max-age=31536000, immutable"
            headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
            answer = FileResponse(found, media_type="application/octet-stream", headers=headers)
        await answer(scope, receive, send)  # type: ignore[arg-type]  # both frameworks speak ASGI

    return serve
