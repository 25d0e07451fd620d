"""The parts of python-tuf that the agent uses, and how it reads metadata for it.

Imported only when an update comes: it costs memory that an idle agent need not have.
"""

from collections.abc import Callable, Iterator
from typing import Final

from schemas.errors import FlotillaError
from schemas.layout import MAX_METADATA_BYTES
from schemas.without_modules import CLOUD_CLIENTS, without_modules

with without_modules(*CLOUD_CLIENTS):
    from tuf.api import exceptions
    from tuf.api.metadata import (  # type: ignore[attr-defined]  # public names, re-exported in a way that mypy does not count
        Metadata,
        Root,
        TargetFile,
        Timestamp,
    )
    from tuf.ngclient.config import UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface
    from tuf.ngclient.updater import Updater

__all__ = [
    "BASE_URL",
    "CONFIG",
    "Metadata",
    "MetadataReader",
    "ReadMetadata",
    "Root",
    "TargetFile",
    "Timestamp",
    "Updater",
    "exceptions",
]

ReadMetadata = Callable[[str, int], bytes]
"""Gives a file of the repository's `metadata/` by its name, at most so many bytes; raises `FlotillaError`."""

BASE_URL: Final = "metadata:/"
"""Stands for wherever the reader reads from."""

CONFIG: Final = UpdaterConfig(snapshot_max_length=MAX_METADATA_BYTES, targets_max_length=MAX_METADATA_BYTES)


class MetadataReader(FetcherInterface):
    """Lets the TUF client read through a function of ours.

    `FlotillaError`s travel through the client as the cause of its own `DownloadError`s.
    """

    def __init__(self, read: ReadMetadata) -> None:
        self._read = read

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """As the interface's, but without a temporary file."""
        try:
            return self._read(url.removeprefix(BASE_URL), max_length)
        except FlotillaError as error:
            if error.code == "fetch.not_found":
                raise exceptions.DownloadHTTPError(str(error), 404) from error
            raise exceptions.DownloadError(str(error)) from error

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter([self.download_bytes(url, MAX_METADATA_BYTES)])
