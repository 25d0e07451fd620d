"""Bundles: one file that brings a device from one release, or from nothing, to another. Limits, lists and the index.

Both sides hold both manifests, so that a bundle names contents by their position in two lists that both can make:
`needed` and `sources`. `schemas.bundle_format` has the file's own layout; `docs/bundles.md` describes it byte by byte.
"""

from typing import Annotated, Final

import msgspec

from schemas.layout import MAX_FILE_BYTES, bundle_name, manifest_patch_name
from schemas.manifest import MAX_ENTRIES, Manifest
from schemas.names import Sha256

BUNDLE_INDEX_FORMAT: Final = 1
MAX_BUNDLE_INDEX_BYTES: Final = 256 * 1024
MAX_BUNDLES: Final = 256
"""Bundles that one release may have."""
MAX_MANIFEST_PATCH: Final = 32 * 1024 * 1024

MIB: Final = 1024 * 1024
MAX_INDEX_PLAIN: Final = 16 * MIB
"""The index of a bundle, unpacked."""
MAX_GROUP_SPAN: Final = 24 * MIB
"""Source and target of a group that is unpacked with its source in memory, together."""
MAX_HELD: Final = 12 * MIB
"""What a device holds of a group in packed form: the steps and new bytes of a difference."""
MAX_WINDOW_LOG: Final = 25
"""Windows of zstd frames, as in objects; never more than what the group yields."""
MAX_LZMA_DICTIONARY: Final = 8 * MIB
MAX_STEPS: Final = 2 * MIB
"""Steps of a difference; more are not worth a difference."""
MAX_READ_AGAIN: Final = 4
"""Old contents are read at most so many times in all, as prefixes of groups (and `READ_AGAIN_FREE` bytes more)."""
READ_AGAIN_FREE: Final = 64 * MIB
MAX_SECTIONS: Final = 4096
"""Deflated streams that may be taken apart in one content."""

MAX_ALL_SECTIONS: Final = 65_536
"""Those of all contents together, on either side: each costs a device some 50 µs, however small it is."""
MAX_GNU_SECTIONS: Final = 1024
"""Those that a device has deflated by GNU gzip: each costs it a process."""
MAX_INFLATED: Final = 8
"""All that is deflated again has at most so many times the bytes that are needed (and `INFLATED_FREE` bytes more)."""
INFLATED_FREE: Final = 16 * MIB

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_ENTRIES)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES * 64)]


class ObjectsCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the way object by object costs.

    Attributes:
        count: objects to fetch, that is requests.
        packed: their bytes on the wire.
        plain: their bytes on the disk.
    """

    count: Count
    packed: Bytes
    plain: Bytes


class ManifestPatch(msgspec.Struct, frozen=True, kw_only=True):
    """The difference between two plain manifests, as a file beside the bundle; `sha256` is that of the file."""

    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_MANIFEST_PATCH)]
    sha256: Sha256


class BundleEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One bundle of a release. The files' names follow from it: every update fetches the list, so it is short.

    Attributes:
        source: the manifest hash that it starts from; None where it starts from nothing.
        size, sha256: of the file.
        objects: what the other way costs from there.
        manifest: the difference of the manifests, where that is worth it.
    """

    source: Sha256 | None = None
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    sha256: Sha256
    objects: ObjectsCost
    manifest: ManifestPatch | None = None

    @property
    def name(self) -> str:
        """The file beside the index."""
        return bundle_name(self.source, self.sha256)

    @property
    def manifest_name(self) -> str | None:
        """The manifest difference's file beside the index; None where there is none."""
        if self.source is None or self.manifest is None:
            return None
        return manifest_patch_name(self.source, self.manifest.sha256)


class BundleIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository offers for getting to one release. It is not signed: it only helps to choose a way.

    Attributes:
        format: `BUNDLE_INDEX_FORMAT`.
        manifest: sha256 of the release's plain manifest.
        objects: what all of its contents cost, object by object.
        bundles: in no particular order.
    """

    format: int = BUNDLE_INDEX_FORMAT
    manifest: Sha256
    objects: ObjectsCost
    bundles: Annotated[list[BundleEntry], msgspec.Meta(max_length=MAX_BUNDLES)] = []


Content = tuple[str, int]
"""A content's sha256 in hexadecimal and its size in bytes."""


def contents(manifest: Manifest) -> list[Content]:
    """The distinct contents of a release, in the order of their first paths."""
    found: dict[str, int] = {}
    for entry in manifest.files:
        found.setdefault(entry.sha256, entry.size)
    return list(found.items())


def needed(old: Manifest | None, new: Manifest) -> list[Content]:
    """The distinct contents of `new` that `old` has not, in the order of their first paths."""
    there = {entry.sha256 for entry in old.files} if old is not None else set()
    return [content for content in contents(new) if content[0] not in there]


def sources(old: Manifest | None, new: Manifest) -> list[Content]:
    """The distinct contents of `old`: first those that `new` has no more, then the others, each in order of path.

    A bundle that starts from nothing has none.
    """
    if old is None:
        return []
    stay = {entry.sha256 for entry in new.files}
    found = contents(old)
    return [c for c in found if c[0] not in stay] + [c for c in found if c[0] in stay]
