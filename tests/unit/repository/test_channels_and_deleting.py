"""Channels and their history; deleting, and that a deleted version never comes back as another."""

from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from schemas.errors import OperatorError, PublisherError
from tests.support.repository import add_release, tree_of
from tests.unit.repository.conftest import Clock


@pytest.fixture
def stocked(repository: PackageRepository) -> PackageRepository:
    for version in ("1.0.0", "1.1.0"):
        for platform in ("linux-aarch64", "linux-x86_64"):
            add_release(repository, "tacho", version, {"v": version, "p": platform}, platform=platform)
    return repository


def test_a_channel_points_at_one_version_and_remembers_the_others(stocked: PackageRepository, clock: Clock) -> None:
    begun = clock.now
    for version in ("1.0.0", "1.1.0", "1.1.0", "1.0.0"):
        stocked.set_channel("tacho", version, "stable")
        clock.advance(hours=1)
    assert stocked.channel_of("tacho", "stable") == "1.0.0"
    assert stocked.channel_of("tacho", "beta") is None
    history = stocked.channel_history("tacho", "stable")
    assert [(e.version, (e.set_at - begun).seconds // 3600) for e in history] == [
        ("1.0.0", 3),
        ("1.1.0", 1),
        ("1.0.0", 0),
    ]
    assert [e.version for e in stocked.channel_history("tacho", "stable", limit=1)] == ["1.0.0"]


def test_a_channel_can_be_taken_back(stocked: PackageRepository) -> None:
    stocked.set_channel("tacho", "1.0.0", "stable")
    assert stocked.unset_channel("tacho", "stable")
    assert not stocked.unset_channel("tacho", "stable")
    assert stocked.channel_of("tacho", "stable") is None
    assert [e.version for e in stocked.channel_history("tacho", "stable")] == [None, "1.0.0"]
    assert stocked.channels() == []


def test_all_channels_are_listed(stocked: PackageRepository) -> None:
    add_release(stocked, "radio", "2.0.0", {"a": "a"})
    stocked.set_channel("tacho", "1.0.0", "stable")
    stocked.set_channel("tacho", "1.1.0", "beta")
    stocked.set_channel("radio", "2.0.0", "stable")
    listed = [(e.package, e.channel, e.version) for e in stocked.channels()]
    assert listed == [("radio", "stable", "2.0.0"), ("tacho", "beta", "1.1.0"), ("tacho", "stable", "1.0.0")]
    assert [e.package for e in stocked.channels("radio")] == ["radio"]


@pytest.mark.parametrize(
    ("package", "version", "channel", "code"),
    [
        ("tacho", "3.0.0", "stable", "release.unknown"),
        ("nothing", "1.0.0", "stable", "release.unknown"),
        ("tacho", "1.0.0", "Not A Channel", "input.bad"),
        ("tacho", "1.0.0", "", "input.bad"),
    ],
)
def test_a_channel_points_only_at_what_is_there(
    stocked: PackageRepository, package: str, version: str, channel: str, code: str
) -> None:
    with pytest.raises((PublisherError, OperatorError)) as caught:
        stocked.set_channel(package, version, channel)
    assert caught.value.code == code
    assert stocked.channels() == []


def signed_names(repository: PackageRepository) -> str:
    """The text of the newest metadata of tacho."""
    metadata = repository.folder / "metadata"
    newest = max(metadata.glob("*.package-tacho.json"), key=lambda p: int(p.name.split(".")[0]))
    return newest.read_text()


def test_a_deleted_release_is_neither_found_nor_signed(stocked: PackageRepository) -> None:
    assert "tacho@1.0.0@linux-aarch64" in signed_names(stocked)
    stocked.delete("tacho", "1.0.0")
    assert {r.version for r in stocked.search()} == {"1.1.0"}
    assert "tacho@1.0.0@" not in signed_names(stocked)
    assert "tacho@1.1.0@" in signed_names(stocked)
    assert stocked.verify() == []


def test_one_platform_can_be_deleted(stocked: PackageRepository) -> None:
    stocked.delete("tacho", "1.0.0", "linux-aarch64")
    assert [r.platform for r in stocked.search("tacho", version_range="1.0.0")] == ["linux-x86_64"]
    assert stocked.verify() == []


def test_what_a_channel_points_at_is_not_deleted_unless_forced(stocked: PackageRepository) -> None:
    stocked.set_channel("tacho", "1.0.0", "stable")
    before = tree_of(stocked.folder)
    with pytest.raises(PublisherError, match="stable points at") as caught:
        stocked.delete("tacho", "1.0.0")
    assert caught.value.code == "release.in_use"
    assert tree_of(stocked.folder) == before
    assert len(stocked.search()) == 4

    stocked.delete("tacho", "1.0.0", "linux-aarch64", force=True)
    assert stocked.channel_of("tacho", "stable") == "1.0.0"  # there still is the other platform
    stocked.delete("tacho", "1.0.0", force=True)
    assert stocked.channel_of("tacho", "stable") is None
    assert [e.version for e in stocked.channel_history("tacho", "stable")] == [None, "1.0.0"]


@pytest.mark.parametrize(("version", "platform"), [("9.0.0", None), ("1.0.0", "linux-armv7l")])
def test_deleting_what_is_not_there_is_one_clear_line(
    stocked: PackageRepository, version: str, platform: str | None
) -> None:
    with pytest.raises(PublisherError, match=rf"there is no tacho {version}") as caught:
        stocked.delete("tacho", version, platform)
    assert caught.value.code == "release.unknown"


def test_a_deleted_version_comes_back_only_as_what_it_was(repository: PackageRepository, tmp_path: Path) -> None:
    first = add_release(repository, "tacho", "1.0.0", {"a": "a"}, tags=["x"])
    repository.delete("tacho", "1.0.0")
    with pytest.raises(PublisherError, match="existed with other content and was deleted") as caught:
        add_release(repository, "tacho", "1.0.0", {"a": "b"})
    assert caught.value.code == "release.exists"
    assert add_release(repository, "tacho", "1.0.0", {"a": "a"}, tags=["x"]) == first
    assert repository.verify() == []
    repository.delete("tacho", "1.0.0")
    assert repository.search() == []
    assert repository.names() == []
