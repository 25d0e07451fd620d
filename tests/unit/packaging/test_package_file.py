"""Package files: what is written is read back, and nothing but a whole package is read at all."""

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.packaging import tar
from controller.packaging.package_file import open_package, write_package
from schemas.errors import FlotillaError, OperatorError, PublisherError
from schemas.layout import HEAD_MEMBER, MANIFEST_MEMBER
from schemas.manifest import FileEntry, Manifest, encode_manifest

CONTENT = {
    "a/readme.txt": b"hello\n",
    "empty": b"",
    "twin.txt": b"hello\n",
    "large.bin": random.Random(7).randbytes(3000),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    entries = [FileEntry(path=path, size=len(data), sha256=sha256(data)) for path, data in sorted(files.items())]
    return Manifest(format=1, package="tacho", version="1.0.0", platform="any", files=entries)


def write(folder: Path, files: Mapping[str, bytes] = CONTENT) -> Path:
    by_hash = {sha256(data): data for data in files.values()}
    path = folder / "tacho-1.0.0-any.flotilla"
    write_package(path, manifest_of(files), lambda digest: io.BytesIO(by_hash[digest]))
    return path


def read_all(path: Path) -> dict[str, bytes]:
    with open_package(path) as package:
        return {digest: stream.read() for digest, _, stream in package.contents()}


def refused(path: Path) -> PublisherError:
    """The error that reading gives: from opening or from going through the contents."""
    with pytest.raises(PublisherError) as caught, open_package(path) as package:
        package.verify()
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith(path.name)
    return caught.value


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]  # all are files


def pack(path: Path, items: list[tuple[str, bytes]]) -> Path:
    """A tar file of these members, in the one form of headers."""
    blocks = [tar.header(name, len(data)) + data + bytes(tar.padding(len(data))) for name, data in items]
    path.write_bytes(b"".join(blocks) + tar.END)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path)
    with open_package(path) as package:
        assert package.manifest == manifest_of(CONTENT)
        assert package.manifest_bytes == encode_manifest(package.manifest)
        assert package.manifest_sha256 == package.head.manifest == sha256(package.manifest_bytes)
        assert (package.head.kind, package.head.package, package.head.version) == ("package", "tacho", "1.0.0")
        found = [(digest, size, stream.read()) for digest, size, stream in package.contents()]
    assert [digest for digest, _, _ in found] == sorted({sha256(data) for data in CONTENT.values()})
    assert {data for _, _, data in found} == set(CONTENT.values())
    assert all(size == len(data) for _, size, data in found)


def test_any_tar_program_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    with tarfile.open(path) as archive:
        listed = archive.getmembers()
    assert [m.name for m in listed[:2]] == [HEAD_MEMBER, MANIFEST_MEMBER]
    assert {(m.uid, m.gid, m.mtime, m.mode, m.uname, m.type) for m in listed} == {(0, 0, 0, 0o644, "", tarfile.REGTYPE)}
    assert dict(members(path))[f"objects/{sha256(b'')}"] == b""


def test_streams_read_in_small_steps_and_skipped_ones_are_verified_too(tmp_path: Path) -> None:
    with open_package(write(tmp_path)) as package:
        for number, (digest, size, stream) in enumerate(package.contents()):
            if number % 2:
                continue
            buffer = bytearray(7)
            parts = []
            while count := stream.readinto(buffer):  # type: ignore[attr-defined]  # a RawIOBase underneath
                parts.append(bytes(buffer[:count]))
            assert sha256(b"".join(parts)) == digest
            assert sum(map(len, parts)) == size
            assert stream.read(1) == b""


def test_the_contents_can_be_gone_through_once(tmp_path: Path) -> None:
    with open_package(write(tmp_path)) as package:
        package.verify()
        with pytest.raises(RuntimeError, match="only once"):
            package.verify()


def test_progress_ends_with_everything_done(tmp_path: Path) -> None:
    by_hash = {sha256(data): data for data in CONTENT.values()}
    told: list[tuple[int, int]] = []
    write_package(
        tmp_path / "p.flotilla",
        manifest_of(CONTENT),
        lambda digest: io.BytesIO(by_hash[digest]),
        lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (3006, 3006)
    assert told == sorted(told)


def changed(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "content",
    [lambda data: data + b"x", lambda data: data[:-1], changed],
    ids=["grown", "shrunk", "changed"],
)
def test_content_that_changes_while_it_is_packed_leaves_nothing(
    tmp_path: Path, content: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "p.flotilla"
    with pytest.raises(PublisherError, match=r"'f' changed while it was packed") as caught:
        write_package(path, manifest_of({"f": b"data"}), lambda _: io.BytesIO(content(b"data")))
    assert caught.value.code == "package.source"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_bytes()

    def fail(_: str) -> BinaryIO:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PublisherError, match=r"'f' cannot be read: Permission denied"):
        write_package(path, manifest_of({"f": b"other"}), fail)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperatorError, match="No space left on device") as caught:
        write(tmp_path)
    assert caught.value.code == "disk.full"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot be written: No such file or directory"):
        write(tmp_path / "missing")


