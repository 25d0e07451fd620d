"""Storing releases: once each, never overwritten, and a bad file changes nothing."""

import hashlib
import os
from pathlib import Path

import pytest
from sqlalchemy import Engine

from controller.database import open_database, sqlite_url
from controller.repository.package_repository import PackageRepository
from controller.repository.packing import zstd
from schemas.errors import FlotillaError, OperatorError, PublisherError
from schemas.manifest import Service
from tests.support.repository import add_release, make_package, make_repository, tree_of
from tests.unit.repository.conftest import Clock

FILES = {"bin/run": "#!/bin/sh\n", "data.bin": os.urandom(2_500_000), "copy.bin": b"same", "again.bin": b"same"}


def test_a_release_is_stored_with_all_that_a_search_tells(repository: PackageRepository, clock: Clock) -> None:
    record = add_release(
        repository, "tacho", "1.0.0", FILES, platform="linux-aarch64", description="gauge", tags=["ui", "demo"]
    )
    assert record == repository.get("tacho", "1.0.0")
    assert (record.package, record.version, record.platform) == ("tacho", "1.0.0", "linux-aarch64")
    assert (record.description, record.tags, record.channels) == ("gauge", ["demo", "ui"], [])
    assert (record.files, record.size) == (4, sum(len(c) for c in (FILES["bin/run"], FILES["data.bin"])) + 4)
    assert record.created_at == clock.now
    stored = [path.stat().st_size for path in (repository.folder / "objects").rglob("*.zst")]
    assert (len(stored), sum(stored)) == (3, record.packed)
    assert record.key == "tacho@1.0.0@linux-aarch64"


