"""The HTTP API's packages: stored, found, paged, exported, deleted; and what every problem looks like."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from controller.database import open_database, sqlite_url
from controller.repository.package_repository import PackageRepository
from tests.support.controller import JSON_TYPE, PACKAGE_TYPE, ControllerProcess
from tests.support.repository import make_package, tree_of

pytestmark = pytest.mark.broker

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("pkg")


def stored(controller: ControllerProcess, folder: Path, name: str, version: str, **fields: Any) -> dict[str, Any]:
    """Push a small release and return its record."""
    answer = controller.push(make_package(folder, name, version, {"version.txt": f"{name} {version}\n"}, **fields))
    assert answer.status == 201, answer
    record: dict[str, Any] = answer.json()["release"]
    return record


def pages(controller: ControllerProcess, path: str, limit: int) -> Iterator[list[Any]]:
    """Every page of a list."""
    joiner = "&" if "?" in path else "?"
    after = ""
    while True:
        page = controller.get(f"{path}{joiner}limit={limit}{after}").json()
        assert {"items", "next"} <= set(page)
        yield page["items"]
        if page["next"] is None:
            return
        after = f"&after={quote(page['next'])}"


def everything(controller: ControllerProcess) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The repository and the spool, to compare before and after."""
    return tree_of(controller.data / "repository"), tree_of(controller.data / "spool")


# Storing


