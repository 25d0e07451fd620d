"""Releases move to a repository with other keys: verified from a trusted root, signed anew, all of them or none."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from controller.repository.export import put_member
from controller.repository.package_repository import PackageRepository
from schemas.errors import FlotillaError, OperatorError, PublisherError
from tests.support.repository import add_release, make_repository, tree_of
from tests.unit.repository.conftest import Clock


@pytest.fixture
def here(repository: PackageRepository) -> PackageRepository:
    add_release(repository, "tacho", "1.0.0", {"shared": "shared", "old": "old" * 1000}, tags=["ui"])
    add_release(repository, "tacho", "1.1.0", {"shared": "shared", "new": "new" * 1000})
    add_release(repository, "radio", "2.0.0", {"shared": "shared"}, platform="linux-aarch64")
    repository.rotate_root_key()
    return repository


@pytest.fixture
def there(tmp_path: Path, clock: Clock) -> PackageRepository:
    made = make_repository(tmp_path / "there", clock=clock)
    add_release(made, "own", "1.0.0", {"shared": "shared"})
    return made


@pytest.fixture
def file(here: PackageRepository, tmp_path: Path) -> Path:
    path = tmp_path / "site.flotilla"
    here.export_site(here.search(), path)
    return path


def root_of(repository: PackageRepository) -> str:
    return hashlib.sha256(repository.trusted_root()).hexdigest()


def versions(repository: PackageRepository) -> list[str]:
    return [record.key for record in repository.search()]


def test_releases_arrive_as_they_were_and_are_signed_by_the_other_site(
    here: PackageRepository, there: PackageRepository, file: Path, clock: Clock
) -> None:
    clock.advance(days=80)
    there.refresh_metadata()
    imported = there.import_site(file, root_of(here))
    assert [record.key for record in imported.releases] == [
        "radio@2.0.0@linux-aarch64",
        "tacho@1.1.0@any",
        "tacho@1.0.0@any",
    ]
    assert there.verify() == []
    for record in imported.releases:
        assert there.manifest(record) == here.manifest(record)
        assert record.manifest == here.get(record.package, record.version).manifest
        assert record.origin is not None
        assert (record.origin.root, record.origin.imported_at) == (root_of(here), clock.now)
    assert there.get("tacho", "1.0.0").tags == ["ui"]
    again = there.import_site(file, root_of(here))
    assert (again.releases, len(again.known)) == ([], 3)


def test_any_root_on_the_way_may_be_the_trusted_one(
    here: PackageRepository, there: PackageRepository, file: Path
) -> None:
    first = hashlib.sha256((here.folder / "metadata/1.root.json").read_bytes()).hexdigest()
    assert len(there.import_site(file, first).releases) == 3


def refused(repository: PackageRepository, file: Path, root: str) -> str:
    """The code with which an import is refused, and nothing of it is there."""
    before, listed = tree_of(repository.folder), versions(repository)
    with pytest.raises(FlotillaError) as caught:
        repository.import_site(file, root)
    assert versions(repository) == listed
    after = tree_of(repository.folder)
    assert {name for name in after if name not in before and not name.startswith("objects/")} == set()
    assert repository.verify() == []
    return caught.value.code


def test_another_root_is_not_trusted(there: PackageRepository, file: Path) -> None:
    assert refused(there, file, root_of(there)) == "trust.root"


def test_what_is_too_old_is_not_trusted(
    here: PackageRepository, there: PackageRepository, file: Path, clock: Clock
) -> None:
    clock.advance(days=91)
    there.refresh_metadata()
    assert refused(there, file, root_of(here)) == "trust.expired"


def test_the_same_version_with_other_content_stops_all(
    here: PackageRepository, there: PackageRepository, file: Path
) -> None:
    add_release(there, "tacho", "1.0.0", {"other": "other"})
    assert refused(there, file, root_of(here)) == "release.exists"


def test_a_new_package_needs_the_offline_key(
    here: PackageRepository, there: PackageRepository, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "there/keys/offline/targets.pem").rename(tmp_path / "targets.pem")
    assert refused(there, file, root_of(here)) == "trust.keys"


@pytest.mark.parametrize("share", range(1, 20))
def test_a_file_that_is_cut_or_changed_anywhere_brings_nothing(
    here: PackageRepository, there: PackageRepository, file: Path, share: int
) -> None:
    content = bytearray(file.read_bytes())
    # what a tar file ends with means nothing
    place = len(content.rstrip(b"\0")) * share // 20
    file.write_bytes(content[:place])
    assert refused(there, file, root_of(here)).split(".")[0] in {"package", "trust", "manifest"}
    content[place] ^= 1
    file.write_bytes(content)
    try:
        imported = there.import_site(file, root_of(here))
    except FlotillaError:
        assert versions(there) == ["own@1.0.0@any"]
    else:
        # a byte of the tar file that means nothing
        assert [there.manifest(one) for one in imported.releases] == [here.manifest(one) for one in here.search()]
    assert there.verify() == []


def rewritten(file: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The file with other contents, or without those for which `change` gives None."""
    made = file.with_name("rewritten.flotilla")
    with tarfile.open(file) as original, tarfile.open(made, "w") as tar:
        for member in original.getmembers():
            stream = original.extractfile(member)
            assert stream is not None
            data = change(member.name, stream.read())
            if data is not None:
                put_member(tar, member.name, data)
    return made