def test_every_object_is_the_packed_content_under_its_plain_hash(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", FILES)
    for content in (c.encode() if isinstance(c, str) else c for c in FILES.values()):
        sha256 = hashlib.sha256(content).hexdigest()
        path = repository.open_file(f"objects/{sha256[:2]}/{sha256}.zst")
        assert path is not None
        assert zstd.decompress(path.read_bytes()) == content


def test_the_stored_manifest_is_the_packages(repository: PackageRepository) -> None:
    service = Service(name="web", command=["bin/run"])
    record = add_release(repository, "tacho", "1.0.0", FILES, services=[service])
    manifest = repository.manifest(record)
    assert manifest.services == [service]
    assert {f.path for f in manifest.files} == set(FILES)


def test_a_content_that_is_there_is_not_stored_again(repository: PackageRepository) -> None:
    first = add_release(repository, "tacho", "1.0.0", FILES)
    before = {path: path.stat().st_ino for path in (repository.folder / "objects").rglob("*.zst")}
    second = add_release(repository, "tacho", "1.1.0", FILES | {"new": "new"})
    after = {path: path.stat().st_ino for path in (repository.folder / "objects").rglob("*.zst")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert second.packed > first.packed
    assert repository.statistics().objects == 4


def test_adding_the_same_again_changes_nothing(repository: PackageRepository, tmp_path: Path, clock: Clock) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", FILES)
    record = repository.add(package)
    before = tree_of(repository.folder)
    clock.advance(days=1)
    assert repository.add(package) == record
    assert tree_of(repository.folder) == before


def test_the_same_version_with_other_content_is_refused(repository: PackageRepository) -> None:
    record = add_release(repository, "tacho", "1.0.0", FILES)
    before = tree_of(repository.folder)
    with pytest.raises(PublisherError, match=r"tacho 1\.0\.0 for any exists with other content") as caught:
        add_release(repository, "tacho", "1.0.0", FILES | {"new": "new"})
    assert caught.value.code == "release.exists"
    assert repository.search() == [record]
    assert tree_of(repository.folder) == before


def test_platforms_of_a_version_are_releases_of_their_own(repository: PackageRepository) -> None:
    for platform in ("linux-aarch64", "linux-x86_64"):
        add_release(repository, "tacho", "1.0.0", {"lib.so": platform}, platform=platform)
    assert [r.platform for r in repository.search("tacho")] == ["linux-aarch64", "linux-x86_64"]
    assert repository.get("tacho", "1.0.0", "linux-x86_64").platform == "linux-x86_64"
    with pytest.raises(OperatorError, match="say which: linux-aarch64, linux-x86_64"):
        repository.get("tacho", "1.0.0")


@pytest.mark.parametrize(("version", "platform"), [("2.0.0", None), ("1.0.0", "linux-armv7l")])
def test_what_is_not_there_is_one_clear_line(repository: PackageRepository, version: str, platform: str | None) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    with pytest.raises(PublisherError, match=f"there is no tacho {version}") as caught:
        repository.get("tacho", version, platform)
    assert caught.value.code == "release.unknown"


def damage(package: Path, how: str) -> None:
    data = package.read_bytes()
    at = data.index(b"needle")
    changed = {
        "flipped": data[:at] + b"n\x00edle" + data[at + 6 :],
        "short": data[: at + 3],
        "longer": data + bytes(512),
        "no package": b"hello",
    }
    package.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["flipped", "short", "longer", "no package"])
def test_a_bad_package_file_changes_nothing(repository: PackageRepository, tmp_path: Path, how: str) -> None:
    add_release(repository, "tacho", "0.9.0", {"a": "a"})
    before, keys = tree_of(repository.folder), tree_of(tmp_path / "keys")
    package = make_package(tmp_path, "other", "1.0.0", FILES | {"n": "needle in a haystack"})
    damage(package, how)
    with pytest.raises(PublisherError) as caught:
        repository.add(package)
    assert caught.value.code == "package.format"
    assert "\n" not in str(caught.value)
    assert tree_of(repository.folder) == before
    assert tree_of(tmp_path / "keys") == keys
    assert repository.names() == ["tacho"]
    assert list((repository.folder / ".staging").iterdir()) == []


def test_progress_ends_with_everything_done(repository: PackageRepository, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    repository.add(make_package(tmp_path, "tacho", "1.0.0", FILES), lambda done, total: seen.append((done, total)))
    total = 2_500_000 + 10 + 4
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert len(seen) == 3


def test_a_release_without_files_is_a_release(repository: PackageRepository) -> None:
    record = add_release(repository, "empty", "1.0.0", {})
    assert (record.size, record.packed, record.files) == (0, 0, 0)
    assert repository.verify() == []


def test_pushing_again_mends_what_is_missing(repository: PackageRepository, tmp_path: Path) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", FILES)
    repository.add(package)
    before = tree_of(repository.folder)
    next((repository.folder / "objects").rglob("*.zst")).unlink()
    next((repository.folder / "targets").iterdir()).unlink()
    assert len(repository.verify()) == 1  # objects cannot be asked for without the manifest
    repository.add(package)
    assert repository.verify() == []
    assert tree_of(repository.folder) == before


def test_an_object_cut_short_to_nothing_is_not_reused(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "content"})
    path = next((repository.folder / "objects").rglob("*.zst"))
    whole = path.read_bytes()
    path.write_bytes(b"")
    add_release(repository, "other", "1.0.0", {"b": "content"})
    assert path.read_bytes() == whole


def test_a_full_disk_changes_nothing(
    repository: PackageRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", FILES)
    before = tree_of(repository.folder)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("controller.repository.ingest.pack_stream", full)
    with pytest.raises(OperatorError) as caught:
        repository.add(package)
    assert caught.value.code == "disk.full"
    assert tree_of(repository.folder) == before
    assert repository.search() == []


def test_a_disk_that_fills_up_while_signing_changes_nothing_that_anybody_sees(
    repository: PackageRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    timestamp = (repository.folder / "metadata/timestamp.json").read_bytes()
    package = make_package(tmp_path, "tacho", "1.1.0", FILES)
    written: list[str] = []

    def second_fails(path: Path, data: bytes) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise OperatorError("disk.full", "no space")
        path.write_bytes(data)

    with monkeypatch.context() as patched:
        patched.setattr("controller.repository.signing.write_whole", second_fails)
        with pytest.raises(OperatorError):
            repository.add(package)
    assert written == ["2.package-tacho.json", "3.snapshot.json"]
    assert (repository.folder / "metadata/timestamp.json").read_bytes() == timestamp
    assert [r.version for r in repository.search()] == ["1.0.0"]
    assert repository.verify() == []
    assert repository.add(package).version == "1.1.0"
    assert repository.verify() == []


def test_objects_that_vanish_before_signing_are_stored_again(
    repository: PackageRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", FILES)
    original, calls = repository._publisher._has_contents, 0

    def first_loses_one(manifest: object) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            next((repository.folder / "objects").rglob("*.zst")).unlink()
        return original(manifest)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(repository._publisher, "_has_contents", first_loses_one)
    repository.add(package)
    assert calls == 2
    assert repository.verify() == []


def test_metadata_that_is_gone_is_never_replaced_by_new_metadata(tmp_path: Path, clock: Clock) -> None:
    repository = make_repository(tmp_path, clock=clock)
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    (repository.folder / "metadata/timestamp.json").unlink()
    left = tree_of(tmp_path)
    with pytest.raises(OperatorError, match="restore the folder from the backup"):
        make_repository(tmp_path, clock=clock)
    for path in (repository.folder / "metadata").iterdir():
        path.unlink()
    with pytest.raises(FlotillaError, match="restore"):
        make_repository(tmp_path, clock=clock)
    assert {f"keys/{name}": key for name, key in tree_of(tmp_path / "keys").items()}.items() <= left.items()


def test_a_release_that_only_the_metadata_knows_is_not_overwritten(tmp_path: Path, clock: Clock) -> None:
    add_release(make_repository(tmp_path, clock=clock), "tacho", "1.0.0", {"a": "a"})
    fresh: Engine = open_database(sqlite_url(tmp_path / "fresh.db"))
    repository = PackageRepository(tmp_path / "repository", fresh, clock=clock)
    with pytest.raises(PublisherError, match="the index does not know") as caught:
        add_release(repository, "tacho", "1.0.0", {"a": "other"})
    assert caught.value.code == "release.exists"
    assert add_release(repository, "tacho", "1.0.0", {"a": "a"}).version == "1.0.0"
    assert repository.verify() == []
