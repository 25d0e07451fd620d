"""Export files: everything a device needs, as it is served, verified on the way."""

import json
import shutil
import tarfile
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from controller.database import utc_now
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from schemas.errors import FlotillaError, OperatorError, PublisherError, TrustError
from schemas.layout import FileHead
from tests.support.repository import add_release, make_repository, tree_of

NAME = "tacho@1.0.0@any.json.zst"


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    """As python-tuf's client goes by the real clock, so does this one."""
    repository = make_repository(tmp_path)
    add_release(repository, "tacho", "1.0.0", {"a": "a", "b": "b" * 10_000, "c": "a"})
    add_release(repository, "radio", "1.0.0", {"r": "r"})
    return repository


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        found = {}
        for member in tar:
            assert (member.isreg(), member.mode, member.mtime, member.uid) == (True, 0o644, 0, 0)
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


class FileFetcher(FetcherInterface):
    """Gives python-tuf's client what lies in an export file."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self._content = content

    def _fetch(self, url: str) -> list[bytes]:  # type: ignore[override]  # any iterable does
        try:
            return [self._content[url.removeprefix("file:///")]]
        except KeyError as error:
            raise DownloadHTTPError(url, 404) from error


def device(folder: Path, path: Path, root: bytes) -> Updater:
    """A device's client; its metadata lies in `folder`."""
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    return Updater(str(folder / "metadata"), "file:///metadata/", fetcher=FileFetcher(members(path)), bootstrap=root)


def test_a_file_holds_what_vouches_for_the_release_and_its_contents_as_served(
    repository: PackageRepository, tmp_path: Path
) -> None:
    path = repository.export("tacho", "1.0.0", None, tmp_path)
    assert path == tmp_path / "tacho-1.0.0-any.release.flotilla"
    found = members(path)
    head = msgspec.json.decode(found.pop("flotilla.json"), type=FileHead)
    record = repository.get("tacho", "1.0.0")
    assert head == FileHead(
        format=1, kind="release", package="tacho", version="1.0.0", platform="any", manifest=record.manifest
    )
    assert [name.split("/")[0] for name in found] == ["metadata"] * 5 + ["targets"] + ["objects"] * 2
    assert [name.split(".", 1)[-1] for name in found][:5] == [
        "root.json",
        "json",
        "snapshot.json",
        "targets.json",
        "package-tacho.json",
    ]
    served = tree_of(repository.folder)
    for name, data in found.items():
        where = name if not name.startswith("objects/") else f"objects/{name[8:10]}/{name[8:]}"
        assert served[where] == data


def test_the_same_export_twice_gives_the_same_bytes(repository: PackageRepository, tmp_path: Path) -> None:
    first = repository.export("tacho", "1.0.0", None, tmp_path / "1")
    second = repository.export("tacho", "1.0.0", "any", tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()


def test_python_tufs_client_accepts_an_export_file(repository: PackageRepository, tmp_path: Path) -> None:
    first_root = repository.trusted_root()
    repository.rotate_root_key()
    path = repository.export("tacho", "1.0.0", None, tmp_path)
    info = device(tmp_path / "device", path, first_root).get_targetinfo(NAME)
    assert info is not None
    assert members(path)[f"targets/{info.hashes['sha256']}.{NAME}"]
    with pytest.raises(Exception, match=r"package-radio|404"):
        device(tmp_path / "device2", path, first_root).get_targetinfo("radio@1.0.0@any.json.zst")


def test_a_long_travelling_file_is_good_for_as_long_as_was_said(repository: PackageRepository, tmp_path: Path) -> None:
    served = tmp_path / "repository/metadata/timestamp.json"
    before = json.loads(served.read_bytes())["signed"]["version"]
    path = repository.export("tacho", "1.0.0", None, tmp_path, valid_days=300)
    found = members(path)
    for name, data in found.items():
        if name.startswith("metadata/"):
            expires = datetime.fromisoformat(json.loads(data)["signed"]["expires"])
            assert expires > utc_now() + timedelta(days=299), name
    own = json.loads(found["metadata/timestamp.json"])["signed"]
    live = json.loads(served.read_bytes())["signed"]
    assert own["version"] == live["version"] == before + 1
    assert own["meta"] == live["meta"]
    assert live["expires"] < own["expires"]
    assert repository.verify() == []


def test_a_device_goes_back_and_forth_between_files_and_the_network(
    repository: PackageRepository, tmp_path: Path
) -> None:
    root, folder = repository.trusted_root(), tmp_path / "device"
    early = repository.export("tacho", "1.0.0", None, tmp_path / "early", valid_days=200)
    assert device(folder, early, root).get_targetinfo(NAME)
    live = repository.export("tacho", "1.0.0", None, tmp_path / "live")
    assert device(folder, live, root).get_targetinfo(NAME)
    add_release(repository, "tacho", "1.1.0", {"a": "b"})
    late = repository.export("tacho", "1.1.0", None, tmp_path / "late", valid_days=200)
    assert device(folder, late, root).get_targetinfo("tacho@1.1.0@any.json.zst")
    with pytest.raises(Exception, match="must be >="):
        device(folder, early, root).get_targetinfo(NAME)


def test_roles_that_expire_too_soon_are_signed_for_longer(repository: PackageRepository, tmp_path: Path) -> None:
    repository.export("tacho", "1.0.0", None, tmp_path, valid_days=366)
    trusted = TrustedMetadata(repository.folder / "metadata")
    role = trusted.package("tacho")
    assert role is not None
    for metadata in (role, trusted.snapshot, trusted.targets):
        assert metadata.signed.expires >= utc_now() + timedelta(days=365, hours=23)


def test_without_the_offline_key_only_what_targets_still_covers_is_promised(
    repository: PackageRepository, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "keys/offline")
    before = tree_of(tmp_path / "repository")
    with pytest.raises(TrustError, match="put the offline keys back") as caught:
        repository.export("tacho", "1.0.0", None, tmp_path / "out", valid_days=366)
    assert caught.value.code == "trust.keys"
    assert tree_of(tmp_path / "repository") == before
    assert not (tmp_path / "out").exists()
    assert repository.export("tacho", "1.0.0", None, tmp_path / "out", valid_days=300).exists()


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_damage_is_not_exported(repository: PackageRepository, tmp_path: Path, how: str) -> None:
    sizes = sorted((repository.folder / "objects").rglob("*.zst"), key=lambda p: p.stat().st_size)
    path = sizes[-1]
    if how == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(OperatorError, match="push the release again") as caught:
        repository.export("tacho", "1.0.0", None, tmp_path / "out")
    assert caught.value.code == "data.bad"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("version", "days", "code"),
    [("9.0.0", None, "release.unknown"), ("1.0.0", 0, "input.bad"), ("1.0.0", 367, "input.bad")],
)
def test_bad_arguments_are_one_clear_line(
    repository: PackageRepository, tmp_path: Path, version: str, days: int | None, code: str
) -> None:
    with pytest.raises((PublisherError, OperatorError)) as caught:
        repository.export("tacho", version, None, tmp_path / "out", valid_days=days)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_a_destination_that_cannot_be_written_is_one_clear_line(repository: PackageRepository, tmp_path: Path) -> None:
    with pytest.raises(FlotillaError) as caught:
        repository.export("tacho", "1.0.0", None, tmp_path / "no/such/folder/file")
    assert caught.value.code == "disk.io"
