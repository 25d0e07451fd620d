"""Whoever may write in a package's state cannot lead the agent, which may be root, out of it."""

from pathlib import Path

import pytest

from device_agent import state
from device_agent.layout import DeviceFolders
from device_agent.objects import ObjectStore
from device_agent.state import seed_state
from schemas.errors import DeviceError
from schemas.manifest import MANIFEST_FORMAT, Manifest

MANIFEST = Manifest(
    format=MANIFEST_FORMAT, package="tacho", version="1.0.0", platform="any", state=["var/lib/data", "var/log"]
)


def test_a_link_that_is_put_there_in_the_middle_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, outside = DeviceFolders(tmp_path / "root").package("tacho"), tmp_path / "outside"
    outside.mkdir()
    plant = state._plant

    def plant_and_swap(seed: Path, path: str, *rest: object) -> None:
        plant(seed, path, *rest)  # type: ignore[arg-type]  # passed on as they came
        parent = folders.state / "var/lib"
        if path == "var/lib/data":
            parent.rename(folders.state / "moved")
            parent.symlink_to(outside)

    monkeypatch.setattr(state, "_plant", plant_and_swap)
    seed_state(folders, MANIFEST, ObjectStore(DeviceFolders(tmp_path / "root")))
    assert list(outside.iterdir()) == []
    assert (folders.state / "moved/data").is_dir()


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_is_no_folder_on_the_way_is_an_error(tmp_path: Path, what: str) -> None:
    folders, outside = DeviceFolders(tmp_path / "root").package("tacho"), tmp_path / "outside"
    outside.mkdir()
    folders.state.mkdir(parents=True)
    in_the_way = folders.state / "var"
    in_the_way.symlink_to(outside) if what == "link" else in_the_way.write_text("mine")
    with pytest.raises(DeviceError, match="is not a folder, but state is to be kept below it") as refused:
        seed_state(folders, MANIFEST, ObjectStore(DeviceFolders(tmp_path / "root")))
    assert refused.value.code == "conflict.local_changes"
    assert list(outside.iterdir()) == []


def test_what_is_missing_is_made(tmp_path: Path) -> None:
    folders = DeviceFolders(tmp_path / "root").package("tacho")
    objects = ObjectStore(DeviceFolders(tmp_path / "root"))
    assert seed_state(folders, MANIFEST, objects) == ["var/lib/data", "var/log"]
    assert seed_state(folders, MANIFEST, objects) == []
    assert (folders.state / "var/lib/data").is_dir()


def test_a_path_appears_after_its_content_was_flushed(tmp_path: Path) -> None:
    root = DeviceFolders(tmp_path / "root")
    folders, objects = root.package("tacho"), ObjectStore(root)
    folders.root.mkdir(parents=True)
    seen: list[list[bool]] = []

    def flush() -> None:
        seen.append([(folders.state / path).exists() for path in MANIFEST.state])

    assert seed_state(folders, MANIFEST, objects, flush) == MANIFEST.state
    assert seen == [[False, False], [True, False]]
