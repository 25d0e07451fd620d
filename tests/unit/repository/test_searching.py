"""Finding releases: every filter, the order, and pages."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from controller.repository.package_repository import PackageRepository
from schemas.errors import OperatorError, PublisherError
from tests.support.repository import add_release
from tests.unit.repository.conftest import Clock

VERSIONS = ["1.2.0", "1.10.0", "1.10.0-rc.2", "1.10.0-rc.10", "2.0.0+b", "2.0.0+a", "0.9.0"]
ORDERED = ["2.0.0+a", "2.0.0+b", "1.10.0", "1.10.0-rc.10", "1.10.0-rc.2", "1.2.0", "0.9.0"]


@pytest.fixture
def stocked(repository: PackageRepository, clock: Clock) -> PackageRepository:
    """Seven versions of tacho, a day apart in the order of VERSIONS, then two of other packages."""
    for version in VERSIONS:
        add_release(repository, "tacho", version, {"v": version}, tags=["ui"] if version.startswith("1") else [])
        clock.advance(days=1)
    for name, tags in (("tacho-tools", ["ui", "tools"]), ("radio", ["tools"])):
        add_release(repository, name, "1.0.0", {"v": name}, tags=tags, platform="linux-aarch64")
    return repository


def keys(repository: PackageRepository, **conditions: object) -> list[str]:
    found = repository.search(**conditions)  # type: ignore[arg-type]  # each test gives what search takes
    return [f"{record.package} {record.version}" for record in found]


def test_newest_versions_come_first_as_semver_orders_them(stocked: PackageRepository) -> None:
    assert keys(stocked) == ["radio 1.0.0", *(f"tacho {v}" for v in ORDERED), "tacho-tools 1.0.0"]


@pytest.mark.parametrize(
    ("conditions", "versions"),
    [
        ({"version_range": "^1.2"}, ["1.10.0", "1.2.0"]),
        ({"version_range": ">=1.10.0-rc.3 <2"}, ["1.10.0", "1.10.0-rc.10"]),
        ({"version_range": "1.x || 0.9.0"}, ["1.10.0", "1.2.0", "0.9.0"]),
        ({"version_range": "1.10.0-rc.2"}, ["1.10.0-rc.2"]),
        ({"version_range": ">5"}, []),
        ({"tags": ["ui"], "version_range": "*"}, ["1.10.0", "1.2.0"]),
        ({"limit": 2}, ["2.0.0+a", "2.0.0+b"]),
        ({"limit": 1, "version_range": "<1"}, ["0.9.0"]),
    ],
)
def test_versions_are_found_by_range(
    stocked: PackageRepository, conditions: dict[str, object], versions: list[str]
) -> None:
    assert keys(stocked, name="tacho", **conditions) == [f"tacho {v}" for v in versions]


def test_names_are_exact_or_patterns(stocked: PackageRepository) -> None:
    assert set(keys(stocked, name="tacho*")) == {*(f"tacho {v}" for v in VERSIONS), "tacho-tools 1.0.0"}
    assert keys(stocked, name="?adio") == ["radio 1.0.0"]
    assert keys(stocked, name="*-t*") == ["tacho-tools 1.0.0"]
    for nothing in ("tach", "Tacho", "%", "tacho_tools", "nothing"):
        assert keys(stocked, name=nothing) == []
    assert stocked.names() == ["radio", "tacho", "tacho-tools"]


def test_all_tags_must_be_there(stocked: PackageRepository) -> None:
    assert keys(stocked, tags=["tools"]) == ["radio 1.0.0", "tacho-tools 1.0.0"]
    assert keys(stocked, tags=["tools", "ui"]) == ["tacho-tools 1.0.0"]
    assert keys(stocked, tags=["tool"]) == []


@pytest.mark.parametrize("limit", [1, 100])
def test_a_tag_is_any_text_and_only_itself(repository: PackageRepository, limit: int) -> None:
    odd = ["two words", "Tools", 'a"b', "a\\", "a\nb", "%", ",", "é"]
    add_release(repository, "odd", "1.0.0", {"a": "a"}, tags=odd)
    add_release(repository, "plain", "1.0.0", {"a": "b"}, tags=["tools", "b", "words"])
    for tag in odd:
        for tags in ([tag], [tag, "Tools"]):
            assert keys(repository, tags=tags, limit=limit) == ["odd 1.0.0"]
            assert keys(repository, name="odd", tags=tags) == ["odd 1.0.0"]
    for tags in (["a"], ["b", "tools", "Tools"], ["two"], ["TOOLS"], [""], ["\n,\n"], ['","']):
        assert keys(repository, tags=tags) == []
    assert repository.search("odd")[0].tags == sorted(odd)


def test_platforms_and_dates(stocked: PackageRepository, clock: Clock) -> None:
    add_release(stocked, "camera", "1.0.0", {"v": "camera"}, platform="linux-armv7")
    for_any = [f"tacho {v}" for v in ORDERED]
    assert keys(stocked, platform="linux-aarch64") == ["radio 1.0.0", *for_any, "tacho-tools 1.0.0"]
    assert keys(stocked, platform="linux-armv7") == ["camera 1.0.0", *for_any]
    assert keys(stocked, platform="any") == for_any
    assert keys(stocked, name="tacho", version_range="^1.2", platform="linux-aarch64") == [
        "tacho 1.10.0",
        "tacho 1.2.0",
    ]
    assert keys(stocked, name="radio", platform="linux-armv7") == []
    assert keys(stocked, tags=["tools"], platform="linux-armv7") == []
    first = clock.now.replace(day=1)
    assert keys(stocked, until=first.replace(day=2)) == ["tacho 1.2.0"]
    assert keys(stocked, since=first.replace(day=2), until=first.replace(day=3)) == ["tacho 1.10.0"]
    assert keys(stocked, since=clock.now) == ["camera 1.0.0", "radio 1.0.0", "tacho-tools 1.0.0"]


def test_channels_are_found_and_shown(stocked: PackageRepository) -> None:
    stocked.set_channel("tacho", "1.10.0", "stable")
    stocked.set_channel("tacho", "2.0.0+a", "beta")
    stocked.set_channel("radio", "1.0.0", "stable")
    assert keys(stocked, channel="stable") == ["radio 1.0.0", "tacho 1.10.0"]
    assert [r.channels for r in stocked.search("tacho", limit=3)] == [["beta"], [], ["stable"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 9])
def test_pages_together_are_the_whole(stocked: PackageRepository, limit: int) -> None:
    found, after = [], None
    while page := stocked.search(limit=limit, after=after):
        assert len(page) <= limit
        found += page
        after = page[-1].key
    assert found == stocked.search()


def test_paging_goes_on_though_the_last_record_was_deleted(stocked: PackageRepository) -> None:
    after = stocked.search("tacho", limit=3)[-1].key
    stocked.delete("tacho", "1.10.0")
    assert [r.version for r in stocked.search("tacho", after=after)] == ORDERED[3:]


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        ({"version_range": "not a range"}, "version.range"),
        ({"limit": 0}, "input.bad"),
        ({"limit": 1001}, "input.bad"),
        ({"after": "tacho"}, "input.bad"),
        ({"after": "tacho@x@any"}, "input.bad"),
        ({"since": datetime(2030, 1, 1)}, "input.bad"),  # noqa: DTZ001 - that is what is wrong with it
        ({"until": datetime(2030, 1, 1)}, "input.bad"),  # noqa: DTZ001 - likewise
        ({"tags": [f"tag-{number}" for number in range(1100)]}, "input.bad"),
    ],
)
def test_bad_conditions_are_one_clear_line(
    repository: PackageRepository, conditions: dict[str, object], code: str
) -> None:
    with pytest.raises((OperatorError, PublisherError)) as caught:
        keys(repository, **conditions)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_statistics_count_what_is_there(stocked: PackageRepository, tmp_path: Path) -> None:
    statistics = stocked.statistics()
    assert (statistics.packages, statistics.releases, statistics.objects) == (3, 9, 9)
    assert statistics.release_bytes == sum(len(v) for v in [*VERSIONS, "tacho-tools", "radio"])
    folder = stocked.folder
    on_disk = {
        part: sum(p.stat().st_size for p in (folder / part).rglob("*") if p.is_file())
        for part in ("objects", "targets", "metadata")
    }
    assert statistics.object_bytes == on_disk["objects"]
    assert statistics.target_bytes == on_disk["targets"]
    assert statistics.metadata_bytes == on_disk["metadata"]


def test_the_stamp_changes_with_a_push_a_refresh_and_a_first_bundle_and_with_nothing_else(
    stocked: PackageRepository, clock: Clock
) -> None:
    stamps = [stocked.stamp()]
    stocked.search()
    stocked.statistics()
    assert stocked.stamp() == stamps[0]
    add_release(stocked, "radio", "1.1.0", {"v": "1.1.0"}, platform="linux-aarch64")
    stamps.append(stocked.stamp())
    clock.advance(days=30)
    stocked.refresh_metadata()
    stamps.append(stocked.stamp())
    (stocked.folder / "bundles" / ("a" * 64)).mkdir(parents=True)
    stamps.append(stocked.stamp())
    assert len(set(stamps)) == 4


def test_statistics_count_what_goes_meanwhile_as_nothing(
    stocked: PackageRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gc`, or a signature's renewal, removes files between their listing and the look at their sizes."""
    before = stocked.statistics()
    listed = Path.iterdir
    gone = {next((stocked.folder / part).iterdir()) for part in ("targets", "metadata")}
    gone.add(next(path for folder in (stocked.folder / "objects").iterdir() for path in folder.iterdir()))
    sizes = {path.parent.name: path.stat().st_size for path in gone}

    def vanishing(folder: Path) -> Iterator[Path]:
        found = [*listed(folder)]
        for path in gone & {*found}:
            path.unlink()
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", vanishing)
    after = stocked.statistics()
    (in_objects,) = (path for path in gone if path.parent.parent.name == "objects")
    assert after.object_bytes == before.object_bytes - sizes[in_objects.parent.name]
    assert after.target_bytes == before.target_bytes - sizes["targets"]
    assert after.metadata_bytes == before.metadata_bytes - sizes["metadata"]
