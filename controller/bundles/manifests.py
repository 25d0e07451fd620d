"""Makes the difference between two plain manifests. The layout is in `schemas.manifest_patches`."""

from controller.bundles.packing import pack_zstd
from schemas.manifest_patches import encode_patch, marked, skeleton


def make_manifest_patch(old_plain: bytes, new_plain: bytes) -> bytes:
    """What makes `new_plain` from `old_plain`, both as signed."""
    text, hashes = marked(old_plain, new_plain)
    packed = pack_zstd(text, prefix=skeleton(old_plain))
    return encode_patch(packed, len(text), pack_zstd(hashes) if hashes else b"")
