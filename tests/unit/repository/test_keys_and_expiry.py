"""Which keys are needed for what, what is signed again when, and a new root key."""

import itertools
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from controller.repository.keys import KeyStore
from controller.repository.metadata import TrustedMetadata
from controller.repository.package_repository import PackageRepository
from controller.repository.refresh import expiries
from schemas.errors import OperatorError, TrustError
from tests.support.repository import add_release, make_repository, tree_of
from tests.unit.repository.conftest import Clock

TOP = {"root", "targets", "snapshot", "timestamp"}


def trusted(repository: PackageRepository) -> TrustedMetadata:
    return TrustedMetadata(repository.folder / "metadata")


def days_left(repository: PackageRepository, clock: Clock) -> dict[str, int]:
    return {role: (expires - clock.now).days for role, expires in expiries(trusted(repository))}


def test_an_empty_folder_gets_keys_apart_and_private(repository: PackageRepository, tmp_path: Path) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    keys = tmp_path / "keys"
    assert set(tree_of(keys)) == {
        "offline/root.pem",
        "offline/targets.pem",
        "online/package-tacho.pem",
        "online/snapshot.pem",
        "online/timestamp.pem",
    }
    for path in (keys, *keys.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert len({path.read_bytes() for path in keys.rglob("*.pem")}) == 5
    assert not any(b"PRIVATE" in content for content in tree_of(repository.folder).values())


def test_each_package_has_a_role_that_signs_for_its_own_names_only(repository: PackageRepository) -> None:
    for name in ("tacho", "tacho-tools", "targets"):
        add_release(repository, name, "1.0.0", {"a": "a"})
    delegations = trusted(repository).targets.signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    assert set(delegations.roles) == {"package-tacho", "package-tacho-tools", "package-targets"}
    assert len({tuple(role.keyids) for role in delegations.roles.values()}) == 3
    assert all(role.terminating and role.threshold == 1 for role in delegations.roles.values())
    asked = "tacho-tools@1.0.0@any.json.zst"
    assert [name for name, role in delegations.roles.items() if role.is_delegated_path(asked)] == [
        "package-tacho-tools"
    ]
    assert trusted(repository).targets.signed.targets == {}


def test_without_the_offline_keys_known_packages_go_on_and_new_ones_are_refused(
    repository: PackageRepository, tmp_path: Path, clock: Clock
) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    shutil.move(tmp_path / "keys/offline", tmp_path / "in the safe")
    repository = make_repository(tmp_path, clock=clock)
    assert add_release(repository, "tacho", "1.1.0", {"a": "b"}).version == "1.1.0"
    repository.delete("tacho", "1.0.0")

    before = tree_of(tmp_path)
    with pytest.raises(TrustError, match=r"the key of 'targets' is not at .*put the offline keys back") as caught:
        add_release(repository, "radio", "1.0.0", {"new": "content"})
    assert caught.value.code == "trust.keys"
    after = {name: data for name, data in tree_of(tmp_path).items() if not name.startswith("flotilla.db")}
    assert after == {name: data for name, data in before.items() if not name.startswith("flotilla.db")}
    assert repository.names() == ["tacho"]

    shutil.copytree(tmp_path / "in the safe", tmp_path / "keys/offline", dirs_exist_ok=True)
    assert add_release(repository, "radio", "1.0.0", {"new": "content"}).package == "radio"
    assert repository.verify() == []


@pytest.mark.parametrize(
    ("role", "spoil", "problem"),
    [
        ("package-tacho", lambda path: path.unlink(), "restore it from the backup"),
        ("snapshot", lambda path: path.unlink(), "restore it from the backup"),
        ("timestamp", lambda path: path.write_text("rubbish"), "not an unencrypted PEM key"),
        (
            "package-tacho",
            lambda path: shutil.copy(path.with_name("snapshot.pem"), path),
            "not the one that the metadata",
        ),
    ],
)
def test_a_missing_or_wrong_online_key_changes_nothing(
    repository: PackageRepository, tmp_path: Path, role: str, spoil: object, problem: str
) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    before = tree_of(repository.folder / "metadata")
    spoil(tmp_path / f"keys/online/{role}.pem")  # type: ignore[operator]  # each takes a path
    with pytest.raises(TrustError, match=problem) as caught:
        add_release(repository, "tacho", "1.1.0", {"a": "b"})
    assert caught.value.code == "trust.keys"
    assert tree_of(repository.folder / "metadata") == before
    assert [r.version for r in repository.search()] == ["1.0.0"]


def test_nothing_is_signed_again_before_its_time(repository: PackageRepository, clock: Clock) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    before = tree_of(repository.folder)
    clock.advance(days=9)
    assert repository.refresh_metadata().signed == []
    assert tree_of(repository.folder) == before


def test_the_timestamp_is_signed_again_when_a_third_of_its_life_is_left(
    repository: PackageRepository, clock: Clock
) -> None:
    version = trusted(repository).timestamp.signed.version
    clock.advance(days=10)
    refreshed = repository.refresh_metadata()
    assert (refreshed.signed, refreshed.overdue) == (["timestamp"], [])
    assert trusted(repository).timestamp.signed.version == version + 1
    assert days_left(repository, clock)["timestamp"] == 14


def test_everything_is_signed_again_in_its_time_even_when_it_has_expired(
    repository: PackageRepository, clock: Clock
) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    clock.advance(days=4000)
    assert {p.code for p in repository.verify()} == {"trust.expired"}
    assert set(repository.refresh_metadata().signed) == {*TOP, "package-tacho"}
    assert repository.verify() == []
    assert days_left(repository, clock) == {
        "root": 3650,
        "targets": 365,
        "snapshot": 365,
        "timestamp": 14,
        "package-tacho": 365,
    }
    assert add_release(repository, "tacho", "1.1.0", {"a": "b"}).version == "1.1.0"


def test_what_cannot_be_signed_for_lack_of_a_key_is_named_in_time(
    repository: PackageRepository, tmp_path: Path, clock: Clock
) -> None:
    shutil.move(tmp_path / "keys/offline/targets.pem", tmp_path / "targets.pem")
    expires = dict(expiries(trusted(repository)))["targets"]
    clock.advance(days=250)
    refreshed = repository.refresh_metadata()
    assert "targets" not in refreshed.signed
    assert [(e.role, e.expires, Path(e.key).name) for e in refreshed.overdue] == [("targets", expires, "targets.pem")]
    assert expires > clock.now + timedelta(days=100)


def test_versions_only_grow(repository: PackageRepository, clock: Clock) -> None:
    seen: list[tuple[int, ...]] = []
    for number in range(3):
        add_release(repository, "tacho", f"1.0.{number}", {"a": str(number)})
        clock.advance(days=200)
        repository.refresh_metadata()
        current = trusted(repository)
        role = current.package("tacho")
        assert role is not None
        seen.append(tuple(m.signed.version for m in (current.timestamp, current.snapshot, role)))
    assert all(all(a < b for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(seen))


def test_a_new_root_key_takes_over(repository: PackageRepository, tmp_path: Path, clock: Clock) -> None:
    first, old_key = repository.trusted_root(), (tmp_path / "keys/offline/root.pem").read_bytes()
    repository.rotate_root_key()
    assert (tmp_path / "keys/offline/root.pem").read_bytes() != old_key
    current = trusted(repository)
    assert current.root.signed.version == 2
    assert current.roots[0] == first
    assert repository.trusted_root() == current.roots[1] != first
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    repository.rotate_root_key()
    assert trusted(repository).root.signed.version == 3
    assert make_repository(tmp_path, clock=clock).verify() == []


def test_an_interrupted_change_of_the_root_key_is_finished_or_forgotten(
    repository: PackageRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise OperatorError("disk.io", "the power went")

    with monkeypatch.context() as patched:
        patched.setattr("controller.repository.signing.write_whole", killed)
        with pytest.raises(OperatorError):
            repository.rotate_root_key()
    assert trusted(repository).root.signed.version == 1
    with monkeypatch.context() as patched:
        patched.setattr(KeyStore, "adopt_next", killed)
        with pytest.raises(OperatorError):
            repository.rotate_root_key()
    assert trusted(repository).root.signed.version == 2
    repository.rotate_root_key()
    assert trusted(repository).root.signed.version == 3
    assert sorted(p.name for p in (tmp_path / "keys/offline").iterdir()) == ["root.pem", "targets.pem"]


@pytest.mark.parametrize(
    "name", ["1.root.json", "timestamp.json", "3.snapshot.json", "2.targets.json", "1.package-tacho.json"]
)
@pytest.mark.parametrize("how", ["flip", "remove", "rubbish"])
def test_changed_metadata_is_never_signed_again(repository: PackageRepository, name: str, how: str) -> None:
    add_release(repository, "tacho", "1.0.0", {"a": "a"})
    add_release(repository, "radio", "1.0.0", {"a": "a"})
    path = repository.folder / "metadata" / name
    data = path.read_bytes()
    if name == "2.targets.json":
        path = path.with_name("3.targets.json")
        data = path.read_bytes()
    match how:
        case "flip":
            at = data.index(b'"expires":"2') + len(b'"expires":"2')
            path.write_bytes(data[:at] + b"9" + data[at + 1 :])
        case "remove":
            path.unlink()
        case _:
            path.write_bytes(b"rubbish")
    before = tree_of(repository.folder / "metadata")
    with pytest.raises(TrustError) as caught:
        add_release(repository, "tacho", "1.1.0", {"a": "b"})
    assert caught.value.code == "trust.metadata"
    assert "\n" not in str(caught.value)
    assert tree_of(repository.folder / "metadata") == before
    assert {p.code for p in repository.verify()} == {"trust.metadata"}
