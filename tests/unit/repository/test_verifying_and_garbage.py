"""Every damage is found; garbage goes, and nothing that is needed."""

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import delete

from controller.database import open_database, sqlite_url, writing
from controller.repository import garbage
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from controller.repository.storage import Storage, is_immutable
from controller.repository.tables import release_tags, releases
from schemas.errors import OperatorError
from tests.support.repository import add_release, make_repository, tree_of
from tests.unit.repository.conftest import Clock

HOUR = 3600


@pytest.fixture
def stocked(repository: PackageRepository) -> PackageRepository:
    add_release(repository, "tacho", "1.0.0", {"shared": "shared", "old": "old" * 100, "big": os.urandom(1_500_000)})
    add_release(repository, "tacho", "1.1.0", {"shared": "shared", "new": "new" * 100})
    return repository


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def age(folder: Path, seconds: float = 2 * HOUR) -> None:
    """Make everything in a folder look as if it had not changed for so long."""
    then = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def objects(repository: PackageRepository) -> list[Path]:
    return sorted((repository.folder / "objects").rglob("*.zst"))


def test_a_whole_repository_has_no_problems_and_progress_reaches_the_end(stocked: PackageRepository) -> None:
    seen: list[tuple[int, int]] = []
    assert stocked.verify(lambda done, total: seen.append((done, total))) == []
    total = sum(path.stat().st_size for path in objects(stocked))
    assert len(seen) == 4
    assert seen[-1] == (total, total)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("how", ["flip", "cut", "swap", "remove"])
def test_a_damaged_object_is_found_and_named(stocked: PackageRepository, number: int, how: str) -> None:
    path = objects(stocked)[number]
    match how:
        case "flip":
            flip(path)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "swap":
            path.write_bytes(objects(stocked)[number - 1].read_bytes())
        case _:
            path.unlink()
    (problem,) = stocked.verify()
    assert problem.code == "data.bad"
    assert problem.where == path.relative_to(stocked.folder).as_posix()
    assert "push" in problem.message
    assert "\n" not in problem.message


@pytest.mark.parametrize("how", [flip, Path.unlink])
def test_a_damaged_manifest_is_found_and_named(stocked: PackageRepository, how: object) -> None:
    path = next((stocked.folder / "targets").glob("*tacho@1.1.0@*"))
    how(path)  # type: ignore[operator]  # both take a path
    (problem,) = stocked.verify()
    assert (problem.code, problem.where) == ("data.bad", "tacho@1.1.0@any.json.zst")


def test_a_release_that_the_index_does_not_know_is_found(stocked: PackageRepository, tmp_path: Path) -> None:
    with writing(open_database(sqlite_url(tmp_path / "flotilla.db"))) as connection:
        connection.execute(delete(release_tags))
        connection.execute(delete(releases).where(releases.c.version == "1.0.0"))
    (problem,) = stocked.verify()
    assert (problem.code, problem.where) == ("release.unknown", "tacho@1.0.0@any.json.zst")


def test_a_release_that_is_indexed_but_not_signed_is_found_and_mended_by_pushing(
    repository: PackageRepository, tmp_path: Path, clock: Clock
) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    before = tree_of(repository.folder)
    add_release(repository, "tacho", "1.1.0", {"b": "b"})
    # The folder comes from an older backup than the database.
    (repository.folder / "metadata/timestamp.json").write_bytes(before["metadata/timestamp.json"])
    (problem,) = repository.verify()
    assert (problem.code, problem.where) == ("trust.unsigned", "tacho@1.1.0@any.json.zst")
    with pytest.raises(OperatorError, match="verify"):
        repository.collect_garbage()
    add_release(repository, "tacho", "1.1.0", {"b": "b"})
    assert repository.verify() == []


