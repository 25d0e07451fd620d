"""Static files, each at an address that holds a hash of its content: kept for ever by browsers, never stale."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

FOLDER: Final = Path(__file__).parent / "static"
PATH: Final = "/static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str


class Statics:
    """All files of a folder, in memory: they are few and small."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._urls: dict[str, str] = {}
        self._files: dict[str, _File] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in _TYPES:
                self._add(path.relative_to(folder).as_posix(), path.read_bytes(), _TYPES[path.suffix])

    def url(self, name: str) -> str:
        """The address of a file by its path in the folder; raises `KeyError` for one that is not there."""
        return self._urls[name]

    def handler(self) -> HTTPRouteHandler:
        """Serves them."""

        @get(f"{PATH}/{{name:path}}", include_in_schema=False)
        async def static(name: FromPath[str]) -> Response[bytes]:
            found = self._files.get(name.strip("/"))
            if found is None:
                raise NotFoundException
            return Response(found.content, media_type=found.type, headers=_FOR_EVER)

        return static

    def _add(self, name: str, content: bytes, media_type: str) -> None:
        stem, dot, suffix = name.rpartition(".")
        hashed = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}{dot}{suffix}"
        self._urls[name] = f"{PATH}/{hashed}"
        self._files[hashed] = _File(content, media_type)
