"""Damaged and hostile bundles: an error of the device's that says so, or the right contents. Never anything else."""

import io
import random
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas.deflate
from controller.bundles.packing import pack_lzma, pack_zstd
from device_agent.bundles import BundleReader
from device_agent.bundles.difference import Difference
from device_agent.bundles.old_contents import OldContents, read_prefix
from device_agent.bundles.streams import Unpacker
from schemas.bundle_format import Group, Header, Method, Piece, Section, Stream, encode_index
from schemas.bundles import MAX_GROUP_SPAN, MAX_HELD, MAX_INDEX_PLAIN, MIB
from schemas.errors import DeviceError
from schemas.varints import FormatError, put
from tests.unit.bundles.test_round_trips import step
from tests.unit.bundles.trees import Device, Step, manifest, push, sha256

__all__ = ["step"]

_OLD = {"a": b"old text " * 400, "b": b"\x7fELF" + bytes(range(256)) * 20}
_NEW = {"a": b"new text " * 400, "b": b"\x7fELF" + bytes(range(255, -1, -1)) * 20, "c": b""}
_SIZES = [len(data) for data in _NEW.values()]


def attempt(step: Step, bundle: bytes) -> Device:
    """What a device has after a bundle that may be damaged; `Device.store` asserts that it is right."""
    device = Device()
    reader = step.reader(device)
    try:
        push(reader, bundle, 4096)
    except DeviceError as error:
        assert error.code.startswith("verify."), error
    else:
        assert device.stored.keys() == step.wanted
    reader.close()
    assert sorted(device.begun) == sorted([*device.stored, *device.undone])
    return device


def test_every_end_of_a_bundle_that_is_cut_short(step: Step) -> None:
    for end in range(0, len(step.bundle), 131):
        device = Device()
        with pytest.raises(DeviceError) as caught:
            push(step.reader(device), step.bundle[:end], 4096)
        assert caught.value.code == "verify.bundle"
        assert len(device.undone) <= 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bits(step: Step, data: st.DataObject) -> None:
    bundle = bytearray(step.bundle)
    for at in data.draw(st.lists(st.integers(0, len(bundle) - 1), min_size=1, max_size=3)):
        bundle[at] ^= 1 << data.draw(st.integers(0, 7))
    attempt(step, bytes(bundle))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_bytes_that_are_missing_or_too_many(step: Step, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(step.bundle)))
    drop = data.draw(st.integers(0, 20))
    attempt(step, step.bundle[:at] + data.draw(st.binary(max_size=20)) + step.bundle[at + drop :])


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise(step: Step, noise: bytes) -> None:
    for bundle in (noise, step.bundle[:30] + noise):
        assert not attempt(step, bundle).stored


def test_nothing_is_taken_after_the_end_or_after_an_error(step: Step) -> None:
    device = Device()
    reader = step.reader(device)
    push(reader, step.bundle)
    with pytest.raises(DeviceError, match="followed by"):
        reader.take(b"x")
    with pytest.raises(DeviceError):
        reader.take(b"x")


def test_a_bundle_for_other_releases(step: Step, tmp_path: Path) -> None:
    other = Step(_OLD, _NEW, tmp_path)
    with pytest.raises(DeviceError, match="another pair"):
        step.apply(other.bundle)
    assert other.apply().stored.keys() == other.wanted


def test_an_old_content_that_is_damaged_on_the_device(step: Step) -> None:
    class Rotten(Step):
        def __init__(self) -> None:
            self.__dict__.update(step.__dict__)
            self.contents = {
                name: bytes([data[0] ^ 1]) + data[1:] if name in self.has and data else data
                for name, data in step.contents.items()
            }

    rotten = Rotten()
    with pytest.raises(DeviceError, match=r"has another hash|damaged") as caught:
        rotten.apply()
    assert caught.value.code in ("verify.digest", "verify.bundle")
    rotten.contents = {name: data[:-1] if name in step.has else data for name, data in step.contents.items()}
    with pytest.raises(DeviceError, match="not the size"):
        rotten.apply()


def test_a_zlib_that_deflates_otherwise_is_known_before_anything_is_made(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas.deflate, "compressor", lambda _: zlib.compressobj(1, zlib.DEFLATED, -15, 1))
    schemas.deflate._check_value.cache_clear()
    device = Device()
    with pytest.raises(DeviceError) as caught:
        push(step.reader(device), step.bundle)
    schemas.deflate._check_value.cache_clear()
    assert caught.value.code == "verify.deflate"
    assert device.begun == []


def bundle_of(*groups: Group, streams: bytes = b"", **changed: int) -> bytes:
    """A bundle from `_OLD` to `_NEW` with any index."""
    index = encode_index(groups)
    packed = pack_zstd(index)
    fields = {
        "needed": 3,
        "sources": 2,
        "deflate_check": 0,
        "index_packed": len(packed),
        "index_plain": len(index),
        **changed,
    }
    return Header(**fields).encode() + packed + streams


