"""What a repository offers besides single objects, read from its list of bundles. Nobody has signed that list.

So it is only ever used to choose a way: what the way yields is checked against the signed manifest, and what it
may cost is counted.
"""

from dataclasses import dataclass

import msgspec

from schemas.bundles import BUNDLE_INDEX_FORMAT, MAX_BUNDLE_INDEX_BYTES, BundleIndex
from schemas.layout import bundle_path

_index = msgspec.json.Decoder(BundleIndex)


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


def read_index(data: bytes, to: str) -> BundleIndex | None:
    """The list, where it is one that can be used and is of the release `to` (sha256 of its plain manifest)."""
    if not 0 < len(data) <= MAX_BUNDLE_INDEX_BYTES:
        return None
    try:
        index = _index.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return index if index.format == BUNDLE_INDEX_FORMAT and index.manifest == to else None


def manifest_patches(data: bytes, to: str) -> list[ManifestOffer]:
    """The manifest differences in a list, smallest first."""
    index = read_index(data, to)
    found = [
        ManifestOffer(start=one.source, path=bundle_path(to, one.manifest_name), size=one.manifest.size)
        for one in (index.bundles if index else ())
        if one.source is not None and one.manifest is not None and one.manifest_name is not None
    ]
    return sorted(found, key=lambda offer: offer.size)
