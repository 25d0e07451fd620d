"""`GET /api/v1/packages/{name}/compare`: what the page says of two versions, for programs."""

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release

OLD = {"app": "one", "gone": "g", "same": "s", "z/last": "1"}
NEW = {"app": "two!", "new": "n" * 3000, "same": "s", "z/last": "22"}
MANY = 700


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("compared")) as made:
        for version, files in (("1.0.0", OLD), ("1.1.0", NEW)):
            add_release(made.repository, "tacho", version, files)
            add_release(made.repository, "big", version, {f"{number:04}": version for number in range(MANY)})
        add_release(made.repository, "cam", "1.0.0", {"a": "a"}, platform="linux-aarch64")
        add_release(made.repository, "cam", "1.0.0", {"a": "a"}, platform="linux-armv7l")
        add_release(made.repository, "cam", "1.1.0", {"a": "a", "b": "b"}, platform="linux-aarch64")
        add_release(made.repository, "cam", "1.1.0", {"a": "b"}, platform="linux-armv7l")
        add_release(made.repository, "cam", "1.2.0", {"a": "b"}, platform="any")
        yield made


def ask(app: Application, path: str, status: int = 200) -> Any:
    answer = app.client.get(f"/api/v1/packages/{path}", headers=bearer(FILE_TOKEN))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")
    return answer.json()


def test_two_versions_are_compared_by_files_and_bytes(app: Application) -> None:
    assert ask(app, "tacho/compare?from=1.0.0&to=1.1.0") == {
        "package": "tacho",
        "platform": "any",
        "old": "1.0.0",
        "new": "1.1.0",
        "added": 1,
        "removed": 1,
        "changed": 2,
        "same": 1,
        "new_bytes": 4 + 3000 + 2,
        "parts": [],
        "bundle": None,
        "items": [
            {"path": "app", "change": "changed", "before": 3, "after": 4},
            {"path": "gone", "change": "removed", "before": 1, "after": None},
            {"path": "new", "change": "added", "before": None, "after": 3000},
            {"path": "z/last", "change": "changed", "before": 1, "after": 2},
        ],
        "next": None,
    }


def test_the_page_says_the_same(app: Application) -> None:
    shown = app.client.get(
        "/packages/tacho/compare?from=1.0.0&to=1.1.0", headers={"Accept": "text/html", **bearer(FILE_TOKEN)}
    ).text
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).split())
    assert "Added 1 Changed 2 Removed 1 As before 1 New content 2.9 KiB" in text


def test_a_long_answer_comes_in_pages_and_says_how_many_there_are(app: Application) -> None:
    paths: list[str] = []
    after: str | None = ""
    while after is not None:
        part = ask(app, f"big/compare?from=1.0.0&to=1.1.0&limit=300&after={after}")
        assert part["changed"] == MANY
        assert len(part["items"]) <= 300
        paths += [one["path"] for one in part["items"]]
        after = part["next"]
    assert paths == [f"{number:04}" for number in range(MANY)]
    assert len(ask(app, "big/compare?from=1.0.0&to=1.1.0")["items"]) == 100
    assert "limit" in ask(app, "big/compare?from=1.0.0&to=1.1.0&limit=501", 400)["detail"]


def test_the_platform_is_chosen(app: Application) -> None:
    """Without one it is the first that both are there for."""
    found = [
        ask(app, f"cam/compare?from=1.0.0&to=1.1.0{wanted}")
        for wanted in ("", "&platform=linux-aarch64", "&platform=linux-armv7l")
    ]
    assert [(one["platform"], one["added"], one["changed"]) for one in found] == [
        ("linux-aarch64", 1, 0),
        ("linux-aarch64", 1, 0),
        ("linux-armv7l", 0, 1),
    ]


@pytest.mark.parametrize(
    ("query", "status", "code", "said"),
    [
        ("nothing/compare?from=1.0.0&to=1.1.0", 404, "release.unknown", "there is no nothing 1.0.0 in the repository"),
        ("tacho/compare?from=1.0.0&to=9.0.0", 404, "release.unknown", "there is no tacho 9.0.0 in the repository"),
        ("tacho/compare?from=1&to=1.1.0", 422, "version.bad", "'1' is not a SemVer 2.0.0 version"),
        ("tacho/compare?from=1.0.0", 400, "input.bad", "Missing required query parameter 'to'"),
        ("tacho/compare?to=1.0.0", 400, "input.bad", "Missing required query parameter 'from'"),
        (
            "cam/compare?from=1.0.0&to=1.2.0",
            400,
            "input.bad",
            "are not there for the same platform",
        ),
        (
            "cam/compare?from=1.0.0&to=1.1.0&platform=any",
            400,
            "input.bad",
            "platform: cam 1.0.0 and 1.1.0 are not both there for any; both are there for linux-aarch64, linux-armv7l",
        ),
        (
            "cam/compare?from=1.0.0&to=1.1.0&platform=linux-arm64",
            400,
            "input.bad",
            "platform: no device calls itself linux-arm64; it is linux-aarch64 here; both are there for linux-aarch64",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_problem(app: Application, query: str, status: int, code: str, said: str) -> None:
    problem = ask(app, query, status)
    assert problem["code"] == code
    assert said in problem["detail"]


def test_it_is_described(app: Application) -> None:
    described = app.client.get("/api/docs/openapi.json").json()
    operation = described["paths"]["/api/v1/packages/{name}/compare"]["get"]
    assert {one["name"]: one["required"] for one in operation["parameters"]} == {
        "name": True,
        "from": True,
        "to": True,
        "platform": False,
        "after": False,
        "limit": False,
    }
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert answer.rpartition("/")[2] == "ComparisonView"
