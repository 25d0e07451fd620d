"""Content that is itself deflated: taken apart where that pays, put back exactly, and never with work without end."""

import contextlib
import gzip
import io
import random
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.bundles import insides
from controller.bundles.deflated import Prover, inside, take_apart
from device_agent.bundles import effort, gnu_gzip, lanes
from schemas.bundle_format import Group, Method, Piece, Section, Stream, decode_index, encode_index
from schemas.bundles import INFLATED_FREE, MAX_ALL_SECTIONS, MAX_GNU_SECTIONS, MAX_INFLATED, MAX_SECTIONS
from schemas.deflate import GNU_GZIP, check_value, compressor, gnu_level, setting
from schemas.errors import DeviceError
from schemas.varints import FormatError
from tests.unit.bundles.trees import Device, Step, push


def words(seed: int, count: int) -> bytes:
    draw = random.Random(seed)
    return b"".join(b"%x " % draw.randrange(30_000) for _ in range(count))


def by_gnu(plain: bytes, level: int = 6) -> bytes:
    return subprocess.run(["gzip", f"-{level}", "-n"], input=plain, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def gnu_step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    """Files by GNU gzip that are more than one of its blocks; zlib ends blocks elsewhere."""
    text = words(1, 60_000)
    old = {"a.json.gz": by_gnu(text), "b.json.gz": by_gnu(text[::-1], 9)}
    new = {"a.json.gz": by_gnu(b"new" + text), "b.json.gz": by_gnu(b"other" + text[::-1], 9)}
    return Step(old, new, tmp_path_factory.mktemp("gnu"))


def test_files_by_gnu_gzip_are_put_back_exactly(gnu_step: Step) -> None:
    assert [(group.kind, group.contents) for group in gnu_step.made.groups] == [("deflated", 2)]
    assert gnu_step.made.size < 1000
    assert gnu_step.apply().stored.keys() == gnu_step.wanted


def test_a_device_without_gzip_says_so_before_anything_is_made(gnu_step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnu_gzip.shutil, "which", lambda _: None)
    assert "has no gzip" in refused(gnu_step)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exec gzip -1 -n", "in another way"),
        ("exit 3", "gzip"),
        ("cat >/dev/null; exit 3", "failed with status 3"),
        ("exec sleep 60", "did nothing"),
    ],
)
def test_a_gzip_that_is_another_or_does_not_work(
    gnu_step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, says: str
) -> None:
    program = tmp_path / "gzip"
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(gnu_gzip.shutil, "which", lambda _: str(program))
    monkeypatch.setattr(gnu_gzip, "_STALL_S", 0.5)
    assert says in refused(gnu_step)


def refused(step: Step) -> str:
    device = Device()
    with pytest.raises(DeviceError) as caught:
        push(step.reader(device), step.bundle)
    assert caught.value.code == "verify.deflate"
    assert device.begun == []
    return caught.value.message


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 70_000), max_size=4), level=st.sampled_from([1, 6, 9]))
def test_however_gzip_is_fed_it_gives_the_same(sizes: list[int], level: int) -> None:
    plain = random.Random(sum(sizes)).randbytes(sum(sizes) // 2) + bytes(sum(sizes) - sum(sizes) // 2)
    with contextlib.closing(gnu_gzip.GnuGzip(level)) as squeeze:
        packed, at = b"", 0
        for size in sizes:
            packed += squeeze.compress(plain[at : at + size])
            at += size
        packed += squeeze.flush()
    assert packed == by_gnu(plain, level)[10:-8]


def test_files_that_differ_in_their_date_alone_are_not_deflated_again(tmp_path: Path) -> None:
    old = {f"{n}.gz": gzip.compress(words(n, 3000), 6, mtime=1_000_000) for n in range(20)}
    new = {f"{n}.gz": gzip.compress(words(n, 3000), 6, mtime=2_000_000) for n in range(20)}
    step = Step(old, new, tmp_path)
    assert [group.kind for group in step.made.groups] == ["packed"]
    assert step.made.size < 20 * 20
    assert step.apply().stored.keys() == step.wanted


@pytest.mark.parametrize(("others", "taken_apart"), [(0, 0), (50, 1), (300, 4)])
def test_no_more_is_deflated_than_unpacking_the_whole_release_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int, taken_apart: int
) -> None:
    monkeypatch.setattr(insides, "START_S", 0.01)
    # each file stands for ten
    monkeypatch.setattr(insides, "UNPACK_FILE_S", 10 * insides.UNPACK_FILE_S)
    stay = {f"stays/{n}": b"%d" % n for n in range(others)}
    texts = {f"{n}.gz": words(n, 150_000) for n in range(4)}
    old = stay | {path: gzip.compress(text, 6, mtime=0) for path, text in texts.items()}
    new = stay | {path: gzip.compress(b"new" + text, 6, mtime=0) for path, text in texts.items()}
    step = Step(old, new, tmp_path)
    assert sum(group.contents for group in step.made.groups if group.kind == "deflated") == taken_apart
    assert step.apply().stored.keys() == step.wanted


