"""Reads stored manifests, and believes only what the signed metadata names."""

import hashlib
from pathlib import Path

from controller.repository.bundle_jobs import Stored
from controller.repository.packing import DamagedError, unpack_manifest
from controller.repository.storage import Storage
from controller.repository.tuf_api import TargetFile
from schemas.errors import OperatorError, PublisherError
from schemas.layout import MAX_MANIFEST_PACKED, TARGETS
from schemas.manifest import Manifest, decode_manifest


def read_plain_manifest(storage: Storage, name: str, signed: TargetFile) -> bytes:
    """The plain bytes of the manifest behind a signed target.

    Raises:
        OperatorError: `data.bad`, when the stored file is not the one that was signed.
    """
    sha256 = signed.hashes.get("sha256", "")
    path = storage.target_file(sha256, name)
    packed = _read(path)
    if len(packed) != signed.length or hashlib.sha256(packed).hexdigest() != sha256:
        raise OperatorError("data.bad", f"{TARGETS}/{path.name} is not what was signed; push the release again")
    try:
        return unpack_manifest(packed)
    except DamagedError as error:
        raise OperatorError("data.bad", f"{TARGETS}/{path.name} {error}") from error


def read_manifest(storage: Storage, name: str, signed: TargetFile) -> Manifest:
    """The manifest behind a signed target. Raises as `read_plain_manifest`."""
    plain = read_plain_manifest(storage, name, signed)
    try:
        return decode_manifest(plain)
    except PublisherError as error:
        raise OperatorError("data.bad", f"{TARGETS}/{name}: {error}") from error


def read_stored_manifest(storage: Storage, release: Stored) -> bytes:
    """The plain bytes of a stored release's manifest, which have the hash that is its identity.

    Raises:
        OperatorError: `data.bad`, when they have not.
    """
    path = storage.target_file(release.target, release.name)
    try:
        plain = unpack_manifest(_read(path))
    except DamagedError as error:
        raise OperatorError("data.bad", f"{TARGETS}/{path.name} {error}") from error
    if hashlib.sha256(plain).hexdigest() != release.manifest:
        raise OperatorError("data.bad", f"{TARGETS}/{path.name} is not what was pushed; push the release again")
    return plain


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_PACKED + 1)
    except OSError as error:
        raise OperatorError(
            "data.bad", f"{TARGETS}/{path.name} cannot be read: {error.strerror}; push the release again"
        ) from error
