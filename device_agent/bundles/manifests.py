"""Makes a release's plain manifest from that of another release and the difference between them.

The layout is in `schemas.manifest_patches`.
"""

import hashlib

from device_agent.bundles.damage import damage
from device_agent.zstd import prefixed_decompressor
from schemas.bundles import MAX_MANIFEST_PATCH
from schemas.errors import DeviceError
from schemas.layout import MAX_MANIFEST_BYTES
from schemas.manifest_patches import decode_patch, fill, skeleton
from schemas.varints import FormatError


def apply_manifest_patch(old_plain: bytes, patch: bytes, *, size: int, sha256: str) -> bytes:
    """The plain manifest of `size` bytes whose hash is `sha256`, from `old_plain` and what leads from it there.

    Memory is bounded by the two manifests' sizes.

    Raises:
        DeviceError: `verify.bundle`, `verify.size` or `verify.digest`.
    """
    with damage("the manifest difference"):
        if len(patch) > MAX_MANIFEST_PATCH or size > MAX_MANIFEST_BYTES:
            raise FormatError("it is over the limits")
        packed, skeleton_size, rest = decode_patch(patch)
        if skeleton_size > size:
            raise FormatError("it is over the limits")
        decompressor = prefixed_decompressor(skeleton(old_plain))
        new_skeleton = decompressor.decompress(packed, max_length=skeleton_size + 1)
        if len(new_skeleton) != skeleton_size or not decompressor.eof or decompressor.unused_data:
            raise FormatError("its text has another size than it says")
        unpacker = prefixed_decompressor(b"")
        hashes = unpacker.decompress(rest, max_length=size + 1) if rest else b""
        plain = fill(new_skeleton, old_plain, hashes, size)
    if len(plain) != size:
        raise DeviceError("verify.size", f"the manifest made from a difference has {len(plain)} bytes, not {size}")
    if hashlib.sha256(plain).hexdigest() != sha256:
        raise DeviceError("verify.digest", "the manifest made from a difference has another hash")
    return plain
