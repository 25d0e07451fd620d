"""What making a bundle takes: time that grows with the bytes, and memory that does not grow with the release."""

import io
import random
import time
import zipfile
from pathlib import Path

import pytest

from controller.bundles import likeness, maker
from controller.bundles.deflated import take_apart
from tests.unit.bundles.trees import Step, manifest, sha256


def test_taking_an_archive_of_many_members_apart_takes_no_longer_than_its_bytes() -> None:
    draw = random.Random(1)
    words = [bytes(draw.choices(b"abcdefghijklmnop", k=6)) for _ in range(2000)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3800):
            archive.writestr(f"{number}", b" ".join(draw.choices(words, k=800)))
    began = time.process_time()
    apart = take_apart(file.getvalue())
    assert time.process_time() - began < 3
    assert apart is not None
    assert len(apart.sections) == 3800


def test_streams_on_the_disk_make_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    old = {f"{number}.so": b"\x7fELF" + draw.randbytes(30_000) for number in range(5)}
    new = {path: data[:9000] + b"new" + data[9000:] for path, data in old.items()} | {"more": draw.randbytes(50_000)}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = Step(old, new, tmp_path / "first")
    monkeypatch.setattr(maker, "_IN_MEMORY", 1)
    second = Step(old, new, tmp_path / "second")
    assert second.made.sha256 == first.made.sha256
    assert second.apply().stored.keys() == second.wanted


def test_only_the_beginning_of_a_content_is_looked_at_for_likeness() -> None:
    asked: list[int] = []

    def load(_: str, size: int) -> bytes:
        asked.append(size)
        return b"line of text\nand another\n" * 9

    old, new = manifest({"a.txt": b"old"}), manifest({"quite-different.txt": b"new"})
    found = likeness.find_sources(old, [sha256(b"new")], new, load)
    assert found == {sha256(b"new"): sha256(b"old")}
    assert max(asked) <= 1024 * 1024