def refused(bundle: bytes) -> str:
    device = Device()
    old, new = manifest(_OLD), manifest(_NEW, "2.0.0")

    def never(name: str) -> object:
        raise AssertionError(name)

    reader = BundleReader(old, new, open_source=never, store=device.store)  # type: ignore[arg-type]  # never called
    with pytest.raises(DeviceError) as caught:
        push(reader, bundle)
    assert caught.value.code == "verify.bundle"
    assert device.stored.keys() <= {sha256(b"")}
    return caught.value.message


def plain(positions: tuple[int, ...] = (0, 1, 2), size: int = sum(_SIZES), packed: int = 9) -> Group:
    targets = tuple(Piece(position=position) for position in positions)
    return Group(method=Method.PLAIN, sources=(), targets=targets, prefix=0, streams=(Stream(0, packed, size),))


_SOURCE = (Piece(position=0),)
_ALL = tuple(Piece(position=position) for position in range(3))


def difference(columns: int, extra: int, size: int, held: int = 5) -> Group:
    streams = (*(Stream(0, held, columns) for _ in range(3)), Stream(0, held, extra), Stream(0, 9, size))
    return Group(method=Method.DIFFERENCE, sources=_SOURCE, targets=_ALL, prefix=0, streams=streams)


_APART = (Piece(position=0, sections=(Section(0, 3_600_000, 5),) * 4),)

