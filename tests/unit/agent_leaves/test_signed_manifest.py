"""From a question to a manifest: the names that are asked for, and what must be inside."""

import hashlib

import pytest

from device_agent.signed_manifest import candidate_names, check_packed, decode
from device_agent.trust import SignedTarget
from device_agent.unpacking import unpack_manifest
from schemas.errors import DeviceError, PublisherError, TrustError
from schemas.layout import MAX_MANIFEST_BYTES, target_name
from schemas.manifest import Manifest, encode_manifest
from tests.unit.agent_leaves.zstd_frames import compressed, frame_with_huge_window

PLAIN = encode_manifest(Manifest(format=1, package="tacho", version="1.0.0", platform="any"))


def target(packed: bytes, package: str = "tacho", version: str = "1.0.0", platform: str = "any") -> SignedTarget:
    name = target_name(package, version, platform)
    return SignedTarget(name=name, length=len(packed), sha256=hashlib.sha256(packed).hexdigest())


def test_the_platforms_own_manifest_is_asked_for_first() -> None:
    assert candidate_names("tacho", "1.0.0", "linux-aarch64") == [
        "tacho@1.0.0@linux-aarch64.json.zst",
        "tacho@1.0.0@any.json.zst",
    ]
    assert candidate_names("tacho", "1.0.0", "any") == ["tacho@1.0.0@any.json.zst"]


@pytest.mark.parametrize(("package", "platform"), [("../x", "any"), ("tacho", "../x"), ("Tacho", "any")])
def test_names_that_the_contract_does_not_allow_are_refused(package: str, platform: str) -> None:
    with pytest.raises(PublisherError) as caught:
        candidate_names(package, "1.0.0", platform)
    assert caught.value.code == "release.unknown"


def test_a_manifest_is_what_it_was_signed_as() -> None:
    packed = compressed(PLAIN)
    signed = decode(packed, target(packed), "tacho", "1.0.0", 7)
    assert (signed.plain, signed.sha256) == (PLAIN, hashlib.sha256(PLAIN).hexdigest())
    assert signed.wire_bytes == 7


@pytest.mark.parametrize("part", ["package", "version", "platform"])
def test_another_releases_manifest_under_the_name_is_refused(part: str) -> None:
    packed = compressed(PLAIN)
    asked = {"package": "tacho", "version": "1.0.0", "platform": "any"}
    asked[part] = {"package": "other", "version": "2.0.0", "platform": "linux-aarch64"}[part]
    with pytest.raises(TrustError) as caught:
        decode(packed, target(packed, **asked), asked["package"], asked["version"], 0)
    assert caught.value.code == "trust.unsigned"
    assert "is tacho 1.0.0 for any" in caught.value.message


def test_bytes_that_were_not_signed_are_refused() -> None:
    packed = compressed(PLAIN)
    with pytest.raises(DeviceError) as caught:
        check_packed(packed + b"x", target(packed), "repo")
    assert caught.value.code == "verify.size"
    with pytest.raises(DeviceError) as caught:
        check_packed(packed[:-1] + b"x", target(packed), "repo")
    assert caught.value.code == "verify.digest"


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        (b"no zstd", "manifest.bad"),
        (compressed(PLAIN)[:-3], "manifest.bad"),
        (compressed(PLAIN) + b"x", "manifest.bad"),
        (frame_with_huge_window(PLAIN), "manifest.bad"),
        (compressed(bytes(MAX_MANIFEST_BYTES + 1)), "package.limit"),
    ],
    ids=["no zstd", "cut", "tail", "window", "bomb"],
)
def test_a_manifest_that_cannot_be_unpacked_safely_is_the_publishers_fault(packed: bytes, code: str) -> None:
    with pytest.raises(PublisherError) as caught:
        unpack_manifest(packed, "tacho 1.0.0")
    assert caught.value.code == code
    assert "tacho 1.0.0" in caught.value.message
