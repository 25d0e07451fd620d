"""Other copies of a repository to take single files from: a folder, or a base URL. Nothing in them is trusted."""

from pathlib import Path
from typing import Final, Protocol

import urllib3

from controller.repository.storage_paths import is_served
from schemas.errors import NetworkError, OperatorError, one_line

_TIMEOUT: Final = urllib3.Timeout(connect=10.0, read=60.0)
_PIECE: Final = 1 << 20


class Mirror(Protocol):
    """Gives files by their paths below the base."""

    def read(self, path: str, limit: int) -> bytes | None:
        """A file; None where the mirror has none, or one of more than `limit` bytes.

        Raises:
            NetworkError: `fetch.unreachable`.
        """
        ...


class FolderMirror:
    """A repository's folder, or a copy of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, limit: int) -> bytes | None:
        """See `Mirror`."""
        if not is_served(path):
            return None
        try:
            with (self._folder / path).open("rb") as file:
                content = file.read(limit + 1)
        except OSError:
            return None
        return content if len(content) <= limit else None


class UrlMirror:
    """A repository that a web server serves."""

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    def read(self, path: str, limit: int) -> bytes | None:
        """See `Mirror`."""
        if not is_served(path):
            return None
        try:
            answer = self._pool.request("GET", f"{self._base}/{path}", preload_content=False, redirect=False)
            try:
                content = bytearray()
                for piece in answer.stream(_PIECE, decode_content=False) if answer.status == 200 else ():
                    content += piece
                    if len(content) > limit:
                        return None
                return bytes(content) if answer.status == 200 else None
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError("fetch.unreachable", f"the mirror {self._base}: {one_line(error, 200)}") from error


def open_mirror(where: str) -> Mirror:
    """The mirror at a base URL (`http://` or `https://`) or in a folder. Raises `OperatorError` (`input.bad`)."""
    if where.startswith(("http://", "https://")):
        if "@" in where.partition("://")[2].partition("/")[0]:
            # not shown, as it may be a password
            raise OperatorError("input.bad", "the mirror's base URL must not hold a user or password; none is sent")
        return UrlMirror(where)
    folder = Path(where)
    if not (folder / "metadata").is_dir():
        raise OperatorError(
            "input.bad", f"{where!r} is neither a base URL nor a repository's folder: no metadata/ in it"
        )
    return FolderMirror(folder)
