"""Any two releases: the bundle yields exactly what the new one needs, however the bytes arrive."""

import gzip
import io
import random
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.bundles import candidates, grouping
from schemas.bundles import needed, sources
from tests.unit.bundles.trees import Device, Step, Tree, manifest, push, sha256

_chunks = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\0" * 5000, b"\x7fELF" + bytes(range(256)) * 9, b"line of text\n" * 300, b"\x1f\x8b\x08"]),
    st.binary(max_size=300).map(lambda data: gzip.compress(data * 7, 9, mtime=0)),
)
_contents = st.lists(_chunks, max_size=4).map(b"".join)
_names = st.sampled_from(["a.py", "b-1.2.3.txt", "b-1.3.0.txt", "c/d.so", "c/e.gz", "f.1a2b3c4d.js", "f.9f8e7d6c.js"])
_trees = st.dictionaries(_names, _contents, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(old=st.none() | _trees, new=_trees, cut=st.integers(1, 400))
def test_any_two_trees(old: Tree | None, new: Tree, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = Step(old, new, Path(folder))
    device = step.apply(cut=cut)
    assert device.stored.keys() == step.wanted
    assert device.undone == []


@settings(max_examples=25, deadline=None)
@given(new=_trees, data=st.data())
def test_edited_contents(new: Tree, data: st.DataObject) -> None:
    old = {}
    for path, content in new.items():
        at = data.draw(st.integers(0, len(content)))
        old[path] = content[:at] + data.draw(st.binary(max_size=9)) + content[at + data.draw(st.integers(0, 9)) :]
    with tempfile.TemporaryDirectory() as folder:
        step = Step(old, new, Path(folder))
    assert step.apply().stored.keys() == step.wanted


def code(seed: int, size: int = 60_000) -> bytes:
    return b"\x7fELF" + random.Random(seed).randbytes(size)


def patched(data: bytes, every: int) -> bytes:
    out = bytearray(data)
    for at in range(64, len(out), every):
        out[at] = (out[at] + 7) % 256
    return bytes(out)


def words(seed: int, count: int = 4000) -> bytes:
    draw = random.Random(seed)
    return b"".join(b"%x " % draw.randrange(9000) + (b"\n" if i % 9 == 0 else b"") for i in range(count))


def archive(*members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for number, member in enumerate(members):
            made.writestr(zipfile.ZipInfo(f"{number}.txt"), member, zipfile.ZIP_DEFLATED)
    return file.getvalue()


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """One of everything: text, code, a renamed asset, gzip and zip, a new file, an empty one, moved and kept ones."""
    zipped = [archive(words(5), words(6)), archive(b"begin" + words(5), words(6), b"more")]
    old = {
        "code.so": code(1),
        "data.json.gz": gzip.compress(words(2), 9, mtime=1),
        "kept": b"kept",
        "moved/from": b"moved",
        "static/app.1a2b3c4d.js": words(3),
        "text.py": words(4),
        "wheel.whl": zipped[0],
    }
    new = {
        "code.so": patched(code(1), 90) + b"a new function" * 20,
        "data.json.gz": gzip.compress(words(2).replace(b"7", b"seven"), 9, mtime=2),
        "empty": b"",
        "fresh.bin": random.Random(9).randbytes(3000),
        "kept": b"kept",
        "moved/to": b"moved",
        "static/app.9f8e7d6c.js": words(3)[:-50] + b"end",
        "text.py": words(4).replace(b"1 ", b"one "),
        "wheel.whl": zipped[1],
    }
    return Step(old, new, tmp_path_factory.mktemp("step"))


def test_each_way_of_packing_is_used_and_pays(step: Step) -> None:
    kinds = {(group.kind, group.method) for group in step.made.groups}
    assert ("compiled", "difference") in kinds
    assert ("deflated", "prefix") in kinds
    assert any(kind == "text" for kind, _ in kinds)
    assert step.made.size == len(step.bundle)
    assert step.made.sha256 == sha256(step.bundle)
    by_kind = {group.kind: group for group in step.made.groups}
    assert by_kind["compiled"].packed < 1500
    assert by_kind["compiled"].plain > 60_000
    assert by_kind["deflated"].contents == 2, "gzip and zip are taken apart"


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 1000, 1 << 20])
def test_however_it_is_cut(step: Step, cut: int) -> None:
    assert step.apply(cut=cut).stored.keys() == step.wanted


def test_without_taking_apart(step: Step, tmp_path: Path) -> None:
    old = {e.path: step.contents[e.sha256] for e in step.old.files} if step.old else {}
    new = {e.path: step.contents[e.sha256] for e in step.new.files}
    plain = Step(old, new, tmp_path, inside=False)
    assert plain.apply().stored.keys() == plain.wanted
    assert plain.made.size > step.made.size


def test_the_same_releases_give_the_same_bundle(step: Step, tmp_path: Path) -> None:
    old = {e.path: step.contents[e.sha256] for e in step.old.files} if step.old else {}
    new = {e.path: step.contents[e.sha256] for e in step.new.files}
    assert Step(old, new, tmp_path).bundle == step.bundle


def test_what_is_stored_is_not_made_again(step: Step) -> None:
    first = step.apply()
    for count in range(len(step.wanted) + 1):
        have = frozenset(list(first.stored)[:count])
        device = Device()
        push(step.reader(device, have), step.bundle)
        assert device.stored.keys() == step.wanted - have


def test_groups_that_are_stored_need_not_be_fetched(step: Step) -> None:
    first = step.apply()
    last = list(first.stored)[-1]
    device = Device()
    reader = step.reader(device, frozenset(first.stored) - {last})
    fetched = at = 0
    while not reader.is_complete and at < len(step.bundle):
        reader.take(step.bundle[at : at + 16])
        fetched += 16
        at += 16
        if reader.restart_at > at:
            at = reader.restart_at
            reader.go_to(at)
    reader.finish()
    assert device.stored.keys() == {last}
    assert fetched < len(step.bundle) // 2


def test_a_cut_off_download_goes_on_where_it_was(step: Step) -> None:
    device = Device()
    reader = step.reader(device)
    while not reader.is_complete:
        at = reader.restart_at
        reader.take(step.bundle[at : at + 777])
    reader.finish()
    assert device.stored.keys() == step.wanted


def test_a_reader_only_goes_to_where_it_needs_to(step: Step) -> None:
    with pytest.raises(ValueError, match="needed from 0"):
        step.reader(Device()).go_to(5)


def test_a_reader_that_is_closed_leaves_nothing_half_done(step: Step) -> None:
    for end in range(0, len(step.bundle), 331):
        device = Device()
        reader = step.reader(device)
        reader.take(step.bundle[:end])
        reader.close()
        assert sorted(device.begun) == sorted([*device.stored, *device.undone])
        assert len(device.undone) <= 2, "the two that are deflated again may both be under way"


def test_contents_too_large_for_a_group_go_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "PREFIX_SPAN", 20_000)
    monkeypatch.setattr(grouping, "DIFFERENCE_SPAN", 40_000)
    monkeypatch.setattr(candidates, "PREFIX_SPAN", 20_000)
    monkeypatch.setattr(candidates, "LARGE", 40_000)
    old = {"huge": words(1, 9000), "large": words(2), "small": b"small"}
    new = {"huge": words(1, 9001), "large": words(2, 4010), "small": b"smaller", "zero.so": code(3)}
    step = Step(old, new, tmp_path)
    assert [(group.method, group.contents) for group in step.made.groups] == [
        ("plain", 1),
        ("difference", 1),
        ("prefix", 1),
        ("plain", 1),
    ]
    assert step.apply().stored.keys() == step.wanted


def test_the_lists_name_each_content_once_and_what_goes_first() -> None:
    old = manifest({"a": b"1", "b": b"2", "c": b"2", "d": b"3"})
    new = manifest({"a": b"9", "b": b"2", "e": b"9", "f": b"8"}, "2.0.0")
    assert [name for name, _ in needed(old, new)] == [sha256(b"9"), sha256(b"8")]
    assert [name for name, _ in sources(old, new)] == [sha256(b"1"), sha256(b"3"), sha256(b"2")]
    assert [name for name, _ in needed(None, new)] == [sha256(b"9"), sha256(b"2"), sha256(b"8")]
    assert sources(None, new) == []