def test_a_member_that_cannot_be_put_back_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def archive(edition: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            for number in range(6):
                # a small window: no setting that is tried has it
                odd = zlib.compressobj(6, zlib.DEFLATED, -9) if number == 3 else zlib.compressobj(6, zlib.DEFLATED, -15)
                monkeypatch.setattr(zipfile, "_get_compressor", lambda *_, odd=odd: odd)
                made.writestr(zipfile.ZipInfo(f"{number}"), edition + words(number, 3000), zipfile.ZIP_DEFLATED)
        return file.getvalue()

    old, new = archive(b"old"), archive(b"new")
    apart = take_apart(new)
    assert apart is not None
    proven = Prover().prove(new, apart)
    assert proven is not None
    assert (len(apart.sections), len(proven.sections)) == (6, 5)
    assert inside(new, proven.sections) == proven.inner
    step = Step({"a.zip": old}, {"a.zip": new}, tmp_path)
    assert step.made.size < len(new) // 4
    assert step.apply().stored.keys() == step.wanted


def test_the_check_value_tells_gnu_gzip_from_zlib() -> None:
    def by_zlib(level: int, plain: bytes) -> bytes:
        squeeze = compressor(setting(level=level, memory=8, strategy=0))
        return squeeze.compress(plain) + squeeze.flush()

    for level in (1, 6, 9):
        number = GNU_GZIP + level - 1
        assert gnu_level(number) == level
        assert check_value([number], gnu_gzip.deflate_gnu) != check_value([number], by_zlib)


_NEEDED = [(f"{number:064x}", 1000) for number in range(MAX_ALL_SECTIONS // MAX_SECTIONS + 1)]
_SOURCES = [("f" * 64, 1000)]


def index(sections: tuple[Section, ...], *, contents: int = 1, old: tuple[Section, ...] = ()) -> bytes:
    """An index in which the first contents are taken apart, and the others made plainly."""
    rest = tuple(Piece(position=position) for position in range(contents, len(_NEEDED)))
    first = tuple(Piece(position=position, sections=sections) for position in range(contents))
    size = sum(piece.inner for piece in first) or 1000
    groups = [
        Group(
            method=Method.PREFIX,
            sources=(Piece(position=0, sections=old),),
            targets=first,
            prefix=8,
            streams=(Stream(0, 9, size),),
        )
    ]
    if rest:
        plain = Stream(0, 9, 1000 * len(rest))
        groups.append(Group(method=Method.PLAIN, sources=(), targets=rest, prefix=0, streams=(plain,)))
    return encode_index(groups)


def test_what_is_to_be_deflated_is_bounded_by_what_the_manifest_says_is_written() -> None:
    most = MAX_INFLATED * sum(size for _, size in _NEEDED) + INFLATED_FREE
    each = 1_000_000
    count = most // each + 1
    with pytest.raises(FormatError, match="more to deflate"):
        decode_index(index((Section(0, each, 5),) * count), _NEEDED, _SOURCES)
    assert decode_index(index((Section(0, each, 5),) * 15), _NEEDED, _SOURCES)


def test_what_is_to_be_deflated_by_a_process_each_is_bounded() -> None:
    with pytest.raises(FormatError, match="more to deflate"):
        decode_index(index((Section(0, 1, GNU_GZIP),) * (MAX_GNU_SECTIONS + 1)), _NEEDED, _SOURCES)
    assert decode_index(index((Section(0, 1, GNU_GZIP),) * MAX_GNU_SECTIONS), _NEEDED, _SOURCES)


def test_streams_are_bounded_in_all_contents_together() -> None:
    tiny = (Section(0, 1, 5),) * MAX_SECTIONS
    with pytest.raises(FormatError):
        decode_index(index(tiny, contents=len(_NEEDED)), _NEEDED, _SOURCES)
    assert decode_index(index(tiny, contents=len(_NEEDED) - 1), _NEEDED, _SOURCES)


def test_deflating_that_takes_too_long_is_given_up(gnu_step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "FREE_S", 0.0)
    monkeypatch.setattr(effort, "BYTES_PER_S", 10**12)
    device = Device()
    with pytest.raises(DeviceError, match="takes too long") as caught:
        push(gnu_step.reader(device), gnu_step.bundle)
    assert caught.value.code == "verify.bundle"
    assert device.stored == {}
    assert sorted(device.undone) == sorted(device.begun)


def test_gzip_ends_with_a_reader_that_is_closed(gnu_step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[gnu_gzip.GnuGzip] = []
    real = gnu_gzip.GnuGzip.__init__

    def note(self: gnu_gzip.GnuGzip, level: int) -> None:
        begun.append(self)
        real(self, level)

    monkeypatch.setattr(gnu_gzip.GnuGzip, "__init__", note)
    device = Device()
    reader = gnu_step.reader(device)
    reader.take(gnu_step.bundle[:-5])
    reader.close()
    assert len(device.stored) < 2
    assert all(one._process.poll() is not None for one in begun)


class _Slow:
    """Notes how much of it is waiting at any time."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.left: list[BaseException | None] = []

    def take(self, data: bytes) -> None:
        if data == b"bad":
            raise FormatError("bad bytes")
        self.made.append(data)

    def check(self) -> None:
        if not self.made:
            raise FormatError("nothing came")

    def leave(self, error: BaseException | None) -> None:
        self.left.append(error)


@pytest.fixture
def several() -> Iterator[lanes.Lanes]:
    made = lanes.Lanes()
    yield made
    made.abandon(RuntimeError("the test is over"))


def test_contents_in_lanes_are_left_in_order_each_once(several: lanes.Lanes) -> None:
    works = [_Slow() for _ in range(3 * lanes.MAX_OPEN)]
    for number, work in enumerate(works):
        job = several.begin(work)
        for part in range(number % 4 + 1):
            several.put(job, b"%d" % part)
        several.end(job)
    several.drain()
    assert [work.left for work in works] == [[None]] * len(works)
    assert works[3].made == [b"0", b"1", b"2", b"3"]


def test_what_goes_wrong_in_a_lane_is_said_to_the_reader_and_the_others_are_undone(several: lanes.Lanes) -> None:
    good, bad, after = _Slow(), _Slow(), _Slow()
    with pytest.raises(FormatError, match="bad bytes") as caught:
        for work, data in ((good, b"x"), (bad, b"bad"), (after, b"x")):
            job = several.begin(work)
            several.put(job, data)
            if work is not after:
                several.end(job)
        several.drain()
    several.abandon(caught.value)
    assert good.left == [None]
    assert bad.left == after.left == [caught.value]


def test_what_was_not_checked_yet_is_undone_when_the_reader_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_MOST_LANES", 1)
    several = lanes.Lanes()
    begun = threading.Event()

    class _UntilTheEnd(_Slow):
        def take(self, data: bytes) -> None:
            super().take(data)
            begun.set()
            while not several._is_over:
                threading.Event().wait(0.005)

    first, second = _UntilTheEnd(), _Slow()
    for work in (first, second):
        job = several.begin(work)
        several.put(job, b"x")
        several.end(job)
    assert begun.wait(10)
    given_up = RuntimeError("given up")
    several.abandon(given_up)
    assert first.left == second.left == [given_up]


def test_a_gzip_with_options_in_its_environment_deflates_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = words(8, 2000)
    expected = by_gnu(plain)[10:-8]
    monkeypatch.setenv("GZIP", "-1")
    assert gnu_gzip.deflate_gnu(6, plain) == expected