HOSTILE = {
    "an index that is too large": bundle_of(plain(), index_plain=MAX_INDEX_PLAIN + 1),
    "an index that unpacks to more": bundle_of(plain(), index_plain=3),
    "a content that is missing": bundle_of(plain((0, 1), _SIZES[0] + _SIZES[1])),
    "a content named twice": bundle_of(plain(), plain((1,), _SIZES[1])),
    "a content that is not there": bundle_of(plain((0, 1, 2, 3))),
    "no contents": bundle_of(plain(()), plain()),
    "a size that is not the manifest's": bundle_of(plain(size=sum(_SIZES) + 1)),
    "packed streams without end": bundle_of(plain(packed=1 << 39)),
    "a prefix that is too large": bundle_of(
        Group(
            method=Method.PREFIX,
            sources=_SOURCE,
            targets=_ALL,
            prefix=MAX_GROUP_SPAN,
            streams=(Stream(0, 9, sum(_SIZES)),),
        )
    ),
    "a prefix frame that is not zstd": bundle_of(
        Group(method=Method.PREFIX, sources=_SOURCE, targets=_ALL, prefix=9, streams=(Stream(1, 9, sum(_SIZES)),))
    ),
    "a plain group with sources": bundle_of(
        Group(method=Method.PLAIN, sources=_SOURCE, targets=_ALL, prefix=0, streams=(Stream(0, 9, sum(_SIZES)),))
    ),
    "a difference without sources": bundle_of(
        Group(method=Method.DIFFERENCE, sources=(), targets=_ALL, prefix=0, streams=(Stream(0, 9, 4),) * 5)
    ),
    "more steps than bytes": bundle_of(difference(4 * sum(_SIZES) + 4, 0, sum(_SIZES))),
    "more held than allowed": bundle_of(difference(4, 0, sum(_SIZES), held=MAX_HELD)),
    "a difference of another size": bundle_of(difference(4, 5, sum(_SIZES))),
    "a content taken apart into far too much": bundle_of(
        Group(
            method=Method.PLAIN,
            sources=(),
            targets=(*_APART, *_ALL[1:]),
            prefix=0,
            streams=(Stream(0, 9, 4 * 3_600_000 * 1000),),
        )
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_indexes_are_refused_before_anything_is_read_or_made(what: str) -> None:
    refused(HOSTILE[what])


def test_a_newer_format_says_so() -> None:
    assert "its format is 2" in refused(b"FLB\x02" + bytes(80))


def test_bytes_after_the_index_are_refused() -> None:
    index = encode_index([plain()]) + b"\0"
    packed = pack_zstd(index)
    header = Header(needed=3, sources=2, deflate_check=0, index_packed=len(packed), index_plain=len(index))
    assert "longer" in refused(header.encode() + packed)


@pytest.mark.parametrize("packer", [pack_zstd, lambda data: pack_lzma(data, 3, 0, 2)])
def test_a_stream_that_unpacks_without_end_is_stopped_at_its_size(packer: object) -> None:
    bomb = packer(bytes(3 * MIB))  # type: ignore[operator]  # a function
    codec = 0 if packer is pack_zstd else 1 + 3 + 9 * 5 * 2
    group = Group(
        method=Method.PLAIN, sources=(), targets=_ALL, prefix=0, streams=(Stream(codec, len(bomb) % 1000, sum(_SIZES)),)
    )
    refused(bundle_of(group, streams=bomb))


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


STEPS = {
    "outside the old contents": ((0, _SIZES[0] + 1, 0),),
    "before the old contents": ((1, 10, 0),),
    "that does nothing": ((0, 0, 0),) * 5,
    "that takes too much": ((0, 0, 2**32 - 1),),
    "that ends too early": ((0, 10, 0),),
}


@pytest.mark.parametrize("what", STEPS)
def test_hostile_steps(what: str, tmp_path: Path) -> None:
    rows = STEPS[what]
    columns = [pack_zstd(numbers(*(row[i] for row in rows))) for i in range(3)]
    frames = [*columns, pack_zstd(b""), pack_zstd(bytes(sum(_SIZES)))]
    plains = [4 * len(rows)] * 3 + [0, sum(_SIZES)]
    streams = tuple(Stream(0, len(frame), size) for frame, size in zip(frames, plains, strict=True))
    group = Group(method=Method.DIFFERENCE, sources=_SOURCE, targets=_ALL, prefix=0, streams=streams)
    real = Step(_OLD, _NEW, tmp_path)
    with pytest.raises(DeviceError) as caught:
        real.apply(bundle_of(group, streams=b"".join(frames)))
    assert caught.value.code.startswith("verify.")


def test_an_index_with_a_number_that_never_ends(tmp_path: Path) -> None:
    packed = pack_zstd(b"\xff" * 50)
    header = Header(needed=3, sources=2, deflate_check=0, index_packed=len(packed), index_plain=50)
    refused(header.encode() + packed)
    out = bytearray()
    put(out, 2**62)
    packed = pack_zstd(bytes(out))
    header = Header(needed=3, sources=2, deflate_check=0, index_packed=len(packed), index_plain=len(out))
    refused(header.encode() + packed)


def test_random_indexes_never_do_anything_else() -> None:
    draw = random.Random(7)
    good = encode_index([plain(), difference(4, 0, sum(_SIZES))])
    for _ in range(300):
        index = bytearray(good)
        for _ in range(draw.randrange(1, 6)):
            index[draw.randrange(len(index))] = draw.randrange(256)
        packed = pack_zstd(bytes(index), level=1)
        header = Header(needed=3, sources=2, deflate_check=0, index_packed=len(packed), index_plain=len(index))
        refused(header.encode() + packed)


def from_steps(rows: list[tuple[int, int, int]], extra: int, old: bytes) -> tuple[list[int], int]:
    """Sizes of what a difference of zeros writes at a time, for steps of (move, add, take), and the peak of memory."""
    written: list[int] = []

    def unpacker(data: bytes) -> Unpacker:
        packed = pack_zstd(data, level=1)
        made = Unpacker(Stream(0, len(packed), len(data)))
        made.feed(packed)
        return made

    made = Difference(
        OldContents(_SOURCE, [("a" * 64, len(old))], lambda _: io.BytesIO(old)),
        columns=[unpacker(numbers(*(row[i] for row in rows))) for i in range(3)],
        extra=unpacker(bytes(extra)),
        write=lambda data: written.append(len(data)),
    )
    tracemalloc.start()
    try:
        made.feed(bytes(sum(row[1] for row in rows)))
        made.finish()
        return written, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_steps_that_take_much_for_each_byte_are_written_bit_by_bit() -> None:
    written, peak = from_steps([(0, 1, 64 * 1024)] * 128, 128 * 64 * 1024, bytes(128))
    assert sum(written) == 128 * (64 * 1024 + 1)
    assert max(written) <= MIB
    assert peak < 4 * MIB


def test_steps_that_add_nothing_do_not_pile_up() -> None:
    rows = [(0, 0, 1)] * 300_000 + [(0, 1, 0)]
    written, peak = from_steps(rows, 300_000, b"a")
    assert sum(written) == 300_001
    assert peak < 8 * MIB


def test_what_is_far_larger_than_its_inside_may_be_is_not_read() -> None:
    class Huge(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError(size)

    piece = Piece(position=0, sections=(Section(0),))
    with pytest.raises(FormatError, match="larger"):
        read_prefix([piece], [("a" * 64, MAX_GROUP_SPAN)], lambda _: Huge(), 100_000)


def test_streams_in_old_contents_are_taken_apart_one_after_the_other() -> None:
    draw = random.Random(3)
    insides = [draw.randbytes(size) + bytes(4 * size) for size in (0, 10, 200_000, 65_536)]
    data, sections = b"", []
    for number, inside in enumerate(insides):
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
        literal = bytes([number]) * number
        data += literal + squeeze.compress(inside) + squeeze.flush()
        sections.append(Section(len(literal)))
    whole = b"".join(bytes([number]) * number + inside for number, inside in enumerate(insides)) + b"tail"
    data += b"tail"
    piece = Piece(position=0, sections=tuple(sections))
    assert read_prefix([piece], [("a" * 64, len(data))], lambda _: io.BytesIO(data), len(whole)) == whole
    with pytest.raises((FormatError, zlib.error)):
        cut = data[: len(data) // 2]
        read_prefix([piece], [("a" * 64, len(cut))], lambda _: io.BytesIO(cut), len(whole))