def test_garbage_is_what_no_release_needs(stocked: PackageRepository, clock: Clock) -> None:
    before = tree_of(stocked.folder / "objects")
    age(stocked.folder)
    assert stocked.collect_garbage().objects == 0
    stocked.delete("tacho", "1.0.0")
    clock.advance(hours=23)
    # a device may have begun to fetch it just before
    assert stocked.collect_garbage().freed_bytes == 0
    clock.advance(hours=2)
    collected = stocked.collect_garbage()
    assert (collected.objects, collected.targets) == (2, 1)
    left = tree_of(stocked.folder / "objects")
    assert left.items() < before.items()
    assert len(left) == 2
    assert collected.freed_bytes >= sum(map(len, before.values())) - sum(map(len, left.values()))
    assert stocked.verify() == []
    assert [p.name.split(".")[1][:11] for p in (stocked.folder / "targets").iterdir()] == ["tacho@1"]


def test_what_is_young_stays(stocked: PackageRepository) -> None:
    stocked.delete("tacho", "1.0.0")
    assert stocked.collect_garbage().freed_bytes == 0
    assert len(objects(stocked)) == 4
    assert stocked.collect_garbage(grace_s=-1).objects == 2


def test_a_push_that_reuses_an_old_orphan_keeps_it(stocked: PackageRepository, clock: Clock) -> None:
    stocked.delete("tacho", "1.0.0")
    clock.advance(hours=25)
    age(stocked.folder)
    add_release(stocked, "radio", "1.0.0", {"a": "old" * 100})
    assert stocked.collect_garbage().objects == 1
    assert stocked.verify() == []