def test_a_package_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    edges = {edge + step for edge in range(0, len(whole), tar.BLOCK) for step in (-1, 0, 1)}
    for length in sorted(edges | set(random.Random(1).sample(range(len(whole)), 200))):
        if 0 <= length < len(whole):
            path.write_bytes(whole[:length])
            assert refused(path).code == "package.format", length


def test_one_bit_changed_anywhere_is_refused(tmp_path: Path) -> None:
    """Headers, padding and the end mark included: nothing in the file is without meaning."""
    path = write(tmp_path, {"a": b"content", "b": b""})
    whole = path.read_bytes()
    with path.open("r+b") as file:
        for at, byte in enumerate(whole):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            refused(path)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert len(read_all(path)) == 2


def test_a_file_cut_short_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": b"x" * 2_000_000})
    with open_package(path) as package:
        os.truncate(path, 1_000_000)
        with pytest.raises(PublisherError, match="cut short"):
            package.verify()


@pytest.mark.parametrize("added", [b"x", bytes(512), bytes(8192)], ids=["a byte", "a block", "tar's padding"])
def test_anything_after_the_end_is_refused(tmp_path: Path, added: bytes) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + added)
    assert f"{len(added)} bytes more than its manifest accounts for" in refused(path).message


def test_a_manifest_whose_digest_is_wrong_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    items = members(path)
    items[1] = (MANIFEST_MEMBER, items[1][1].replace(b"1.0.0", b"1.0.1"))
    assert "the manifest does not have the hash that the file's head names" in refused(pack(path, items)).message


@pytest.mark.parametrize("field", ["package", "version", "platform"])
def test_a_head_that_names_another_release_is_refused(tmp_path: Path, field: str) -> None:
    path = write(tmp_path)
    items = members(path)
    old = {"package": b'"tacho"', "version": b'"1.0.0"', "platform": b'"any"'}[field]
    items[0] = (HEAD_MEMBER, items[0][1].replace(old, b'"2.0.0"'))
    assert f"head and manifest do not name the same {field}" in refused(pack(path, items)).message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format":1', b'"format":2', "the file's format is 2 where this version of Flotilla reads 1"),
        (b'"kind":"package"', b'"kind":"release"', "this is a 'release' file, not a package"),
        (b'"kind":"package"', b'"kind": "package"', "flotilla.json is not in its one form"),
        (b'"kind":"package"', b'"kind":7', "Expected `str`, got `int`"),
        (b'"format":1', b'"format":', "flotilla.json: JSON is malformed"),
        (b'"format":1', b'"format":1' + b" " * 5000, "flotilla.json has 5"),
    ],
)
def test_a_bad_head_is_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = write(tmp_path)
    items = members(path)
    items[0] = (HEAD_MEMBER, items[0][1].replace(old, new))
    assert message in refused(pack(path, items)).message


def test_an_object_whose_content_is_wrong_is_refused_before_its_last_bytes_are_given(tmp_path: Path) -> None:
    path = write(tmp_path)
    items = [(name, changed(data) if len(data) == 3000 else data) for name, data in members(path)]
    pack(path, items)
    assert "'large.bin' does not have the hash that the manifest names" in refused(path).message
    with open_package(path) as package:
        for _, size, stream in package.contents():
            if size == 3000:
                stream.read(2999)
                with pytest.raises(PublisherError, match="does not have the hash"):
                    stream.read(1)
                break


def test_whoever_swallows_the_error_of_a_stream_still_gets_it_from_the_next_step(tmp_path: Path) -> None:
    path = write(tmp_path)
    pack(path, [(name, changed(data) if len(data) == 6 else data) for name, data in members(path)])
    with open_package(path) as package, pytest.raises(PublisherError, match="does not have the hash"):
        for _, _, stream in package.contents():
            try:
                stream.read()
            except PublisherError:
                continue


def with_tricks() -> dict[str, tuple[Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], str]]:
    """Name to a change of the list of members, and what the message must say."""
    return {
        "dot dot": (lambda items: [*items[:2], ("../x", items[2][1]), *items[3:]], "member '../x' stands where"),
        "absolute": (
            lambda items: [*items[:2], ("/etc/passwd", items[2][1]), *items[3:]],
            "'/etc/passwd' stands where",
        ),
        "other hash": (
            lambda items: [*items[:2], ("objects/" + "0" * 64, items[2][1]), *items[3:]],
            f"'objects/{'0' * 64}' stands where",
        ),
        "missing": (lambda items: [*items[:2], *items[3:]], "cut short"),
        "extra": (lambda items: [*items, ("objects/" + "f" * 64, b"")], "bytes more than"),
        "twice": (lambda items: [*items[:3], *items[2:]], "bytes more than"),
        "swapped": (lambda items: [*items[:2], items[3], items[2], *items[4:]], "stands where"),
        "no manifest": (lambda items: [items[0], *items[2:]], "stands where 'manifest.json' belongs"),
        "manifest first": (lambda items: [items[1], items[0], *items[2:]], "stands where 'flotilla.json' belongs"),
        "nothing": (lambda items: items[:0], "flotilla.json is missing"),
    }


