"""A yanked version is not chosen any more, and everything that needs it has it still."""

import pytest

from controller.repository.package_repository import PackageRepository
from schemas.errors import OperatorError, PublisherError
from tests.support.repository import add_release, tree_of
from tests.unit.repository.conftest import Clock


@pytest.fixture
def stocked(repository: PackageRepository) -> PackageRepository:
    for version in ("1.0.0", "1.1.0"):
        add_release(repository, "tacho", version, {"v": version}, tags=["ui"])
    return repository


def found(repository: PackageRepository, **question: object) -> list[str]:
    return [record.version for record in repository.search(**question)]  # type: ignore[arg-type]  # what search takes


def test_searches_leave_a_yanked_version_out_unless_asked(stocked: PackageRepository, clock: Clock) -> None:
    stocked.set_channel("tacho", "1.1.0", "stable")
    stocked.yank("tacho", "1.1.0", "eats the database")
    for question in (
        {"name": "tacho"},
        {},
        {"tags": ["ui"]},
        {"platform": "any"},
        {"since": clock.now},
        {"name": "tacho", "version_range": "*"},
    ):
        assert found(stocked, **question) == ["1.0.0"]
        assert found(stocked, **question, yanked=True) == ["1.1.0", "1.0.0"]
    assert found(stocked, channel="stable") == []
    assert found(stocked, channel="stable", yanked=True) == ["1.1.0"]
    record = stocked.get("tacho", "1.1.0")
    assert (record.yanked_at, record.yank_reason) == (clock.now, "eats the database")


def test_a_yanked_version_is_not_released_until_that_is_undone(stocked: PackageRepository) -> None:
    stocked.yank("tacho", "1.1.0", "eats the database")
    with pytest.raises(PublisherError, match=r"eats the database.*--undo") as caught:
        stocked.set_channel("tacho", "1.1.0", "stable")
    assert caught.value.code == "release.yanked"
    assert stocked.channel_of("tacho", "stable") is None
    stocked.set_channel("tacho", "1.1.0", "stable", yanked=True)
    stocked.unyank("tacho", "1.1.0")
    stocked.set_channel("tacho", "1.1.0", "beta")
    assert found(stocked, name="tacho") == ["1.1.0", "1.0.0"]


def test_yanking_takes_nothing_from_devices(stocked: PackageRepository) -> None:
    before = tree_of(stocked.folder)
    stocked.yank("tacho", "1.1.0")
    stocked.collect_garbage(grace_s=-1)
    assert tree_of(stocked.folder).keys() >= {name for name in before if not name.startswith("metadata/")}
    assert stocked.verify() == []


def test_what_was_done_is_kept(stocked: PackageRepository, clock: Clock) -> None:
    stocked.yank("tacho", "1.1.0", "first")
    clock.advance(days=1)
    stocked.yank("tacho", "1.1.0")  # says nothing new
    stocked.yank("tacho", "1.1.0", "second")
    assert stocked.get("tacho", "1.1.0").yanked_at != clock.now
    stocked.unyank("tacho", "1.1.0", "was the disk")
    stocked.unyank("tacho", "1.1.0")
    history = [(entry.action, entry.reason) for entry in stocked.release_history("tacho", "1.1.0")]
    assert history == [("unyanked", "was the disk"), ("yanked", "second"), ("yanked", "first")]


def test_a_version_whose_new_platform_came_after_the_yank_is_not_released(stocked: PackageRepository) -> None:
    stocked.yank("tacho", "1.1.0")
    add_release(stocked, "tacho", "1.1.0", {"v": "other"}, platform="linux-aarch64")
    with pytest.raises(PublisherError):
        stocked.set_channel("tacho", "1.1.0", "stable")


def test_what_cannot_be_yanked(stocked: PackageRepository) -> None:
    for change in (stocked.yank, stocked.unyank):
        with pytest.raises(PublisherError) as caught:
            change("tacho", "9.9.9")
        assert caught.value.code == "release.unknown"
    with pytest.raises(OperatorError, match="one line"):
        stocked.yank("tacho", "1.1.0", "two\nlines")