@pytest.mark.parametrize("how", ["left out", "replaced"])
def test_a_content_that_is_not_what_its_release_needs_stops_all(
    here: PackageRepository, there: PackageRepository, file: Path, how: str
) -> None:
    old = hashlib.sha256(b"old" * 1000).hexdigest()
    other = (here.folder / "objects").rglob("*.zst")
    replacement = next(path.read_bytes() for path in other if old not in path.name)
    hostile = rewritten(
        file, lambda name, data: data if old not in name else (replacement if how == "replaced" else None)
    )
    assert refused(there, hostile, root_of(here)) == "package.format"


@pytest.mark.parametrize("function", ["write_target", "begin_adding_all", "write_edition", "settle"])
def test_a_killed_import_leaves_all_or_nothing(
    here: PackageRepository, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    clock = Clock()
    there = make_repository(tmp_path / "there", clock=clock)
    add_release(there, "own", "1.0.0", {"shared": "shared"})

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    where = {
        "write_target": "controller.repository.storage.Storage.write_target",
        "begin_adding_all": "controller.repository.index.Index.begin_adding_all",
        "write_edition": "controller.repository.signing.write_edition",
        "settle": "controller.repository.index.Index.settle",
    }
    with monkeypatch.context() as patched:
        patched.setattr(where[function], killed)
        # nothing in the dead process tidies up
        patched.setattr("controller.repository.publishing.Publisher._heal", lambda *_: None)
        if function == "settle":
            patched.setattr("controller.repository.publishing.Publisher._settled", lambda _: nullcontext())
        # where it dies last of all, only the answer is missing
        with pytest.raises((Killed, PublisherError)):
            there.import_site(file, root_of(here))
    opened = make_repository(tmp_path / "there", clock=clock)
    assert opened.verify() == []
    assert len(versions(opened)) == (4 if function == "settle" else 1)
    assert len(opened.import_site(file, root_of(here)).releases) == (0 if function == "settle" else 3)


def test_other_files_are_told_apart(here: PackageRepository, there: PackageRepository, tmp_path: Path) -> None:

    release = tmp_path / "one.flotilla"
    here.export("tacho", "1.0.0", None, release)
    assert refused(there, release, root_of(here)) == "package.format"
    text = tmp_path / "text"
    text.write_text(json.dumps({"format": 1}))
    assert refused(there, text, root_of(here)) == "package.format"
    with pytest.raises(OperatorError, match="between 1 and"):
        here.export_site([], tmp_path / "none")


def test_roots_without_end_are_refused_before_they_are_read(
    there: PackageRepository, file: Path, tmp_path: Path
) -> None:
    """They come first and have to be believed together, so nothing may be in memory yet."""
    hostile = tmp_path / "hostile.flotilla"
    with tarfile.open(file) as original, tarfile.open(hostile, "w") as tar:
        head = original.extractfile("flotilla.json")
        assert head is not None
        put_member(tar, "flotilla.json", head.read())
        for number in range(1, 6):
            put_member(tar, f"metadata/{number}.root.json", b" " * 4_000_000)
    assert refused(there, hostile, "0" * 64) == "package.limit"