def test_a_push_while_garbage_is_looked_for_is_no_damage(
    stocked: PackageRepository, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PushedAfter(TrustedMetadata):
        """The metadata as it was right before somebody pushed."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            monkeypatch.undo()
            add_release(stocked, "radio", "1.0.0", {"song": "song" * 100})

    stocked.delete("tacho", "1.0.0")
    clock.advance(days=2)
    age(stocked.folder)
    monkeypatch.setattr(garbage, "TrustedMetadata", PushedAfter)
    assert stocked.collect_garbage().objects == 2
    assert [record.key for record in stocked.search()] == ["radio@1.0.0@any", "tacho@1.1.0@any"]
    assert stocked.verify() == []


def test_nothing_is_removed_when_a_release_is_indexed_but_not_signed(stocked: PackageRepository, clock: Clock) -> None:
    metadata = {path: path.read_bytes() for path in (stocked.folder / "metadata").iterdir()}
    add_release(stocked, "radio", "1.0.0", {"song": "song" * 100})
    for path, content in metadata.items():
        path.write_bytes(content)
    clock.advance(days=2)
    age(stocked.folder)
    before = objects(stocked)
    with pytest.raises(OperatorError, match=r"does not name radio 1\.0\.0 for any; nothing was removed"):
        stocked.collect_garbage()
    assert objects(stocked) == before


def test_superseded_metadata_goes_after_a_day_and_roots_never(stocked: PackageRepository) -> None:
    stocked.rotate_root_key()
    metadata = stocked.folder / "metadata"
    before = {path.name for path in metadata.iterdir()}
    age(stocked.folder, 2 * HOUR)
    assert stocked.collect_garbage().metadata == 0
    age(stocked.folder, 25 * HOUR)
    collected = stocked.collect_garbage()
    left = {path.name for path in metadata.iterdir()}
    assert left == {
        "1.root.json",
        "2.root.json",
        "2.targets.json",
        "2.package-tacho.json",
        "3.snapshot.json",
        "timestamp.json",
    }
    assert collected.metadata == len(before - left) == 4
    assert stocked.verify() == []


def test_metadata_that_was_superseded_just_now_stays_however_old_it_is(stocked: PackageRepository) -> None:
    age(stocked.folder, 100 * HOUR)
    metadata = stocked.folder / "metadata"
    device_reads = {"3.snapshot.json", "2.targets.json", "2.package-tacho.json"}
    add_release(stocked, "tacho", "1.2.0", {"c": "c"})
    stocked.collect_garbage()
    assert device_reads <= {path.name for path in metadata.iterdir()}
    age(stocked.folder, 25 * HOUR)
    stocked.collect_garbage()
    assert device_reads & {path.name for path in metadata.iterdir()} == {"2.targets.json"}


def test_leftovers_of_killed_processes_go(stocked: PackageRepository, tmp_path: Path, clock: Clock) -> None:
    dead = stocked.folder / ".staging/0123456789abcdef"
    dead.mkdir()
    (dead / ("a" * 64)).write_bytes(b"half")
    part = stocked.folder / "metadata/.9.snapshot.json.abcd.part"
    part.write_bytes(b"half")
    age(stocked.folder / "metadata")
    with Storage(stocked.folder).staging() as staging:
        staging.write("b" * 64, b"being written")
        collected = stocked.collect_garbage()
        assert collected.leftovers == 2
        make_repository(tmp_path, clock=clock)
        assert [p.read_bytes() for p in (stocked.folder / ".staging").rglob("*") if p.is_file()] == [b"being written"]
    assert list((stocked.folder / ".staging").iterdir()) == []
    assert not part.exists()


def test_opening_clears_dead_staging_folders(stocked: PackageRepository, tmp_path: Path, clock: Clock) -> None:
    (stocked.folder / ".staging/dead").mkdir()
    make_repository(tmp_path, clock=clock)
    assert list((stocked.folder / ".staging").iterdir()) == []


def test_nothing_is_removed_when_a_manifest_cannot_be_read(stocked: PackageRepository) -> None:
    flip(next((stocked.folder / "targets").glob("*tacho@1.1.0@*")))
    stocked.delete("tacho", "1.0.0")
    age(stocked.folder, 48 * HOUR)
    before = tree_of(stocked.folder)
    with pytest.raises(OperatorError) as caught:
        stocked.collect_garbage()
    assert caught.value.code == "data.bad"
    assert tree_of(stocked.folder) == before


def test_only_what_belongs_to_the_repository_is_served(stocked: PackageRepository, tmp_path: Path) -> None:
    folder = stocked.folder
    served = [
        path.relative_to(folder).as_posix()
        for part in ("metadata", "targets", "objects")
        for path in (folder / part).rglob("*")
        if path.is_file()
    ]
    assert len(served) > 10
    for url_path in served:
        assert stocked.open_file(url_path) == folder / url_path
    (folder / "metadata/secret.txt").write_text("x")
    (folder / "metadata/.9.root.json.ab.part").write_text("x")
    (folder / "metadata/9.link.json").symlink_to(tmp_path / "keys/offline/root.pem")
    start = objects(stocked)[0]
    for url_path in (
        "",
        ".",
        "..",
        "/",
        "metadata",
        "metadata/",
        "objects",
        "metadata/secret.txt",
        "metadata/.9.root.json.ab.part",
        "metadata/9.link.json",
        "metadata/99.root.json",
        "../keys/offline/root.pem",
        "metadata/../../keys/offline/root.pem",
        "metadata/..%2f..%2fkeys",
        f"/{served[0]}",
        f"{served[0]}/",
        f"{served[0]}\n",
        f"{served[0]}\x00",
        str(folder / served[0]),
        f"objects/{start.parent.name}/../{start.parent.name}/{start.name}",
        f"objects/zz/{start.name}",
        "targets/" + "a" * 64 + "." + "b" * 300,
        "metadata/" + "9" * 300 + ".root.json",
    ):
        assert stocked.open_file(url_path) is None, url_path


def test_only_the_timestamp_ever_changes(stocked: PackageRepository) -> None:
    before = tree_of(stocked.folder)
    add_release(stocked, "tacho", "1.2.0", {"shared": "shared"})
    stocked.rotate_root_key()
    stocked.delete("tacho", "1.2.0")
    after = tree_of(stocked.folder)
    assert {name for name, data in before.items() if after[name] != data} == {"metadata/timestamp.json"}
    assert not is_immutable("metadata/timestamp.json")
    assert is_immutable("metadata/1.root.json")
