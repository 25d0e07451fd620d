"""What a push signs and writes does not grow with what the repository has of other packages."""

import json
from typing import Any

from controller.repository.package_repository import PackageRepository
from tests.support.repository import add_release, tree_of


def signed_by(repository: PackageRepository, package: str, version: str) -> dict[str, int]:
    """The bytes of each role's metadata that a push writes."""
    before = tree_of(repository.folder / "metadata")
    add_release(repository, package, version, {"v": version})
    after = tree_of(repository.folder / "metadata")
    return {
        name.removesuffix(".json").rpartition(".")[2]: len(data)
        for name, data in after.items()
        if before.get(name) != data
    }


def snapshot_of(repository: PackageRepository) -> dict[str, Any]:
    newest = max((repository.folder / "metadata").glob("*.snapshot.json"))
    meta: dict[str, Any] = json.loads(newest.read_bytes())["signed"]["meta"]
    return meta


def test_releases_of_other_packages_cost_nothing(repository: PackageRepository) -> None:
    for name in ("tacho", "radio"):
        add_release(repository, name, "1.0.0", {"v": name})
    few = signed_by(repository, "tacho", "1.1.0")
    for minor in (1, 2):  # so few that no number gets another digit
        add_release(repository, "radio", f"1.{minor}.0", {"v": f"radio {minor}"})
    repository.delete("tacho", "1.1.0")
    many = signed_by(repository, "tacho", "1.2.0")
    assert few.keys() == many.keys() == {"package-tacho", "snapshot", "timestamp"}
    assert many == few


def test_another_package_costs_its_name_and_version_in_the_snapshot(repository: PackageRepository) -> None:
    add_release(repository, "tacho", "1.0.0", {"v": "1"})
    add_release(repository, "radio", "1.0.0", {"v": "2"})
    meta = snapshot_of(repository)
    assert meta["package-tacho.json"] == meta["package-radio.json"] == {"version": 1}
    assert set(meta["targets.json"]) == {"hashes", "length", "version"}
