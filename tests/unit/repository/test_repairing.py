"""Every flipped bit of every file is found, and put right from a mirror that has it right; nothing gets worse."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update

from controller.database import open_database, sqlite_url, writing
from controller.repository.mirrors import FolderMirror, UrlMirror, open_mirror
from controller.repository.package_repository import PackageRepository
from controller.repository.records import Problem
from controller.repository.tables import release_tags, releases
from schemas.errors import NetworkError, OperatorError
from tests.support.repository import add_release, make_repository, serve_folder, tree_of
from tests.unit.repository.conftest import Clock

SAMPLE = 250
"""Of some 8 000 bytes; all of them with FLOTILLA_EXHAUSTIVE=1, which takes minutes."""


@pytest.fixture
def small(repository: PackageRepository, clock: Clock) -> PackageRepository:
    add_release(repository, "tacho", "1.0.0", {"raw": "x", "text": "much the same " * 20}, tags=["ui"], description="D")
    repository.rotate_root_key()
    clock.advance(minutes=1)
    add_release(repository, "tacho", "1.1.0", {"raw": "y"})
    assert repository.verify() == []
    return repository


def served(repository: PackageRepository) -> list[Path]:
    parts = ("metadata", "targets", "objects")
    return [path for part in parts for path in sorted((repository.folder / part).rglob("*")) if path.is_file()]


def flip(path: Path, place: int, bits: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)


def test_every_flipped_bit_is_found(small: PackageRepository) -> None:
    places = [(path, place) for path in served(small) for place in range(path.stat().st_size)]
    chance = random.Random()
    if not os.environ.get("FLOTILLA_EXHAUSTIVE"):
        places = chance.sample(places, SAMPLE)
    for path, place in places:
        before = path.read_bytes()
        bits = chance.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        flip(path, place, bits)
        problems = small.verify()
        assert problems, (path.name, place, bits)
        assert any(problem.file.endswith(path.name) for problem in problems), (path.name, place, bits, problems)
        path.write_bytes(before)
    assert small.verify() == []


def test_metadata_that_is_written_otherwise_is_found(small: PackageRepository) -> None:
    """No signature covers blanks, nor how the signature itself is written."""
    timestamp = small.folder / "metadata/timestamp.json"
    before = timestamp.read_bytes()
    signature = re.search(rb'"sig":"([0-9a-f]+)"', before)
    assert signature is not None
    for other in (before.replace(b":", b": ", 1), before.replace(signature[1], signature[1].upper())):
        timestamp.write_bytes(other)
        assert [problem.file for problem in small.verify()] == ["metadata/timestamp.json"]


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_every_file_is_mended_to_what_it_was(small: PackageRepository, tmp_path: Path, how: str) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    before = tree_of(small.folder)
    for path in served(small):
        superseded = how == "remove" and path.parent.name == "metadata" and path.name.startswith("1.")
        if superseded:
            continue  # nobody can know that it was there; garbage collection may have taken it
        if how == "flip":
            flip(path, path.stat().st_size // 2, 4)
        else:
            path.unlink()
        repaired = small.repair(FolderMirror(mirror))
        name = path.relative_to(small.folder).as_posix()
        if before[name] != tree_of(small.folder).get(name):
            assert how == "remove", repaired
            assert path.parent.name == "metadata", repaired
            path.write_bytes(before[name])
    assert tree_of(small.folder) == before
    assert small.verify() == []


def test_everything_at_once_is_mended_over_http(small: PackageRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    before = tree_of(small.folder)
    # With nothing whole there is nothing by which to know whose root the mirror has.
    for path in served(small):
        if path.name != "timestamp.json":
            flip(path, path.stat().st_size // 2, 1)
    with serve_folder(mirror) as url:
        repaired = small.repair(UrlMirror(url))
    assert repaired.left == {}
    assert tree_of(small.folder) == before


def test_a_mirror_that_is_damaged_itself_changes_nothing(small: PackageRepository, tmp_path: Path) -> None:
    for path in served(small):
        flip(path, path.stat().st_size // 2, 1)
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    damaged = tree_of(small.folder)
    repaired = small.repair(FolderMirror(mirror))
    assert repaired.mended == []
    assert repaired.left
    assert tree_of(small.folder) == damaged


@pytest.mark.parametrize("part", ["objects", "targets"])
def test_a_file_that_the_mirror_has_damaged_too_is_left_as_it_is(
    small: PackageRepository, tmp_path: Path, part: str
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    path = next(path for path in served(small) if path.is_relative_to(small.folder / part))
    name = path.relative_to(small.folder).as_posix()
    flip(mirror / name, path.stat().st_size // 2, 2)
    flip(path, path.stat().st_size // 2, 1)
    damaged = tree_of(small.folder)
    repaired = small.repair(FolderMirror(mirror))
    assert (repaired.mended, list(repaired.left)) == ([], [name])
    assert tree_of(small.folder) == damaged


def test_a_mirror_of_another_repository_changes_nothing(small: PackageRepository, tmp_path: Path, clock: Clock) -> None:

    other = make_repository(tmp_path / "other", clock=clock)
    add_release(other, "tacho", "1.0.0", {"other": "z"})
    add_release(other, "tacho", "1.1.0", {"other": "w"})
    other.rotate_root_key()
    for path in served(small):
        if path.parent.name == "metadata":
            flip(path, path.stat().st_size // 2, 1)
    damaged = tree_of(small.folder)
    assert small.repair(FolderMirror(other.folder)).mended == []
    assert tree_of(small.folder) == damaged


def test_a_timestamp_of_an_older_state_is_refused(small: PackageRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    add_release(small, "tacho", "1.2.0", {"raw": "z"})
    timestamp = small.folder / "metadata/timestamp.json"
    flip(timestamp, 20, 1)
    damaged = timestamp.read_bytes()
    repaired = small.repair(FolderMirror(mirror))
    assert "older state" in repaired.left["metadata/timestamp.json"]
    assert timestamp.read_bytes() == damaged


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("description", "another"),
        ("size", 1),
        ("files", 9),
        ("version_key", b"x"),
        ("newest_first", b"x"),
        ("prerelease", True),
        ("manifest", "a" * 64),
        ("target", "b" * 64),
        ("tags", "[]"),
    ],
)
def test_a_row_that_is_not_what_its_manifest_says_is_found(
    small: PackageRepository, tmp_path: Path, column: str, value: object
) -> None:
    with writing(open_database(sqlite_url(tmp_path / "flotilla.db"))) as connection:
        connection.execute(update(releases).where(releases.c.version == "1.0.0").values({column: value}))
    found = [problem for problem in small.verify() if problem.where == "tacho@1.0.0@any.json.zst"]
    assert [problem.code for problem in found] == ["data.bad"]
    assert column in found[0].message


def test_a_tag_that_is_not_what_its_manifest_says_is_found(small: PackageRepository, tmp_path: Path) -> None:
    with writing(open_database(sqlite_url(tmp_path / "flotilla.db"))) as connection:
        connection.execute(update(release_tags).values(tag="other"))
    (problem,) = small.verify()
    assert "tags" in problem.message


def test_a_password_in_a_mirrors_address_is_refused_and_not_shown() -> None:
    with pytest.raises(OperatorError) as caught:
        open_mirror("https://fleet:secret@mirror.example/repo")
    assert caught.value.code == "input.bad"
    assert "secret" not in str(caught.value)


def test_what_is_no_mirror_is_refused(small: PackageRepository, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no metadata/"):
        open_mirror(str(tmp_path / "nothing"))
    flip(served(small)[-1], 3, 1)
    with pytest.raises(NetworkError):
        small.repair(UrlMirror("http://127.0.0.1:1"))


def test_pushes_go_on_while_everything_is_read(
    small: PackageRepository, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(small.folder, mirror)
    damaged = next(path for path in served(small) if path.parent.parent.name == "objects")
    damaged.write_bytes(b"damaged")
    engine = open_database(sqlite_url(tmp_path / "flotilla.db"))
    other = PackageRepository(small.folder, engine, clock=clock, lock_wait_s=0.5)
    look = small.verify
    pushed: list[str] = []

    def verify() -> list[Problem]:
        found = look()
        # the timestamp that is found damaged has been replaced when it is its turn
        version = f"2.{len(pushed)}.0"
        add_release(other, "tacho", version, {"raw": version})
        pushed.append(version)
        return [*found, Problem(code="trust.metadata", where="metadata", message="", file="metadata/timestamp.json")]

    monkeypatch.setattr(small, "verify", verify)
    repaired = small.repair(FolderMirror(mirror))
    assert any(path.endswith(damaged.name) for path in repaired.mended)
    assert repaired.left == {}
    assert look() == []
    assert {record.version for record in small.search("tacho")} >= set(pushed)
    engine.dispose()