@pytest.mark.parametrize("trick", with_tricks())
def test_members_that_do_not_belong_are_refused(tmp_path: Path, trick: str) -> None:
    change, message = with_tricks()[trick]
    path = write(tmp_path)
    assert message in refused(pack(path, change(members(path)))).message


def test_a_member_missing_in_the_middle_of_a_file_of_the_right_length_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    items = members(path)
    path.write_bytes(pack(path, items[:-1]).read_bytes().ljust(path_length(items), b"\0"))
    assert f"{items[-1][0]} is missing" in refused(path).message


def path_length(items: list[tuple[str, bytes]]) -> int:
    return sum(tar.BLOCK + len(data) + tar.padding(len(data)) for _, data in items) + len(tar.END)


@pytest.mark.parametrize(
    ("member_type", "message"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.CONTTYPE, "a contiguous file"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.GNUTYPE_LONGNAME, "a GNU long name"),
        (tarfile.XHDTYPE, "an extended header"),
        (tarfile.XGLTYPE, "a global header"),
        (b"Z", "of unknown type"),
    ],
)
def test_members_of_special_types_are_refused(tmp_path: Path, member_type: bytes, message: str) -> None:
    path = write(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"objects/")
    raw[at + 156 : at + 157] = member_type
    sign(raw, at)
    path.write_bytes(raw)
    assert f"is {message}" in refused(path).message


def test_a_pax_header_that_overrides_a_path_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    record = b"25 path=../../etc/passwd\n"
    extra = bytearray(tar.header("PaxHeaders/manifest.json", len(record)) + record + bytes(tar.padding(len(record))))
    extra[156:157] = tarfile.XHDTYPE
    sign(extra, 0)
    raw = path.read_bytes()
    at = raw.index(b"manifest.json\0")
    path.write_bytes(raw[:at] + extra + raw[at:])
    with tarfile.open(path) as archive:
        assert "../../etc/passwd" in archive.getnames(), "the trick works on other readers"
    assert "is an extended header" in refused(path).message


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"0_000000001\0"])
@pytest.mark.parametrize("member", [b"flotilla.json", b"manifest.json", b"objects/"])
def test_sizes_that_are_claimed_and_not_there_are_refused(tmp_path: Path, size: bytes, member: bytes) -> None:
    path = write(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(member + (b"" if member.endswith(b"/") else b"\0"))
    raw[at + 124 : at + 136] = size
    sign(raw, at)
    path.write_bytes(raw)
    refused(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (100, b"0000777\0"),
        (108, b"0001750\0"),
        (136, b"14722113264\0"),
        (265, b"root"),
        (257, b"ustar  \0"),
        (345, b"../.."),
    ],
    ids=["mode", "owner", "time", "owner's name", "GNU magic", "prefix"],
)
def test_a_header_in_another_form_is_refused(tmp_path: Path, offset: int, value: bytes) -> None:
    path = write(tmp_path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"objects/")
    raw[at + offset : at + offset + len(value)] = value
    sign(raw, at)
    path.write_bytes(raw)
    refused(path)


def sign(raw: bytearray, at: int) -> None:
    """Make the checksum of the header at `at` right again."""
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])


def test_what_is_no_file_or_no_package_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = tmp_path / "text"
    text.write_text("hello" * 1000)
    empty = tmp_path / "empty"
    empty.touch()
    assert "not a regular file" in refused(pipe).message
    assert "not a regular file" in refused(tmp_path).message
    assert "No such file" in refused(tmp_path / "missing").message
    assert "no tar header" in refused(text).message
    assert "the file is empty" in refused(empty).message


def test_one_hash_with_two_sizes_is_refused_when_written(tmp_path: Path) -> None:
    entries = [FileEntry(path=f"f{size}", size=size, sha256=sha256(b"x")) for size in (1, 2)]
    manifest = Manifest(format=1, package="p", version="1.0.0", platform="any", files=entries)
    with pytest.raises(PublisherError, match="has the hash of another file but not its size"):
        write_package(tmp_path / "p", manifest, lambda _: io.BytesIO(b"x"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("whole")).read_bytes()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_there_is_none(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """Flips, cuts and insertions anywhere: never another error, and never other content."""
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        if not raw:
            break
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove"])):
            case "flip":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at:]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=600))
            case _:
                del raw[at : at + data.draw(st.integers(1, 600))]
    path = tmp_path / "damaged.flotilla"
    path.write_bytes(raw)
    try:
        found = read_all(path)
    except FlotillaError as error:
        assert isinstance(error, PublisherError)
        assert "\n" not in error.message
    else:
        assert raw == whole
        assert found == {sha256(content): content for content in CONTENT.values()}
