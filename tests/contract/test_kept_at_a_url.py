"""A repository that is kept at a URL: pushed, fetched from there, verified, tidied up, killed, fought over."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.repository import place as places
from controller.repository.blobs import BlobStore, open_blobs
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from controller.repository.place import fill, keep_at, place_of
from device_agent.seams import WantedObject
from device_agent.sources import source_factory
from schemas.errors import OperatorError
from schemas.layout import object_path
from tests.support.bundles import make_bundles, pages
from tests.support.repository import add_release, make_repository, tree_of
from tests.support.s3 import S3Server

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FILES: dict[str, bytes | str] = {"run": "#!/bin/sh\n", "data": hashlib.shake_256(b"x").digest(50_000), "empty": b""}
TIMESTAMP = "metadata/timestamp.json"


class Site:
    """A place, and controllers that use it."""

    def __init__(self, folder: Path, url: str, public: str) -> None:
        self.folder = folder
        self.url = url
        self.public = public

    def controller(self, name: str = "data") -> PackageRepository:
        """A controller starts with `--repository`."""
        keep_at(self.folder / name / "repository", self.url)
        return make_repository(self.folder / name, clock=lambda: NOW)

    @property
    def blobs(self) -> BlobStore:
        return open_blobs(self.url)

    def there(self) -> dict[str, bytes]:
        """Everything at the place."""
        blobs = self.blobs
        return {blob.key: b"".join(blobs.read(blob.key)) for blob in blobs.list()}

    async def fetches(self, repository: PackageRepository, version: str = "1.0.0") -> bool:
        """Whether a new device gets a release over HTTP, straight from the place."""
        root = self.folder / f"device-{version}"
        trusted = repository.trusted_root()
        make = source_factory(root=root, trusted_root=lambda: trusted, repositories=[], now=lambda: NOW)
        source = make([self.public])
        signed = await source.resolve("tacho", version, "any")
        wanted = [
            WantedObject(sha256=entry.sha256, size=entry.size, destination=root / entry.sha256)
            for entry in signed.manifest.files
        ]
        await source.fetch(wanted, lambda *_: None)
        await source.close()
        return all(hashlib.sha256(want.destination.read_bytes()).hexdigest() == want.sha256 for want in wanted)


@pytest.fixture
def on_s3(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    return Site(tmp_path, f"s3://{bucket}/fleet/repo", f"{s3.make_bucket(bucket)}/fleet/repo")


@pytest.fixture(params=["folder", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "s3":
        made: Site = request.getfixturevalue("on_s3")
        return made
    return Site(tmp_path, (tmp_path / "share").as_uri(), "")


def served(repository: PackageRepository) -> dict[str, bytes]:
    """What the folder has of what is served."""
    return {path: data for path, data in tree_of(repository.folder).items() if not path.startswith(".")}


def needed(repository: PackageRepository) -> dict[str, bytes]:
    """As `served`, without metadata whose place was taken by newer."""
    current = set(TrustedMetadata(repository.folder / "metadata").file_names().values()) | {"timestamp.json"}
    return {
        path: data
        for path, data in served(repository).items()
        if not path.startswith("metadata/") or path.endswith(".root.json") or path.removeprefix("metadata/") in current
    }


async def test_a_device_fetches_straight_from_s3(on_s3: Site) -> None:
    repository = on_s3.controller()
    add_release(repository, "tacho", "1.0.0", FILES)
    assert on_s3.there() == served(repository)
    assert await on_s3.fetches(repository)
    add_release(repository, "tacho", "1.1.0", {**FILES, "new": "x"})
    assert await on_s3.fetches(repository, "1.1.0")


def test_readers_are_told_what_they_may_cache(on_s3: Site) -> None:
    import urllib.request  # noqa: PLC0415

    add_release(on_s3.controller(), "tacho", "1.0.0", FILES)
    headers = {}
    for key in (TIMESTAMP, object_path(hashlib.sha256(b"").hexdigest())):
        with urllib.request.urlopen(f"{on_s3.public}/{key}", timeout=30) as answer:
            headers[key] = answer.headers["Cache-Control"]
    assert list(headers.values()) == ["no-cache", "public, max-age=31536000, immutable"]


def test_a_place_has_what_the_folder_has_and_verifies(site: Site) -> None:
    repository = site.controller()
    add_release(repository, "tacho", "1.0.0", FILES)
    repository.rotate_root_key()
    assert site.there() == served(repository)
    assert repository.verify() == []


def test_bundles_are_kept_there_too(site: Site) -> None:
    repository = site.controller()
    add_release(repository, "tacho", "1.0.0", pages(1))
    make_bundles(repository, add_release(repository, "tacho", "1.1.0", pages(2)))
    assert [key for key in site.there() if key.startswith("bundles/")]
    assert site.there() == served(repository)
    assert repository.verify() == []


def test_what_is_wrong_at_the_place_is_found_and_mended(site: Site) -> None:
    repository = site.controller()
    add_release(repository, "tacho", "1.0.0", FILES)
    good = site.there()
    flipped = object_path(hashlib.sha256(bytes(FILES["data"])).hexdigest())  # type: ignore[arg-type]
    missing = object_path(hashlib.sha256(b"").hexdigest())
    cut = "metadata/1.root.json"
    site.blobs.put(flipped, good[flipped][:-1] + bytes([good[flipped][-1] ^ 1]))
    site.blobs.delete([missing])
    site.blobs.put(cut, good[cut][:-1])
    assert {problem.where.removeprefix(f"{site.url}/") for problem in repository.verify()} == {flipped, missing, cut}
    assert fill(repository.folder) == (site.url, 3)
    assert site.there() == good
    assert repository.verify() == []


def test_what_is_collected_goes_there_too(site: Site) -> None:
    repository = site.controller()
    add_release(repository, "tacho", "1.0.0", FILES)
    add_release(repository, "tacho", "1.1.0", {"other": "content"})
    site.blobs.put("somebody/elses.txt", b"stays")
    repository.delete("tacho", "1.0.0")
    repository.collect_garbage(grace_s=-3600)
    there = site.there()
    assert there.pop("somebody/elses.txt") == b"stays"
    assert there == served(repository)
    assert object_path(hashlib.sha256(b"").hexdigest()) not in there
    assert repository.verify() == []


def test_what_is_young_is_not_collected(site: Site) -> None:
    repository = site.controller()
    young = object_path("ab" * 32)
    site.blobs.put(young, b"of a push that is under way")
    repository.collect_garbage()
    assert young in site.there()


def test_an_empty_place_is_filled_and_an_empty_folder_too(site: Site) -> None:
    repository = make_repository(site.folder / "data", clock=lambda: NOW)
    add_release(repository, "tacho", "1.0.0", FILES)
    assert keep_at(repository.folder, site.url).startswith("put ")
    before = needed(repository)
    assert site.there() == before
    assert keep_at(repository.folder, site.url) == ""
    shutil.rmtree(repository.folder)
    assert keep_at(repository.folder, site.url).startswith("fetched ")
    again = make_repository(site.folder / "data", clock=lambda: NOW)
    assert served(again) == before
    assert again.verify() == []


def test_it_is_kept_at_one_place(site: Site) -> None:
    repository = site.controller()
    with pytest.raises(OperatorError) as caught:
        keep_at(repository.folder, site.url + "/other")
    assert caught.value.code == "input.bad"


def test_two_controllers_with_keys_of_their_own_do_not_share_a_place(site: Site) -> None:
    site.controller()
    make_repository(site.folder / "other", clock=lambda: NOW)
    with pytest.raises(OperatorError) as caught:
        keep_at(site.folder / "other/repository", site.url)
    assert caught.value.code == "storage.conflict"


def test_of_two_twins_one_wins_and_the_other_changes_nothing(site: Site) -> None:
    first = site.controller()
    add_release(first, "tacho", "1.0.0", FILES)
    shutil.copytree(site.folder / "data", site.folder / "twin")
    twin = site.controller("twin")
    add_release(first, "tacho", "1.1.0", {"a": "first"})
    after = site.there()
    for _ in range(2):
        with pytest.raises(OperatorError) as caught:
            add_release(twin, "tacho", "1.2.0", {"b": "twin"})
        assert caught.value.code == "storage.conflict"
    signed = {key: data for key, data in site.there().items() if key.startswith("metadata/")}
    assert signed == {key: data for key, data in after.items() if key.startswith("metadata/")}
    assert first.verify() == []
    assert [record.version for record in twin.search("tacho")] == ["1.0.0"]


def pushes(repository: PackageRepository, who: str) -> None:
    add_release(repository, "tacho", f"2.0.0-{who}", {"by": who})


def signs_again(repository: PackageRepository, who: str) -> None:
    """The timestamp alone: nothing with a version in its name is put."""
    repository.refresh_metadata(NOW + timedelta(days=11 if who == "twin" else 10))


@pytest.mark.parametrize("act", [pushes, signs_again])
def test_a_twin_that_comes_between_reading_and_writing_does_not_win(
    site: Site, monkeypatch: pytest.MonkeyPatch, act: Callable[[PackageRepository, str], None]
) -> None:
    first = site.controller()
    add_release(first, "tacho", "1.0.0", FILES)
    shutil.copytree(site.folder / "data", site.folder / "twin")
    twin = site.controller("twin")
    there = place_of(twin.folder)
    assert there is not None
    real = there.put_edition

    def late(files: Any) -> None:
        monkeypatch.setattr(there, "put_edition", real)
        act(first, "first")
        real(files)

    monkeypatch.setattr(there, "put_edition", late)
    with pytest.raises(OperatorError) as caught:
        act(twin, "twin")
    assert caught.value.code == "storage.conflict"
    assert first.verify() == []


class Killed(BaseException):
    """The controller is gone."""


class MortalBlobs:
    """Dies before or after the n-th change of a place."""

    def __init__(self, blobs: BlobStore, at: int, *, after: bool) -> None:
        self._blobs = blobs
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(self._blobs, name)
        if not name.startswith("put"):
            return real

        def mortal(*args: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            done = real(*args)
            if self._left <= 0:
                raise Killed
            return done

        return mortal


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_push_that_is_killed_anywhere_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(places, "_PARALLEL", 1)
    done = 0
    for at in range(1, 40):
        site = Site(tmp_path / str(at), (tmp_path / str(at) / "share").as_uri(), "")
        repository = site.controller()
        add_release(repository, "tacho", "1.0.0", FILES)
        there = place_of(repository.folder)
        assert there is not None
        blobs = there._blobs
        monkeypatch.setattr(there, "_blobs", MortalBlobs(blobs, at, after=after))
        try:
            add_release(repository, "tacho", "1.1.0", {"new": "content", "more": "of it"})
            done += 1
        except Killed:
            pass
        monkeypatch.setattr(there, "_blobs", blobs)
        again = site.controller()  # the next start
        assert again.verify() == [], at
        add_release(again, "tacho", "1.1.0", {"new": "content", "more": "of it"})
        assert [record.version for record in again.search("tacho")] == ["1.1.0", "1.0.0"]
        assert again.verify() == []
        if done:
            break
    assert at > 5


def test_a_place_that_cannot_be_reached_refuses_a_push_in_one_line(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError) as caught:
        Site(tmp_path, "s3://nobody-made-this/x", "").controller()
    assert caught.value.code == "storage.unreachable"
    assert "\n" not in str(caught.value)
    assert "nobody-may-print" not in str(caught.value)
