"""What `flotilla inspect` finds out about packages and exported releases, and what it refuses."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.packaging.inspection import inspect_file
from schemas.errors import FlotillaError, PublisherError
from tests.support.packages import build, make_source
from tests.support.repository import add_release, make_repository

FILES: dict[str, str | bytes] = {
    "bin/run": "#!/bin/sh\n",
    "data.bin": random.Random(3).randbytes(5000),
    "twin": "#!/bin/sh\n",
}
LONG_NAME = "tacho-" + "x" * 50
"""Makes the manifest's name in the file longer than a plain tar header can say."""

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("exported")
    repository = make_repository(folder)
    add_release(repository, LONG_NAME, "1.0.0", FILES)
    return repository.export(LONG_NAME, "1.0.0", None, folder).read_bytes()


@pytest.fixture
def release(tmp_path: Path, exported: bytes) -> Path:
    path = tmp_path / "release.flotilla"
    path.write_bytes(exported)
    return path


def refused(path: Path) -> str:
    with pytest.raises(PublisherError) as caught:
        inspect_file(path)
    assert caught.value.message.startswith(path.name)
    assert caught.value.message.isprintable()
    return caught.value.message


def members(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]  # all are files


def pack(path: Path, items: Members) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_package_is_verified_and_described(tmp_path: Path) -> None:
    package = build(make_source(tmp_path / "src", files=FILES), tmp_path)
    found = inspect_file(package)
    assert (found.head.kind, found.manifest.package, found.file_size) == ("package", "tacho", package.stat().st_size)
    assert (found.contents, found.content_size, found.metadata) == (2, 5010, [])
    raw = bytearray(package.read_bytes())
    raw[-1100] ^= 1
    package.write_bytes(raw)
    refused(package)


def test_an_exported_release_is_verified_and_described(release: Path) -> None:
    found = inspect_file(release)
    assert (found.head.kind, found.manifest.package, found.contents) == ("release", LONG_NAME, 2)
    assert {"metadata/1.root.json", "metadata/timestamp.json"} <= set(found.metadata)
    assert any(len(name) > 100 for name, _ in members(release)), "a longer name than plain headers have is covered"
    assert pack(release, members(release)).exists()
    assert inspect_file(release) == found


def index_of(items: Members, start: str) -> int:
    return next(index for index, (name, _) in enumerate(items) if name.startswith(start))


def without(start: str) -> Callable[[Members], Members]:
    return lambda items: [item for item in items if not item[0].startswith(start)]


def flipped(start: str) -> Callable[[Members], Members]:
    def change(items: Members) -> Members:
        at = index_of(items, start)
        name, data = items[at]
        middle = len(data) // 2
        return [*items[:at], (name, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]), *items[at + 1 :]]

    return change


def renamed(start: str, name: str) -> Callable[[Members], Members]:
    def change(items: Members) -> Members:
        at = index_of(items, start)
        return [*items[:at], (name, items[at][1]), *items[at + 1 :]]

    return change


def head_with(**fields: str) -> Callable[[Members], Members]:
    return lambda items: [(items[0][0], json.dumps({**json.loads(items[0][1]), **fields}).encode()), *items[1:]]


BAD: dict[str, tuple[Callable[[Members], Members], str]] = {
    "no head": (lambda items: items[1:], "it does not begin with flotilla.json"),
    "no metadata": (without("metadata/"), "there is no signed metadata in the file"),
    "no manifest": (without("targets/"), "does not belong here"),
    "neither": (lambda items: [item for item in items if item[0].startswith(("flot", "meta"))], "there is no manifest"),
    "no objects": (without("objects/"), "2 contents are missing, the first is "),
    "object damaged": (flipped("objects/"), "objects/"),
    "manifest damaged": (flipped("targets/"), "the manifest does not have the hash that the head names"),
    "object twice": (lambda items: [*items, items[-1]], "stands twice in the file"),
    "object unknown": (lambda items: [*items, (f"objects/{'0' * 64}.zst", b"")], "does not belong here"),
    "stranger": (lambda items: [*items, ("bin/sh", b"")], "member 'bin/sh' does not belong here"),
    "outside": (lambda items: [*items, ("../x", b"")], "member '../x' has a '..' level"),
    "absolute": (lambda items: [*items, ("/etc/x", b"")], "member '/etc/x' is absolute"),
    "another manifest": (head_with(manifest=hashlib.sha256(b"").hexdigest()), "hash that the head names"),
    "another version": (head_with(version="9.9.9"), "head and manifest do not name the same version"),
    "another kind": (head_with(kind="bundle"), "a file of unknown kind 'bundle'"),
    "manifest's name": (renamed("targets/", f"targets/{'0' * 64}.x.json.zst"), "is not named as its content asks"),
    "metadata no JSON": (
        lambda items: [items[0], ("metadata/9.root.json", b"{"), *items[1:]],
        "metadata/9.root.json: Input data was truncated",
    ),
    "metadata late": (
        lambda items: [*items, ("metadata/9.root.json", b"{}")],
        "'metadata/9.root.json' does not belong here",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_release_is_one_line(release: Path, case: str) -> None:
    change, message = BAD[case]
    assert message in refused(pack(release, change(members(release))))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_special_members_of_a_release_are_refused(release: Path, kind: bytes) -> None:
    items = members(release)
    with tarfile.open(release, "w") as archive:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("objects/link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert "plain files only belong here" in refused(release)


@pytest.mark.parametrize("records", [{"size": "1"}, {"GNU.sparse.major": "1"}, {"linkpath": "/etc"}, {"mtime": "1.5"}])
def test_a_pax_header_of_a_release_may_set_a_path_only(release: Path, records: dict[str, str]) -> None:
    items = members(release)
    with tarfile.open(release, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = records if name.startswith("targets/") else {}
            archive.addfile(info, io.BytesIO(data))
    assert next(iter(records)) in refused(release).partition("a pax header sets ")[2]


def test_a_release_cut_short_anywhere_is_refused(release: Path) -> None:
    whole = release.read_bytes()
    # tar files end with zeros up to a multiple of 10240 bytes; two blocks of them are the end mark
    content_end = len(whole.rstrip(b"\0"))
    lengths = [*range(0, content_end, 512), *random.Random(2).sample(range(content_end), 100)]
    for length in lengths:
        release.write_bytes(whole[:length])
        assert refused(release), length


def test_what_is_no_flotilla_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    for data, message in (
        (b"", "the file is empty"),
        (b"x", "the file is cut short, or is no Flotilla file"),
        (b"x" * 1000, "no tar header"),
        (bytes(1000), "no tar header"),
    ):
        path.write_bytes(data)
        assert message in refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_release_gives_no_other_error(tmp_path: Path, exported: bytes, data: st.DataObject) -> None:
    raw = bytearray(exported)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        if data.draw(st.booleans()):
            raw[at : at + 1] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del raw[at : at + data.draw(st.integers(1, 600))]
    path = tmp_path / "damaged.flotilla"
    path.write_bytes(raw)
    try:
        found = inspect_file(path)
    except FlotillaError as error:
        assert isinstance(error, PublisherError)
        assert error.message.isprintable()
    else:
        assert found.manifest.package == LONG_NAME
        assert found.content_size == 5010
