"""From a question (package, version, platform) to a manifest that is signed, and from signed bytes to typed values."""

import hashlib

from device_agent.seams import SignedManifest
from device_agent.trust import SignedTarget
from device_agent.unpacking import unpack_manifest
from schemas.errors import DeviceError, NetworkError, PublisherError, TrustError, one_line
from schemas.layout import target_name
from schemas.manifest import decode_manifest
from schemas.names import ANY_PLATFORM
from schemas.versions import parse


def candidate_names(package: str, version: str, platform: str) -> list[str]:
    """The names under which the manifest may be signed, best first.

    Raises:
        PublisherError: `version.bad`.
    """
    parse(version)
    try:
        names = [target_name(package, version, name) for name in (platform, ANY_PLATFORM)]
    except ValueError as error:
        raise PublisherError("release.unknown", one_line(error)) from error
    return list(dict.fromkeys(names))


def not_found(package: str, version: str, platform: str, where: str) -> NetworkError:
    """What to raise where none of the names is signed."""
    return NetworkError(
        "fetch.not_found", f"{where}: has no {package} {version} for {platform} (or for every platform)"
    )


def check_packed(packed: bytes, target: SignedTarget, where: str) -> None:
    """Raise `DeviceError` (`verify.*`) unless these are the bytes that were signed."""
    if len(packed) != target.length:
        raise DeviceError(
            "verify.size", f"{where}: manifest {target.name} has {len(packed)} bytes instead of {target.length}"
        )
    if hashlib.sha256(packed).hexdigest() != target.sha256:
        raise DeviceError("verify.digest", f"{where}: manifest {target.name} does not have the hash that was signed")


def decode(packed: bytes, target: SignedTarget, package: str, version: str, wire_bytes: int) -> SignedManifest:
    """The manifest in bytes that `check_packed` found to be right. Raises as `decode_plain` does."""
    return decode_plain(
        unpack_manifest(packed, f"{package} {version}"), target, package, version, wire_bytes=wire_bytes
    )


def decode_plain(
    plain: bytes, target: SignedTarget, package: str, version: str, *, wire_bytes: int, index: bytes = b""
) -> SignedManifest:
    """The manifest in plain bytes of which the packed ones, or they themselves, were found to be signed.

    Raises:
        PublisherError: the manifest breaks a rule.
        TrustError: `trust.unsigned`: it is another release's than the one it was signed as.
    """
    manifest = decode_manifest(plain)
    if target_name(manifest.package, manifest.version, manifest.platform) != target.name:
        raise TrustError(
            "trust.unsigned",
            f"what is signed as {target.name} is {manifest.package} {manifest.version} for {manifest.platform}; "
            f"nothing vouches for {package} {version}",
        )
    return SignedManifest(
        manifest=manifest, sha256=hashlib.sha256(plain).hexdigest(), plain=plain, wire_bytes=wire_bytes, index=index
    )
