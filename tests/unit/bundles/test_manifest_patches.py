"""Differences of manifests give the very manifest, or an error that says what is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.bundles import make_manifest_patch
from device_agent.bundles import apply_manifest_patch
from schemas.errors import DeviceError
from schemas.manifest import encode_manifest
from tests.unit.bundles.trees import Tree, manifest, sha256

_names = st.sampled_from(["a", "b/c", 'quo"te', "back\\slash", '"path":"x","sha256":"+"', "ü", "z" * 100])
_trees = st.dictionaries(_names, st.binary(max_size=3), max_size=7)


def applied(old: bytes, patch: bytes, new: bytes) -> bytes:
    return apply_manifest_patch(old, patch, size=len(new), sha256=sha256(new))


@settings(max_examples=60, deadline=None)
@given(old=_trees, new=_trees)
def test_any_two_manifests(old: Tree, new: Tree) -> None:
    before, after = encode_manifest(manifest(old)), encode_manifest(manifest(new, "2.0.0"))
    assert applied(before, make_manifest_patch(before, after), after) == after


@settings(max_examples=50, deadline=None)
@given(old=st.binary(max_size=300), new=st.binary(max_size=300))
def test_bytes_that_are_no_manifests(old: bytes, new: bytes) -> None:
    assert applied(old, make_manifest_patch(old, new), new) == new


OLD = encode_manifest(manifest({f"file{i}": b"%d" % i for i in range(400)}))
NEW = encode_manifest(
    manifest({f"file{i}": b"%d" % (i if i % 40 else -i) for i in range(390)} | {"moved": b"395"}, "2.0.0")
)
PATCH = make_manifest_patch(OLD, NEW)


def test_what_is_sent_is_little_more_than_the_new_hashes() -> None:
    assert len(PATCH) < 10 * 32 + 200
    assert len(NEW) > 30_000


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage(data: st.DataObject) -> None:
    patch = bytearray(PATCH)
    for at in data.draw(st.lists(st.integers(0, len(patch) - 1), min_size=1, max_size=3)):
        patch[at] ^= 1 << data.draw(st.integers(0, 7))
    end = data.draw(st.integers(0, len(patch)) | st.just(len(patch)))
    try:
        assert applied(OLD, bytes(patch[:end]), NEW) == NEW
    except DeviceError as error:
        assert error.code.startswith("verify.")  # either outcome is right


def test_another_old_manifest() -> None:
    with pytest.raises(DeviceError) as caught:
        applied(OLD.replace(b"file1", b"fool1"), PATCH, NEW)
    assert caught.value.code.startswith("verify.")


def test_a_patch_that_makes_more_is_stopped() -> None:
    for size in (0, 100, len(NEW) - 1):
        with pytest.raises(DeviceError) as caught:
            apply_manifest_patch(OLD, PATCH, size=size, sha256=sha256(NEW))
        assert caught.value.code.startswith("verify.")


def test_a_newer_format() -> None:
    with pytest.raises(DeviceError, match="newer format"):
        applied(OLD, b"FLM\x02" + PATCH[4:], NEW)
