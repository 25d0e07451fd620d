"""What a repository offers besides single objects, read from its list of bundles. Nobody has signed that list."""

from dataclasses import dataclass
from typing import Final

MAX_INDEX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOffer:
    """A difference between two manifests.

    Attributes:
        start: sha256 of the plain manifest that it starts from.
        path: below a base URL.
        size: its bytes.
    """

    start: str
    path: str
    size: int


def read_index(data: bytes, to: str) -> object | None:
    """The list, where it is one of the release `to` (sha256 of its plain manifest)."""
    del data, to
    return None


def manifest_patches(index: bytes, to: str) -> list[ManifestOffer]:
    """The manifest differences on offer."""
    del index, to
    return []


def apply(old: bytes, patch: bytes, *, size: int, sha256: str) -> bytes:
    """The manifest that a difference leads to."""
    del old, patch, size, sha256
    raise NotImplementedError
