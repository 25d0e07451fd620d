"""Packed contents: bounded on the way out, and every kind of damage is found."""

import hashlib
import io
import os

import pytest

from controller.repository.packing import (
    DamagedError,
    check_object,
    pack,
    pack_manifest,
    pack_stream,
    plain_size,
    unpack_manifest,
    zstd,
)
from schemas.errors import PublisherError
from schemas.layout import MAX_MANIFEST_BYTES

PLAIN = os.urandom(3_000_000) + bytes(2_000_000)
SHA256 = hashlib.sha256(PLAIN).hexdigest()


def streamed(plain: bytes) -> bytes:
    out = io.BytesIO()
    assert pack_stream(io.BytesIO(plain), len(plain), out) == len(out.getvalue())
    return out.getvalue()


@pytest.mark.parametrize("plain", [b"", b"x", PLAIN], ids=["empty", "one byte", "large"])
@pytest.mark.parametrize("how", [pack, streamed])
def test_what_is_packed_comes_out_the_same_and_says_its_size(plain: bytes, how: object) -> None:
    packed = how(plain)  # type: ignore[operator]  # both are functions of bytes
    assert zstd.decompress(packed) == plain
    assert plain_size(packed[:32]) == len(plain)
    check_object(io.BytesIO(packed), hashlib.sha256(plain).hexdigest(), len(plain))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


PACKED = pack(PLAIN)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (flipped(PACKED, 1_000_000), "content"),
        (PACKED[:-1], "cut short"),
        (PACKED[:10], "packed object|cut short"),
        (b"", "not a packed object"),
        (PACKED + b"x", "followed by something else"),
        (PACKED + PACKED, "followed by something else"),
        (pack(b"other"), "where 5000000 belong"),
        (b"not zstd at all" * 10, "not a packed object"),
        (pack(bytes(5_000_000)), "content that its name says"),
    ],
    ids=["flipped", "short", "header only", "empty", "longer", "twice", "other size", "other format", "other content"],
)
def test_damage_is_found(data: bytes, problem: str) -> None:
    with pytest.raises(DamagedError, match=problem):
        check_object(io.BytesIO(data), SHA256, len(PLAIN))


def test_an_object_that_unpacks_to_more_than_it_says_is_stopped() -> None:
    # A frame whose header says 4 bytes, spliced before the blocks of a larger one.
    small, large = zstd.compress(b"abcd"), zstd.compress(bytes(1000))
    forged = small[:6] + large[7:]
    with pytest.raises(DamagedError):
        check_object(io.BytesIO(forged), hashlib.sha256(bytes(1000)).hexdigest(), None)


def test_manifests_are_bounded_both_ways() -> None:
    plain = b'{"a":1}'
    assert unpack_manifest(pack_manifest(plain)) == plain
    bomb = zstd.compress(bytes(MAX_MANIFEST_BYTES + 1))
    assert len(bomb) < 100_000
    for bad in (bomb, pack_manifest(plain)[:-1], pack_manifest(plain) + b"x", b"rubbish"):
        with pytest.raises(DamagedError):
            unpack_manifest(bad)
    with pytest.raises(PublisherError) as caught:
        pack_manifest(os.urandom(17 * 1024 * 1024))
    assert caught.value.code == "package.limit"
