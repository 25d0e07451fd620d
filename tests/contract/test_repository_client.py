"""A repository of ours behind a plain web server, read by python-tuf's own client."""

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

from controller.database import utc_now
from controller.repository.keys import KeyStore
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from controller.repository.packing import unpack_manifest, zstd
from controller.repository.signing import Edition, Lifetimes
from schemas.layout import object_path, target_name, target_path
from schemas.manifest import decode_manifest
from tests.support.repository import add_release, make_repository, serve_folder

FILES = {"bin/run": "#!/bin/sh\n", "data": "x" * 5000}


@pytest.fixture
def repository(tmp_path: Path) -> PackageRepository:
    repository = make_repository(tmp_path)
    add_release(repository, "tacho", "1.0.0+build.1", FILES, platform="linux-aarch64")
    return repository


@pytest.fixture
def base_url(repository: PackageRepository) -> Iterator[str]:
    with serve_folder(repository.folder) as url:
        yield url


def client(folder: Path, base_url: str, root: bytes) -> Updater:
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    return Updater(
        str(folder), f"{base_url}/metadata/", str(folder / "targets"), f"{base_url}/targets/", bootstrap=root
    )


def wanted(version: str, package: str = "tacho", platform: str = "linux-aarch64") -> str:
    return target_name(package, version, platform)


def read(url: str, byte_range: str | None = None) -> bytes:
    request = urllib.request.Request(url, headers={"Range": byte_range} if byte_range else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: bytes = answer.read()
    return data


def test_the_client_verifies_a_manifest_and_its_objects_are_where_the_layout_says(
    repository: PackageRepository, base_url: str, tmp_path: Path
) -> None:
    updater = client(tmp_path / "device", base_url, repository.trusted_root())
    name = wanted("1.0.0+build.1")
    info = updater.get_targetinfo(name)
    assert isinstance(info, TargetFile)
    plain = unpack_manifest(Path(updater.download_target(info)).read_bytes())
    assert hashlib.sha256(plain).hexdigest() == repository.get("tacho", "1.0.0+build.1").manifest
    assert unpack_manifest(read(f"{base_url}/{target_path(info.hashes['sha256'], name)}")) == plain
    contents = {f.path: read(f"{base_url}/{object_path(f.sha256)}") for f in decode_manifest(plain).files}
    assert {path: zstd.decompress(data).decode() for path, data in contents.items()} == FILES


def test_later_releases_and_new_packages_reach_a_client_that_was_there_before(
    repository: PackageRepository, base_url: str, tmp_path: Path
) -> None:
    folder, root = tmp_path / "device", repository.trusted_root()
    assert client(folder, base_url, root).get_targetinfo(wanted("1.1.0")) is None
    add_release(repository, "tacho", "1.1.0", FILES, platform="linux-aarch64")
    add_release(repository, "radio", "2.0.0", FILES)
    updater = client(folder, base_url, root)
    assert updater.get_targetinfo(wanted("1.1.0"))
    assert updater.get_targetinfo(wanted("2.0.0", "radio", "any"))
    repository.delete("tacho", "1.0.0+build.1")
    assert client(folder, base_url, root).get_targetinfo(wanted("1.0.0+build.1")) is None


def test_clients_follow_a_new_root_key_from_the_first_root_on(
    repository: PackageRepository, base_url: str, tmp_path: Path
) -> None:
    root = repository.trusted_root()
    assert client(tmp_path / "old", base_url, root).get_targetinfo(wanted("1.0.0+build.1"))
    repository.rotate_root_key()
    repository.rotate_root_key()
    for folder, start in (("old", root), ("late", root), ("new", repository.trusted_root())):
        assert client(tmp_path / folder, base_url, start).get_targetinfo(wanted("1.0.0+build.1"))


def test_another_repositorys_root_accepts_nothing_from_this_one(base_url: str, tmp_path: Path) -> None:
    stranger = make_repository(tmp_path / "stranger").trusted_root()
    with pytest.raises(RepositoryError):
        client(tmp_path / "device", base_url, stranger).get_targetinfo(wanted("1.0.0+build.1"))


@pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "targets.json", "package-tacho.json"])
def test_a_client_refuses_whatever_the_web_server_changes(
    repository: PackageRepository, base_url: str, tmp_path: Path, part: str
) -> None:
    metadata = repository.folder / "metadata"
    path = metadata / part if part == "timestamp.json" else max(metadata.glob(f"*.{part}"))
    content = json.loads(path.read_bytes())
    content["signed"]["expires"] = "2199-01-01T00:00:00Z"
    path.write_text(json.dumps(content, separators=(",", ":")))  # as long as it was
    with pytest.raises(RepositoryError):
        client(tmp_path / "device", base_url, repository.trusted_root()).get_targetinfo(wanted("1.0.0+build.1"))


def test_a_client_refuses_metadata_older_than_it_has_seen(
    repository: PackageRepository, base_url: str, tmp_path: Path
) -> None:
    timestamp = repository.folder / "metadata/timestamp.json"
    old = timestamp.read_bytes()
    root = repository.trusted_root()
    add_release(repository, "tacho", "1.1.0", FILES)
    assert client(tmp_path / "device", base_url, root).get_targetinfo(wanted("1.1.0", platform="any"))
    timestamp.write_bytes(old)
    with pytest.raises(RepositoryError):
        client(tmp_path / "device", base_url, root).refresh()


def test_one_packages_key_cannot_sign_for_another(repository: PackageRepository, base_url: str, tmp_path: Path) -> None:
    """Whoever has stolen the key of radio, and even those of snapshot and timestamp, cannot replace tacho."""
    add_release(repository, "radio", "1.0.0", FILES)
    trusted = TrustedMetadata(repository.folder / "metadata")
    edition = Edition(trusted, KeyStore(tmp_path / "keys"), Lifetimes(), utc_now())
    edition.put("radio", wanted("6.6.6"), 100, "6" * 64)
    edition.publish()
    assert "tacho@6.6.6" in max((repository.folder / "metadata").glob("*.package-radio.json")).read_text()
    updater = client(tmp_path / "device", base_url, repository.trusted_root())
    assert updater.get_targetinfo(wanted("6.6.6")) is None
    assert updater.get_targetinfo(wanted("1.0.0+build.1"))


def test_the_test_server_understands_ranges(repository: PackageRepository, base_url: str) -> None:
    url = f"{base_url}/metadata/1.root.json"
    whole = repository.trusted_root()
    assert read(url) == whole
    assert read(url, "bytes=10-19") == whole[10:20]
    assert read(url, "bytes=10-") == whole[10:]
    assert read(url, "bytes=-7") == whole[-7:]
    assert read(url, "bytes=0-999999") == whole
    with pytest.raises(urllib.error.HTTPError) as caught:
        read(url, "bytes=999999-")
    with caught.value as answer:
        assert answer.code == 416