def test_a_package_is_stored_once_and_found_again(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    package = make_package(tmp_path, name, "1.0.0", {"a.txt": "a\n"}, description="Turns", tags=["x", "y"])
    first = controller.push(package)
    again = controller.push(package)
    assert (first.status, again.status) == (201, 200)
    assert (first.json()["new"], again.json()["new"]) == (True, False)
    record = first.json()["release"]
    assert again.json()["release"] == record
    assert {key: record[key] for key in ("package", "version", "platform", "description", "tags", "files", "size")} == {
        "package": name,
        "version": "1.0.0",
        "platform": "any",
        "description": "Turns",
        "tags": ["x", "y"],
        "files": 1,
        "size": 2,
    }
    listed = record | {"stopped": {}}
    assert controller.get(f"/packages/{name}/1.0.0").json() == [listed]
    assert controller.get(f"/packages?name={name}").json() == {"items": [listed], "next": None, "near": []}


def test_the_same_version_with_other_content_is_refused(
    controller: ControllerProcess, tmp_path: Path, name: str
) -> None:
    stored(controller, tmp_path, name, "1.0.0")
    before = everything(controller)
    other = make_package(tmp_path, name, "1.0.0", {"version.txt": "something else\n"})
    detail = controller.push(other).problem(409, "release.exists")
    assert "other content" in detail
    assert everything(controller) == before


def cut_short(good: bytes) -> bytes:
    return good[: len(good) // 2]


def one_bit(good: bytes) -> bytes:
    at = good.index(b"version.txt in full")
    return good[:at] + b"X" + good[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: b"garbage " * 1000, lambda _: b"{}", cut_short, one_bit, lambda good: good + b"more"],
    ids=["empty", "garbage", "JSON", "cut short", "one byte changed", "something behind it"],
)
def test_what_is_no_whole_package_is_refused_and_changes_nothing(
    controller: ControllerProcess, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    good = make_package(tmp_path, name, "1.0.0", {"version.txt": "version.txt in full " * 100}).read_bytes()
    before = everything(controller)
    controller.call("POST", "/api/v1/packages", damage(good), PACKAGE_TYPE).problem(422, "package.format")
    assert everything(controller) == before
    controller.get(f"/packages/{name}/1.0.0").problem(404, "release.unknown")


def test_an_upload_without_a_length_is_taken_too(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    content = make_package(tmp_path, name, "1.0.0", {"a.txt": "a"}).read_bytes()
    pieces = (content[start : start + 100] for start in range(0, len(content), 100))
    assert controller.call("POST", "/api/v1/packages", pieces, PACKAGE_TYPE).status == 201


def test_an_upload_that_says_it_is_too_large_is_refused_unread(controller: ControllerProcess) -> None:
    headers = {**PACKAGE_TYPE, "Content-Length": str(1 << 60)}
    answer = controller.call("POST", "/api/v1/packages", b"", headers)
    assert answer.status in {413, 507}
    assert answer.json()["code"] in {"package.limit", "disk.full"}


# Finding


def test_every_filter_finds_what_it_says(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    records = {
        version: stored(controller, tmp_path, name, version, platform=platform, tags=tags)
        for version, platform, tags in (
            ("1.0.0", "linux-aarch64", ["old"]),
            ("1.2.0", "linux-x86_64", ["new", "big"]),
            ("2.0.0-rc.1", "linux-aarch64", ["new"]),
        )
    }
    channel = name[-30:]
    assert controller.send("POST", "/releases", {"package": name, "version": "1.0.0", "channel": channel}).status == 201
    middle = quote(records["1.2.0"]["created_at"])

    def versions(query: str) -> list[str]:
        answer = controller.get(f"/packages?name={name}&{query}")
        assert answer.status == 200, answer
        return [item["version"] for item in answer.json()["items"]]

    assert versions("") == ["2.0.0-rc.1", "1.2.0", "1.0.0"]
    assert versions("version=%5E1.1") == ["1.2.0"]
    assert versions("version=%3E%3D2.0.0-0") == ["2.0.0-rc.1"]
    assert versions("platform=linux-aarch64") == ["2.0.0-rc.1", "1.0.0"]
    assert versions("tag=new") == ["2.0.0-rc.1", "1.2.0"]
    assert versions("tag=new&tag=big") == ["1.2.0"]
    assert versions(f"channel={channel}") == ["1.0.0"]
    assert versions(f"since={middle}") == ["2.0.0-rc.1", "1.2.0"]
    assert versions(f"until={middle}") == ["1.0.0"]
    tomorrow = quote((datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert versions(f"since={tomorrow}") == []
    assert versions("version=%5E1.1&platform=linux-aarch64") == []


def test_a_list_of_releases_comes_in_pages(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    versions = [f"1.{minor}.0" for minor in range(5)]
    for version in versions:
        stored(controller, tmp_path, name, version)
    found = [[item["version"] for item in page] for page in pages(controller, f"/packages?name={name}", 2)]
    assert found == [["1.4.0", "1.3.0"], ["1.2.0", "1.1.0"], ["1.0.0"]]
    assert len(list(pages(controller, f"/packages?name={name}", 5))) == 1


def test_a_version_is_exactly_the_one_that_is_asked_for(
    controller: ControllerProcess, tmp_path: Path, name: str
) -> None:
    for version in ("1.0.0", "1.0.1", "1.0.0+build"):
        stored(controller, tmp_path, name, version)
    stored(controller, tmp_path, name, "1.0.0", platform="linux-aarch64")
    one = controller.get(f"/packages/{name}/1.0.0").json()
    assert [(item["version"], item["platform"]) for item in one] == [("1.0.0", "any"), ("1.0.0", "linux-aarch64")]
    assert [item["version"] for item in controller.get(f"/packages/{name}/1.0.0%2Bbuild").json()] == ["1.0.0+build"]
    for pattern in (f"{name[:-1]}?", f"{name}*", "*"):
        controller.get(f"/packages/{quote(pattern)}/1.0.0").problem(404, "release.unknown")
    for text in ("1", "^1.0.0", "1.0.0 || 1.0.1", "latest"):
        controller.get(f"/packages/{name}/{quote(text)}").problem(422, "version.bad")


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/packages?version=%5Eone", 422, "version.range", "one"),
        ("/packages?limit=0", 400, "input.bad", "limit"),
        ("/packages?limit=501", 400, "input.bad", "limit"),
        ("/packages?limit=many", 400, "input.bad", "limit"),
        ("/packages?since=yesterday", 400, "input.bad", "since"),
        ("/packages?since=2026-03-01T12:00:00", 400, "input.bad", "since"),
        ("/packages?platform=linux-arm64", 400, "input.bad", "it is linux-aarch64 here"),
        ("/packages?until=2026-03-01", 400, "input.bad", "until"),
        ("/packages?after=nothing", 400, "input.bad", "NAME@VERSION@PLATFORM"),
        ("/packages/nothing/1.0.0", 404, "release.unknown", "nothing 1.0.0"),
        ("/packages/nothing/1.0.0/export", 404, "release.unknown", "nothing 1.0.0"),
        ("/packages/nothing", 404, "input.bad", "/api/v1/packages/nothing"),
        ("/nothing", 404, "input.bad", "/api/v1/nothing"),
    ],
)
def test_questions_that_have_no_answer_get_a_problem(
    controller: ControllerProcess, path: str, status: int, code: str, says: str
) -> None:
    assert says in controller.get(path).problem(status, code)


def test_a_verb_that_a_path_does_not_have_gets_a_problem(controller: ControllerProcess) -> None:
    answer = controller.call("PUT", "/api/v1/packages")
    assert "PUT" in answer.problem(405, "input.bad")
    assert "GET" in answer.headers["allow"]


# Deleting


def test_a_version_is_deleted_for_one_platform_or_all(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    for platform in ("any", "linux-aarch64", "linux-x86_64"):
        stored(controller, tmp_path, name, "1.0.0", platform=platform)
    one = controller.call("DELETE", f"/api/v1/packages/{name}/1.0.0?platform=any")
    assert (one.status, one.body) == (204, b"")
    left = controller.get(f"/packages/{name}/1.0.0").json()
    assert [item["platform"] for item in left] == ["linux-aarch64", "linux-x86_64"]
    assert controller.call("DELETE", f"/api/v1/packages/{name}/1.0.0").status == 204
    controller.get(f"/packages/{name}/1.0.0").problem(404, "release.unknown")
    controller.call("DELETE", f"/api/v1/packages/{name}/1.0.0").problem(404, "release.unknown")


def test_what_a_channel_announces_is_not_deleted(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    for version in ("1.0.0", "2.0.0"):
        stored(controller, tmp_path, name, version)
    path = f"/api/v1/packages/{name}/1.0.0"
    release = {"package": name, "version": "1.0.0", "channel": "stable"}
    assert controller.send("POST", "/releases", release).status == 201
    assert "stable" in controller.call("DELETE", path).problem(409, "release.in_use")
    assert len(controller.get(f"/packages/{name}/1.0.0").json()) == 1
    # the next release takes the first one's place, after which nobody needs that any more
    assert controller.send("POST", "/releases", {**release, "version": "2.0.0"}).status == 201
    assert controller.call("DELETE", path).status == 204


def test_what_a_rollout_announces_is_not_deleted_even_if_no_channel_points_at_it(
    controller: ControllerProcess, tmp_path: Path, name: str
) -> None:
    stored(controller, tmp_path, name, "1.0.0")
    rollout = controller.send("POST", "/releases", {"package": name, "version": "1.0.0", "channel": "stable"}).json()
    engine = open_database(sqlite_url(controller.data / "flotilla.db"))
    offline = PackageRepository(controller.data / "repository", engine, keys=controller.data / "keys")
    assert offline.unset_channel(name, "stable")
    engine.dispose()
    detail = controller.call("DELETE", f"/api/v1/packages/{name}/1.0.0").problem(409, "release.in_use")
    assert rollout["id"] in detail
    assert len(controller.get(f"/packages/{name}/1.0.0").json()) == 1


# Taking away


def test_an_export_is_one_whole_file(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    stored(controller, tmp_path, name, "1.0.0")
    before = (controller.data / "repository/metadata/timestamp.json").read_bytes()
    assert controller.get(f"/packages/{name}/1.0.0/export?valid_days=30").status == 200
    assert (controller.data / "repository/metadata/timestamp.json").read_bytes() == before
    path = f"/api/v1/packages/{name}/1.0.0/export"
    controller.call("POST", f"{path}?valid_days=0", b"", JSON_TYPE).problem(400, "input.bad")
    answer = controller.call("POST", f"{path}?valid_days=30", b"", JSON_TYPE)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.body)
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        names = archive.getnames()
        head = archive.extractfile("flotilla.json")
        assert head is not None
        assert json.load(head)["kind"] == "release"
    assert "metadata/timestamp.json" in names
    assert tree_of(controller.data / "spool") == {}


def test_an_export_says_which_platforms_there_are(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    for platform in ("any", "linux-aarch64"):
        stored(controller, tmp_path, name, "1.0.0", platform=platform)
    detail = controller.get(f"/packages/{name}/1.0.0/export").problem(400, "input.bad")
    assert "any, linux-aarch64" in detail
    assert controller.get(f"/packages/{name}/1.0.0/export?platform=any").status == 200


def test_the_trusted_root_is_the_repository_s(controller: ControllerProcess) -> None:
    answer = controller.get("/root")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == (controller.data / "repository" / "metadata" / "1.root.json").read_bytes()


def test_statistics_count_what_is_there(controller: ControllerProcess, tmp_path: Path, name: str) -> None:
    before = controller.get("/statistics").json()
    stored(controller, tmp_path, name, "1.0.0")
    after = controller.get("/statistics").json()
    assert {key: after[key] - before[key] for key in ("packages", "releases", "objects")} == {
        "packages": 1,
        "releases": 1,
        "objects": 1,
    }
